"""Folds count what they say; whether their intervals cover what they claim: tests/test_coverage.py."""

from __future__ import annotations

import numpy as np
import pytest

from robassay.errors import UsageError
from robassay.folds import (
    Accuracy,
    Agreement,
    Difference,
    Distortion,
    EveryDraw,
    Gap,
    Majority,
    Refused,
    Rows,
    Success,
    WorstCase,
    rows,
    worst,
)
from robassay.intervals import ahead, difference, images_for, rate, student
from robassay.seeds import Highest, Lowest, Seeds
from robassay.thawed import thaw


def evaluation(wrong: np.ndarray, attacked: bool = True, shared: bool = False) -> Rows:
    """Decisions (R, N) from a matrix that is 1 where the defender errs; the true label is 0."""
    n = wrong.shape[1]
    size = np.full(n, 0.1 if attacked else 0.0)
    zero = np.zeros(n)
    return Rows(
        wrong.astype(np.int16), np.zeros(n, np.int64), np.zeros(n, np.int64), shared, size, size * 10, zero, zero
    )


def test_a_difference_of_nothing_is_not_sure():
    same = np.ones((1, 200))
    assert difference(same, same).value == 0 and 0.005 < difference(same, same).high < 0.03
    assert difference(same, same).low == -difference(same, same).high


def test_wilson_of_a_deterministic_model():
    """60 of 200: Wilson's limits with Student's t of 199 degrees, from the textbook formula."""
    t, p, n = 1.97196, 0.3, 200
    centre, half = p + t**2 / (2 * n), t * np.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
    found = rate((np.arange(200) < 60).astype(float)[None])
    assert found.value == pytest.approx(0.3) and found.n == 200
    assert found.low == pytest.approx((centre - half) / (1 + t**2 / n), abs=2e-4)
    assert found.high == pytest.approx((centre + half) / (1 + t**2 / n), abs=2e-4)


def test_one_success_of_many_has_the_one_sided_limit():
    """χ² of 2 degrees: one of n is reached in 5 % by a mean of .0513, not by Wilson's .17."""
    found = rate((np.arange(1000) < 1).astype(float)[None])
    assert 0 < found.low < 0.0000513 * 1.02
    assert rate((np.arange(1000) >= 1).astype(float)[None]).high == pytest.approx(1 - found.low)


def width(value: float, n: int, draws: int = 1) -> float:
    """Of the interval of a deterministic model that is right on value · n of n images."""
    right = (np.arange(n) < round(value * n)).astype(float)
    found = rate(np.tile(right, (draws, 1)))
    return found.high - found.low


@pytest.mark.parametrize(("wanted", "value"), [(0.1, 0.5), (0.06, 0.5), (0.06, 0.1), (0.2, 0.9)])
def test_so_many_images_have_the_width_and_fewer_do_not(wanted, value):
    n = images_for(wanted, value)
    ten = -(-n // 10) * 10  # where value · n is a whole number
    assert width(value, ten) <= wanted < width(value, ten - 20)
    assert images_for(wanted, value, draws=20) == n  # of all or nothing, further draws say nothing


def test_draws_help_where_images_are_alike():
    rng = np.random.default_rng(3)
    n = images_for(0.08, 0.4, draws=10, correlation=0.25)  # a beta distribution of a + b = 3 has 1/(1 + 3)
    chance = rng.beta(1.2, 1.8, (200, n))
    found = [rate((rng.random((10, n)) < one).astype(float)) for one in chance]
    assert np.mean([e.high - e.low for e in found]) == pytest.approx(0.08, rel=0.01)
    assert n < 0.4 * images_for(0.08, 0.4)
    # Ten independent draws of n images are as good as 10 n images but for t, which is of n − 1.
    assert images_for(0.08, 0.4, 10, 0.0) == pytest.approx(images_for(0.08, 0.4) / 10, rel=0.05)


@pytest.mark.parametrize(
    "given", [{"width": 0.0}, {"width": 1.0}, {"width": 0.1, "rate": 1.2}, {"width": 0.1, "draws": 0}]
)
def test_images_for_no_interval_are_refused(given):
    with pytest.raises(UsageError, match="asks for no interval"):
        images_for(**given)


def test_the_spread_of_seeds_is_part_of_their_interval():
    """Three seeds that survive 3, 2 and 1 of four images."""
    wrong = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]])
    made = [evaluation(one[None]) for one in wrong]
    found = Seeds()(made)
    assert found.value == pytest.approx(0.5) and found.n == 4
    assert Lowest()(made).value == 0.25 and Highest()(made).value == 0.75
    alone = rate(1.0 - wrong[:1])
    assert Highest()(made) == alone and found.high - found.low > alone.high - alone.low
    same = Seeds()([made[0]] * 3)
    assert same == alone._replace(n=4), "equal seeds are no more than one"


def test_seeds_are_judged_under_the_worst_of_their_own_attacks():
    wrong = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    made = [evaluation(one[None]) for one in wrong]
    assert Seeds(2)(made).value == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert Lowest(2)(made).value == 1 / 4 and Highest(2)(made).value == 2 / 4
    with pytest.raises(UsageError, match="4 evaluations are no whole number of seeds with 3"):
        Seeds(3)(made)
    with pytest.raises(UsageError, match="one seed says nothing"):
        Seeds(4)(made)


def test_what_cannot_be_paired_is_refused():
    one = evaluation(np.zeros((1, 4)))
    for other in (evaluation(np.zeros((1, 3))), one._replace(labels=np.arange(4))):
        for fold in (Difference(), Gap(), WorstCase(), Success(), Seeds(), Agreement()):
            with pytest.raises(UsageError, match="different images"):
                fold([one, other])


@pytest.mark.parametrize("block", [None, np.arange(60) // 30])
def test_with_one_trial_per_image_the_difference_of_ratios_is_that_of_rates(block):
    rng = np.random.default_rng(1)
    one, other = (rng.random((5, 60)) < 0.6).astype(float), (rng.random((3, 60)) < 0.4).astype(float)
    trials = np.ones(60)
    assert ahead(([one], trials), ([other], trials), block) == pytest.approx(difference(one, other, block))


def test_rate_of_nothing_is_nothing():
    assert rate(np.zeros((3, 0))).n == 0 and np.isnan(rate(np.zeros((3, 0))).value)
    assert np.isnan(difference(np.zeros((3, 0)), np.zeros((3, 0))).value)


def test_extreme_rates_have_intervals():
    none = rate(np.zeros((20, 200)))
    assert (none.value, none.low) == (0, 0) and 0.01 < none.high < 0.03
    every = rate(np.ones((20, 200)))
    assert (every.value, every.high) == (1, 1) and 0.97 < every.low < 0.99


def test_agreement_and_refusals_do_not_look_at_labels():
    one, other = np.array([[1, 2, -1, 0], [1, 0, -1, 3]]), np.array([[1, 2, 3, 3], [0, 0, 0, 0]])
    assert Agreement()([evaluation(one), evaluation(other)]).value == (2 + 2) / 8
    assert Refused()([evaluation(one, attacked=False)]).value == Refused()([evaluation(one)]).value == 2 / 8
    assert Refused()([evaluation(other)]).value == 0
    assert isinstance(thaw({"type": "Agreement"}), Agreement) and isinstance(thaw({"type": "Refused"}), Refused)


def test_worst_case_finds_the_per_example_winner():
    first, second = np.zeros((20, 100)), np.zeros((20, 100))
    first[:, :50], second[:, 50:] = 1, 1
    assert Accuracy()([evaluation(first)]).value == 0.5
    assert WorstCase()([evaluation(first), evaluation(second)]).value == 0


def test_worst_case_of_deterministic_evaluations_is_the_minimum_and_mixes_with_random_ones():
    fixed = np.array([[1, 0, 0, 0]])
    random = np.tile([[0, 1, 0, 0]], (20, 1))
    assert worst([evaluation(fixed)]).mean(0).tolist() == [0, 1, 1, 1]
    assert worst([evaluation(fixed), evaluation(random)]).mean(0).tolist() == [0, 0, 1, 1]


def test_gap_and_difference_are_paired():
    usual, strong = np.zeros((1, 100)), np.zeros((1, 100))
    strong[:, :30] = 1
    pair = [evaluation(usual), evaluation(strong)]
    assert Gap()(pair).value == pytest.approx(0.3)
    assert Difference()(pair[::-1]).value == pytest.approx(-0.3)


def test_success_counts_only_examples_that_are_right_when_clean():
    clean, attacked = np.zeros((1, 10)), np.zeros((1, 10))
    clean[:, :5], attacked[:, :7] = 1, 1
    assert Success()([evaluation(attacked), evaluation(clean, attacked=False)]).value == pytest.approx(0.4)


def test_rejection_is_an_error_on_clean_images_and_a_defence_on_attacked_ones():
    refused = np.full((1, 10), -1)
    assert Accuracy()([evaluation(refused, attacked=False)]).value == 0
    assert Accuracy()([evaluation(refused, attacked=True)]).value == 1


def test_majority_and_every_draw_have_their_own_names():
    wrong = np.zeros((20, 10))
    wrong[0] = 1
    assert Majority()([evaluation(wrong)]).value == 1
    assert EveryDraw()([evaluation(wrong)]).value == 0
    assert Accuracy()([evaluation(wrong)]).value == pytest.approx(0.95)
    assert Distortion()([evaluation(1 - wrong)]).value == pytest.approx(1.0)


def test_rows_joins_slices_and_keeps_their_blocks_apart():
    part = {
        "decisions": np.zeros((3, 4), np.int16),
        "labels": np.zeros(4, np.int64),
        "block": np.zeros(4, np.int64),
        "shared": np.array(1, np.uint8),
        "linf": np.ones(4),
        "l2": np.ones(4),
    }
    joined = rows([part, part])
    assert joined.decisions.shape == (3, 8)
    assert joined.block.tolist() == [0] * 4 + [1] * 4
    assert joined.shared and joined.queries.tolist() == [0.0] * 8


def test_student_matches_tables():
    for freedom, value in ((4, 2.776), (10, 2.228), (30, 2.042), (199, 1.972)):
        assert student(freedom) == pytest.approx(value, rel=5e-3)


def test_folds_survive_freezing():
    assert thaw({"type": "WorstCase"}) == WorstCase()
