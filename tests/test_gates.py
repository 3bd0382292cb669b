"""Gated transfer against a recount by loops; what cannot be counted is empty, not zero."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robassay.errors import UsageError
from robassay.folds import REJECT, Rows
from robassay.gates import Gated, Rotations
from robassay.thawed import thaw

N, REPEATS = 30, 4


def evaluations(count: int, n: int = N, repeats: int = REPEATS, seed: int = 0) -> list[Rows]:
    """Random decisions of 4 classes, some rejections, some unchanged images, some wanted classes; L2 of 1 to 5."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    wanted = np.where(rng.random(n) < 0.5, (labels + 1) % 4, -1)
    linf = np.where(rng.random(n) < 0.15, 0.0, 0.1)
    l2, zero = np.where(linf > 0, rng.integers(1, 6, n), 0).astype(float), np.zeros(n)
    chance = rng.random(n)
    found = []
    for _ in range(count):
        hit = np.where(wanted >= 0, wanted, (labels + 2) % 4)
        decisions = np.where(rng.random((repeats, n)) < chance, hit, labels)
        decisions = np.where(rng.random((repeats, n)) < 0.1, REJECT, decisions)
        found.append(Rows(decisions.astype(np.int16), labels, zero.astype(int), False, linf, l2, zero, zero, wanted))
    return found


def fools(one: Rows, draw: int, image: int) -> bool:
    """Written out: what a reader of the paper would count."""
    decided = int(one.decisions[draw, image])
    if one.linf[image] == 0 or decided == REJECT:
        return False
    wanted = -1 if one.targets is None else int(one.targets[image])
    return decided == wanted if wanted >= 0 else decided != int(one.labels[image])


def recount(groups: list[list[Rows]], pass_at: int, above: float, low: float, high: float, rotate: bool):
    """Successes over trials by loops over groups, targets, images and draws; images with a trial."""
    successes, trials, images = 0.0, 0, set()
    for group in groups:
        for i in range(len(group) if rotate else 1):
            for image in range(len(group[0].labels)):
                passed = 0
                for j, gate in enumerate(group):
                    draws = len(gate.decisions)
                    passed += j != i and sum(fools(gate, d, image) for d in range(draws)) / draws > above
                target = group[i]
                if passed < pass_at or target.linf[image] == 0 or not low < target.l2[image] <= high:
                    continue
                trials += 1
                images.add(image)
                draws = len(target.decisions)
                successes += sum(fools(target, d, image) for d in range(draws)) / draws
    return successes / trials if trials else math.nan, len(images)


@pytest.mark.parametrize("pass_at", [0, 1, 3])
@pytest.mark.parametrize("above", [0.5, 0.25])
@pytest.mark.parametrize("within", [(0.0, math.inf), (1.0, 3.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_rates_equal_a_recount(pass_at, above, within, seed):
    made = evaluations(4, seed=seed)
    value, n = recount([made], pass_at, above, *within, rotate=False)
    found = Gated(pass_at, above, within)(made)
    assert (found.value, found.n) == (pytest.approx(value, nan_ok=True), n)
    both = [*made, *evaluations(4, seed=seed)[::-1]]
    value, n = recount([both[:4], both[4:]], pass_at, above, *within, rotate=True)
    found = Rotations(4, pass_at, above, within)(both)
    assert (found.value, found.n) == (pytest.approx(value, nan_ok=True), n)
    assert found.low <= found.value <= found.high or found.n == 0


def test_eight_evaluations_are_eight_rotations():
    """Model i fools image i alone, and every image fools model 8: each rotation is told apart by hand."""
    n = 7
    labels, zero = np.zeros(n, int), np.zeros(n)
    size = np.full(n, 0.1)
    wrong = [np.eye(n, dtype=np.int16)[i][None] for i in range(n)] + [np.ones((1, n), np.int16)]
    made = [Rows(w, labels, labels, False, size, size, zero, zero) for w in wrong]
    # At 1 of 7: target 8 is gated by model i on image i, so 7 trials, all hit. Target i is gated by model 8 on all
    # images: 7 trials, image i alone is a hit.
    found = Rotations(8, 1)(made)
    assert found.value == pytest.approx((7 + 7 * 1) / (7 + 7 * 7)) and found.n == 7
    # At 2 of 7 target i needs model 8 and another that is fooled: every image but i. No hit; target 8 has no trial.
    found = Rotations(8, 2)(made)
    assert found.value == 0 and found.n == 7
    assert Rotations(8, 3)(made).n == 0
    assert Rotations(8, 0)(made).value == pytest.approx((7 + 7) / (8 * 7))


def test_deterministic_and_stochastic_models_mix():
    made = [*evaluations(2), *evaluations(2, repeats=1)]
    value, n = recount([made], 1, 0.5, 0, math.inf, rotate=True)
    found = Rotations(4, 1)(made)
    assert found.value == pytest.approx(value) and found.n == n


def test_nothing_that_passes_is_empty_and_not_zero():
    made = evaluations(3)
    right = made[0]._replace(decisions=np.tile(made[0].labels, (REPEATS, 1)).astype(np.int16))
    for found in (Gated(1)([made[0], right]), Rotations(2, 1)([right, right]), Gated(0, within=(5, 6))([made[0]])):
        assert found.n == 0 and math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)
    unchanged = [one._replace(linf=np.zeros(N), l2=np.zeros(N)) for one in made]
    assert Gated(0)(unchanged[:1]).n == 0


def test_a_target_that_always_rejects_is_never_fooled_and_opens_no_gate():
    made = evaluations(2)
    silent = made[0]._replace(decisions=np.full((REPEATS, N), REJECT, np.int16))
    found = Gated(1)([silent, made[1]])
    assert found.value == 0 and found.n > 0 and 0 < found.high < 0.5
    assert Gated(1)([made[0], silent]).n == 0


def test_distances_are_counted_from_above_the_lower_end_to_the_upper():
    only = evaluations(1)[0]
    for low, high in ((1, 3), (0, 1), (4, 5)):
        counted = sum(low < d <= high for d in only.l2)
        assert Gated(0, within=(low, high))([only]).n == counted > 0
    parts = [Gated(0, within=w)([only]).n for w in ((0, 2), (2, 4), (4, math.inf))]
    assert sum(parts) == Gated(0)([only]).n == int((only.linf > 0).sum())


def test_unequal_images_are_refused():
    one, other = evaluations(2)
    with pytest.raises(UsageError, match="different images"):
        Gated(1)([one, *evaluations(1, n=N - 1)])
    with pytest.raises(UsageError, match="different images"):
        Rotations(2, 1)([one, other._replace(labels=other.labels[::-1])])


def test_a_gate_that_cannot_be_met_is_refused():
    with pytest.raises(UsageError, match="pass_at=3 of the 2"):
        Rotations(3, 3)
    with pytest.raises(UsageError, match="no whole number of groups of 3"):
        Rotations(3, 1)(evaluations(4))


def test_gates_survive_freezing():
    fold = thaw({"type": "Rotations", "size": 8, "pass_at": 5, "above": 0.5, "within": [0.0, 2.0]})
    assert fold == Rotations(8, 5, within=(0.0, 2.0))
