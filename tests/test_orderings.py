"""Orderings under many attacks: by hand on constructed decisions, and sign by sign."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from robassay.calm import Spread, Steadier, Steady
from robassay.contrasts import Farther
from robassay.errors import UsageError
from robassay.folds import Rows, padded
from robassay.gates import Crossed
from robassay.orderings import (
    Fading,
    Fooled,
    Longer,
    NoData,
    Passing,
    Pooled,
    Ranked,
    union,
)
from robassay.thawed import thaw

TARGET = 7


def attacked(hits, l2=1.0, draws: int = 4, target: int = TARGET) -> Rows:
    """Images of label 1 that an attack aims at 7; ``hits``: share of the draws in which each gets there."""
    hits = np.asarray(hits, float)
    n = len(hits)
    size = np.broadcast_to(np.asarray(l2, float), (n,)).copy()
    decided = np.where(np.arange(draws)[:, None] < np.round(hits * draws)[None], target, 1).astype(np.int16)
    zero = np.zeros(n)
    labels = np.ones(n, int)
    return Rows(decided, labels, zero.astype(int), False, (size > 0) * 0.1, size, zero, zero, np.full(n, target))


def decided(classes) -> Rows:
    """Decisions (draws, images) about images that nobody attacks."""
    found = np.asarray(classes, np.int16)
    zero = np.zeros(found.shape[1])
    return Rows(found, np.ones(found.shape[1], int), zero.astype(int), False, zero, zero, zero, zero)


def test_what_an_evaluation_lacks_is_no_trial_and_other_images_are_refused():
    short, long = attacked([1, 1]), attacked([0, 0, 1, 1])
    one, other = padded([short, long])
    assert one.fooled().mean(0).tolist() == [1, 1, 0, 0] and one.linf.tolist() == [0.1, 0.1, 0, 0]
    assert other is long and one.decisions.shape == (4, 4) and one.targets.tolist() == [7, 7, -1, -1]
    assert (one.survives()[:, 2:] == 1).all() and one.block.tolist() == [0, 0, 0, 0]
    with pytest.raises(UsageError, match="different images"):
        padded([short._replace(labels=np.array([1, 2])), long])


def test_a_column_is_ahead_of_another_by_its_gated_rates():
    """One attack, two targets, two gates. Images 0 and 1 pass one other gate; target rates 1 against .5 of them."""
    gates = [attacked([1, 1, 0]), attacked([1, 1, 0])]
    weak, strong = [attacked([1, 1, 1])] * 2, [attacked([1, 0, 1])] * 2
    column = {"weak": [*weak, *gates], "strong": [*strong, *gates]}
    fold = Passing((4, 4), 2, ((0, 1),), (0.0,), pass_at=1)
    found = fold([*column["weak"], *column["strong"]])
    assert found.value == pytest.approx(0.5) and found.n == 2
    assert fold([*column["strong"], *column["weak"]]).value == pytest.approx(-0.5)
    nearly = Passing((4, 4), 2, ((1, 0),), (0.6,), pass_at=1)
    assert nearly([*column["weak"], *column["strong"]]).value == pytest.approx(0.1)
    both = Passing((4, 4), 2, ((0, 1), (1, 0)), (0.0, 0.0), pass_at=1)
    assert both([*column["weak"], *column["strong"]]).value == pytest.approx(-0.5)
    assert Crossed(2, 1)(column["strong"]).value == pytest.approx(0.5)
    far = dataclasses.replace(fold, within=(0.0, 0.9))
    assert far([*column["weak"], *column["strong"]]).n == 0


def test_the_worst_attack_counts_within_its_distance_and_is_not_chosen_by_its_own_luck():
    near, far = attacked([1, 0, 0.5, 0], 1.0), attacked([0, 1, 0.5, 0], 3.0)
    assert union([near, far], 1, (0.0, 5.0))[0].tolist() == [1, 1, 0.5, 0]
    assert union([near, far], 1, (0.0, 2.0))[0].tolist() == [1, 0, 0.5, 0]
    assert union([near, far], 2, (0.0, 5.0))[0].tolist() == [0.5, 0.5, 0.5, 0]  # two models, one attack each
    rng = np.random.default_rng(0)
    lucky = [attacked(np.zeros(400))._replace(decisions=np.where(rng.random((2, 400)) < 0.2, 7, 1).astype(np.int16))
             for _ in range(8)]  # fmt: skip
    assert union(lucky, 1, (0.0, 5.0)).mean() == pytest.approx(0.2, abs=0.06)
    fold = Fooled((2, 1), (1, 1), ((0, 1),), (0.0,), (0.0, 5.0))
    assert fold([near, far, near]).value == pytest.approx(0.25) and fold([near, far, near]).n == 4
    with pytest.raises(UsageError, match="not as many for each"):
        Fooled((3,), (2,), ((0, 0),), (0.0,))
    with pytest.raises(UsageError, match="no comparisons"):
        Fooled((1, 1), (1, 1), ((0, 2),), (0.0,))


def test_a_lead_that_fades_is_a_difference_of_leads_in_two_data_sets():
    grey = [attacked([1] * 20), attacked([0] * 20)]
    colour = [attacked([1] * 10), attacked([1] * 5 + [0] * 5)]
    worst = Fading((1, 1, 1, 1), (1, 1), (-1, -1), ((0.0, 2.0), (0.0, 2.0)))
    found = worst([*grey, *colour])
    assert found.value == pytest.approx(0.5) and found.n == 10 and found.low < 0.5 < found.high
    assert worst([*colour, *grey]).value == pytest.approx(-0.5)
    one = Fooled((1, 1), (1, 1), ((0, 1),), (0.0,), (0.0, 2.0))
    a, b = one(grey), one(colour)
    assert found.low == pytest.approx(0.5 - math.hypot(a.value - a.low, b.high - b.value))
    gated = Fading((2, 2, 2, 2), (1, 1), (0, 0), ((0.0, 2.0), (0.0, 2.0)))
    twice = [one for rows in (*grey, *colour) for one in (rows, rows)]
    assert gated(twice).value == pytest.approx(0.5)
    assert gated([*twice[:4], *[attacked([1] * 10, 0.0)] * 4]).n == 0


def test_strategies_are_ranked_by_the_lesser_step():
    """Joint .5 over four images; the two that pass the other's gate are fooled always; alone .25."""
    joint = [attacked([1, 1, 0, 0])] * 2
    single = [attacked([1, 0, 0, 0])] * 2
    found = Ranked(2, 2, 1)([*joint, *single])
    assert found.value == pytest.approx(0.25)
    assert Ranked(2, 2, 1)([*single, *joint]).value == pytest.approx(-0.25)
    assert Pooled(2)([*joint, attacked([1]), attacked([1])]).value == pytest.approx((4 + 2) / (8 + 2))
    assert Pooled(2, 1)([*joint, *single]).value == pytest.approx(1.0)


def test_changes_are_longer_where_the_shortest_that_works_is():
    """Distances of the first: 2, 1 (of two attacks), none, none; of the other: 1, 3, 1, none."""
    first = [attacked([1, 1, 0, 0], [2, 3, 1, 1]), attacked([0.25, 1, 0, 0], [0.5, 1, 1, 1])]
    other = [attacked([1, 1, 1, 0], [1, 3, 1, 1])]
    fold = Longer((2, 1), (1, 1), ((0, 1),))
    assert fold([*first, *other]).value == pytest.approx((1 - 1 + 1 + 0) / 4)
    back = Longer((1, 2), (1, 1), ((0, 1),))
    assert back([*other, *first]).value == pytest.approx(-1 / 4)
    joint = Longer((2, 1), (2, 1), ((0, 1),))  # both models must be fooled: images 0, 2 and 3 are not
    assert joint([*first, *other]).value == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert fold([first[0], first[1], attacked([1, 1], [1, 4])]).n == 2


def test_nothing_found_in_a_pair_leaves_a_comparison_of_sizes_open():
    found = Farther((1, 1, 1, 1))(
        [attacked([1] * 3, 2.0), attacked([1] * 3, 1.0), attacked([1] * 3, 0.0), attacked([1])]
    )
    assert found.n == 0 and math.isnan(found.value)
    apart = Farther((1, 1, 1, 1))(
        [attacked([1] * 9, 2.0), attacked([1] * 9, 1.0), attacked([1] * 4, 3.0), attacked([1] * 4)]
    )
    assert apart.value == pytest.approx(1.0) and apart.n == 4


def test_stability_is_averaged_over_models_and_compared_by_image():
    clean = decided([[1, 1, 2, 2]])
    same, half = decided([[1, 1, 2, 2]]), decided([[1, 1, 3, 3]])
    assert Steady()([same, clean, half, clean]).value == pytest.approx(0.75)
    fold = Steadier((4, 2), ((0, 1),))
    assert fold([same, clean, half, clean, half, clean]).value == pytest.approx(0.25)
    assert Steadier((2, 4), ((0, 1),))([half, clean, same, clean, half, clean]).value == pytest.approx(-0.25)
    rates = [1.0, 0.5]
    own = Spread((4,))([same, clean, half, clean])
    assert own.value == pytest.approx(np.std(rates, ddof=1)) and own.n == 4
    calm = Spread((4, 4), ((0, 1),))([same, clean, same, clean, same, clean, half, clean])
    assert calm.value == pytest.approx(np.std(rates, ddof=1))
    left = [np.std([1.0, m], ddof=1) for m in (1 / 3, 1 / 3, 2 / 3, 2 / 3)]
    var = 3 / 4 * np.sum((np.array(left) - np.mean(left)) ** 2)
    assert own.high - own.value == pytest.approx(3.182 * math.sqrt(var), rel=0.02)
    with pytest.raises(UsageError, match="two models"):
        Spread((2,))


def test_folds_survive_freezing_and_nothing_is_nothing():
    folds = (
        Passing((4, 4), 2, ((0, 1), (1, 0)), (0.0, 0.1), 1),
        Fading((1, 1, 1, 1), (1, 1), (-1, 0), ((0.0, 2.0), (0.0, 1.0))),
        Longer((2, 1), (1, 1), ((0, 1),)),
        Ranked(2, 2, 1),
        NoData(),
    )
    for fold in folds:
        told = {"type": type(fold).__name__, **dataclasses.asdict(fold)}
        assert thaw(json.loads(json.dumps(told))) == fold
    assert NoData()([]).n == 0 and math.isnan(NoData()([]).value)
