"""Orderings as numbers: leads counted by hand, their signs, what is left out, and the worst of several attacks."""

from __future__ import annotations

import numpy as np
import pytest

from robassay.errors import UsageError
from robassay.folds import Rows, Success
from robassay.intervals import difference, rate
from robassay.leads import Boxes, Carried, Leads, Passed, PerPixel, Union
from robassay.study import Measure
from robassay.thawed import thaw


def made(decisions, l2=1.0) -> Rows:
    """Decisions (R, N) about images whose label is 0; those of size 0 are unchanged."""
    decisions = np.atleast_2d(np.asarray(decisions, dtype=np.int16))
    n = decisions.shape[1]
    size, none = np.broadcast_to(np.asarray(l2, dtype=float), n), np.zeros(n)
    return Rows(decisions, none.astype(int), none.astype(int), False, size, size, none, none, np.full(n, -1))


def hits(count: int, n: int = 40, l2=1.0) -> Rows:
    """The first ``count`` of ``n`` images are fooled."""
    return made(np.arange(n) < count, l2)


RIGHT = made(np.zeros(40), 0.0)
ONE = ("more",), (0.0,)


def test_more_is_the_difference_of_two_success_rates_with_its_sign() -> None:
    for first, second, low_is_above in ((30, 10, True), (10, 30, False)):
        found = Leads(*ONE)([hits(first), RIGHT, hits(second), RIGHT])
        assert found.value == pytest.approx((first - second) / 40) and found.n == 40
        assert (found.low > 0) == low_is_above and (found.high < 0) != low_is_above
    assert found == difference(hits(10).fooled(), hits(30).fooled())


def test_only_images_count_that_both_models_get_right_and_unchanged_ones_are_failures() -> None:
    wrong = made(np.arange(40) < 10, 0.0)
    found = Leads(*ONE)([hits(30), wrong, hits(10), RIGHT])
    assert (found.value, found.n) == (pytest.approx(20 / 30), 30)
    assert Leads(*ONE)([hits(10), RIGHT, hits(30), wrong]).value == pytest.approx(-20 / 30)
    unmoved = hits(30, l2=np.where(np.arange(40) < 20, 0.0, 1.0))
    assert Leads(*ONE)([unmoved, RIGHT, hits(0), RIGHT]).value == pytest.approx(10 / 40)


def test_shorter_compares_sizes_where_both_succeed() -> None:
    near, far = hits(30, l2=1.0), hits(20, l2=np.where(np.arange(40) < 5, 0.5, 2.0))
    found = Leads(("shorter",), (0.0,))([near, RIGHT, far, RIGHT])
    assert found.value == pytest.approx((15 - 5) / 20) and found.n == 20  # the fooled of both; in 5 the other is nearer
    assert Leads(("shorter",), (0.0,))([far, RIGHT, near, RIGHT]).value == pytest.approx(-0.5)
    assert Leads(("shorter",), (0.0,))([near, RIGHT, hits(0), RIGHT]).n == 0


def test_sure_is_what_success_lacks_and_an_allowance_is_added_to_all_three_numbers() -> None:
    plain, ninety = rate(hits(38).fooled()), Leads(("sure",), (0.1,))([hits(38), RIGHT, hits(1), RIGHT])
    assert tuple(ninety)[:3] == pytest.approx([v - 0.9 for v in plain[:3]])
    almost = Leads(("more",), (0.2,))([hits(10), RIGHT, hits(16), RIGHT])
    assert almost.value == pytest.approx(0.05)


def test_the_least_lead_is_shown_and_spared_ones_are_left_out() -> None:
    sides = [[hits(30), RIGHT, hits(k), RIGHT] for k in (10, 35, 20)]
    leads = [Leads(*ONE)(side) for side in sides]
    assert leads[1].value < 0 < leads[2].value < leads[0].value
    joined = [rows for side in sides for rows in side]
    kinds = ("more",) * 3
    assert Leads(kinds, (0.0,) * 3)(joined) == leads[1]
    assert Leads(kinds, (0.0,) * 3, spare=1)(joined) == leads[2]
    assert Leads(kinds, (0.0,) * 3, spare=2)(joined) == leads[0]
    # What is allowed something is never spared.
    assert Leads(kinds, (0.0, 0.05, 0.0), spare=1)(joined).value == pytest.approx(-0.125 + 0.05)
    assert Leads(kinds, (0.0,) * 3)([*joined[:8], hits(0), made(np.ones(40), 0.0), hits(0), RIGHT]).n == 0


def test_of_several_attacks_on_a_side_the_worst_per_image_counts() -> None:
    low, high = made(np.arange(40) < 10), made(np.arange(40) >= 25)
    both = Union()([low, high, RIGHT])
    assert both == rate(made((np.arange(40) < 10) | (np.arange(40) >= 25)).fooled())
    assert Union()([low, RIGHT]) == Success()([low, RIGHT])
    found = Leads(*ONE, of=2)([low, high, RIGHT, low, low, RIGHT])
    assert found.value == pytest.approx(15 / 40)
    # An attack that left an image alone has not broken it, though a random model may err there by itself.
    idle = made(np.ones((2, 40)), 0.0)
    assert Union()([low, idle, RIGHT]).value == pytest.approx(0.25)


def test_sizes_are_per_value_and_of_images_that_are_right_and_fooled_at_least_once() -> None:
    sizes = np.arange(40, dtype=float)
    attacked = made(np.stack([np.arange(40) < 3, np.arange(40) < 5]), sizes)
    clean = made(np.arange(40) == 4, 0.0)
    found = PerPixel(784)([attacked, clean])
    assert found.n == 3 and found.value == pytest.approx(1000 * (1 + 2 + 3) / 3 / 784)  # size 0 is no change


def test_what_is_no_list_of_comparisons_is_refused() -> None:
    for given in (
        {"kinds": ("more", "sure"), "allowed": (0.0,)},
        {"kinds": ("less",), "allowed": (0.0,)},
        {"kinds": ("more",), "allowed": (-0.1,)},
        {"kinds": ("more",), "allowed": (0.0,), "spare": 1},
        {"kinds": (), "allowed": ()},
    ):
        with pytest.raises(UsageError):
            Leads(**given)
    with pytest.raises(UsageError, match="3 evaluations"):
        Leads(*ONE)([RIGHT, RIGHT, RIGHT])


def four(target: Rows, gate: Rows, clean: Rows = RIGHT, its: Rows = RIGHT) -> list[Rows]:
    return [target, clean, gate, its]


def test_what_is_carried_is_over_images_that_fool_the_gate_and_were_right_on_both() -> None:
    """30 fool the gate, 9 of them the target. Wrong when clean: 3 of these 9 on the target, 5 others on the gate."""
    assert Carried()(four(hits(9), hits(30))) == rate(made(np.arange(30) < 9).fooled())
    wrong, its = made(np.arange(40) < 3, 0.0), made((np.arange(40) >= 20) & (np.arange(40) < 25), 0.0)
    found = Carried()(four(hits(9), hits(30), wrong, its))
    assert (found.value, found.n) == (pytest.approx(6 / 22), 22)
    unmoved = hits(30, l2=np.where(np.arange(40) < 3, 0.0, 1.0))
    assert Carried()(four(hits(9), unmoved)).value == pytest.approx(6 / 27)
    half = made(np.stack([np.arange(40) < 30, np.arange(40) < 10]))
    assert Carried()(four(hits(9), half)).value == pytest.approx(9 / 10)
    assert Carried(0.4)(four(hits(9), half)).value == pytest.approx(9 / 30)
    assert Carried()(four(hits(9), hits(0))).n == 0


def test_of_gated_comparisons_the_least_is_told_and_allowances_are_added() -> None:
    """.3 and .1, one way round and the other."""
    three, one = four(hits(9), hits(30)), four(hits(2), hits(20))
    assert Passed((0.0,))([*three, *one]).value == pytest.approx(0.2) and Passed((0.0,))([*three, *one]).n == 20
    sides = [*three, *one, *one, *three]
    assert Passed((0.0, 0.0))(sides).value == pytest.approx(-0.2)
    assert Passed((0.0, 0.3))(sides).value == pytest.approx(0.1)
    assert Passed((0.0, 0.0), spare=1)(sides).value == pytest.approx(0.2)
    assert Passed((0.0,))([*four(hits(9), hits(0)), *one]).n == 0 and Passed((0.0,))([]).n == 0
    for given in ((), (-0.1,)):
        with pytest.raises(UsageError):
            Passed(given)
    with pytest.raises(UsageError, match="8 evaluations"):
        Passed((0.0, 0.0))(sides[:8])


def test_boxes_compare_medians_and_quartiles_over_settings() -> None:
    """Rates .5 .6 .7 against .1 .5 .9: median .6 − .5, range between quartiles .4 − .1."""
    settings = [(20, 4), (24, 20), (28, 36)]
    evaluations = [rows for a, b in settings for rows in (hits(a), hits(b), RIGHT)]
    assert Boxes((0, 0, 0), "median")(evaluations).value == pytest.approx(0.1)
    assert Boxes((0, 0, 0), "spread")(evaluations).value == pytest.approx(0.3)
    both = Boxes((0, 0, 0))(evaluations)
    assert both.value == pytest.approx(0.1) and both.n == 40 and both.low < 0.1 < both.high
    backwards = [rows for a, b in settings for rows in (hits(b), hits(a), RIGHT)]
    assert Boxes((0, 0, 0))(backwards).value == pytest.approx(-0.3)
    assert both == Boxes((0, 0, 0))(evaluations), "the bootstrap is the same every time"


def test_boxes_draw_images_of_a_group_together_and_leave_out_what_was_wrong() -> None:
    """Where both ways are fooled by the same images their difference does not vary, however the images are drawn."""
    same = [rows for k in (10, 20) for rows in (hits(k), hits(k), RIGHT)]
    found = Boxes((0, 0), "median")(same)
    assert tuple(found)[:3] == (0.0, 0.0, 0.0)
    wrong = made(np.arange(40) < 10, 0.0)
    assert Boxes((0,), "median")([hits(30), hits(10), wrong]).value == pytest.approx(20 / 30)
    assert Boxes((0,))([hits(30), hits(10), made(np.ones(40), 0.0)]).n == 0
    assert Boxes((0, 1))([hits(30), hits(10), RIGHT, hits(3, 20), hits(1, 20), made(np.zeros(20), 0.0)]).n == 60
    with pytest.raises(UsageError, match="told='both'"):
        Boxes((), "both")


def test_a_frozen_lead_is_read_as_it_was_written() -> None:
    fold = Leads(("more", "shorter"), (0.0, 0.1), spare=0, of=2)
    assert thaw(Measure((), fold).freeze()["fold"]) == fold
    for one in (PerPixel(784), Carried(0.75), Passed((0.0, 0.2), 0, 0.75), Boxes((0, 1), "spread")):
        assert thaw(Measure((), one).freeze()["fold"]) == one
