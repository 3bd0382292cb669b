"""Nominal 95 % intervals cover what they claim, in simulations of 2,000 repetitions.

Every image has a chance of its own, from a beta distribution whose ``spread`` is the sum of its two parameters: at 0
each image is all or nothing, at 0.2 nearly so, at 20 all are nearly alike. ``None``: all alike. Between .05 and .95
and from 200 images on 93-97 % of the intervals must hold the truth; elsewhere at least 93 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from robassay.folds import Accuracy, Difference, Fold, Gap, Rows, Success, WorstCase
from robassay.gates import Gated, Lead, Rotations
from robassay.intervals import Estimate, difference, rate
from robassay.seeds import Seeds

TRIALS = 2000
# 2,000 repetitions have a standard error of .49 points at 95 %; the bands are judged with two of them to spare.
SPARE = 2 * math.sqrt(0.95 * 0.05 / TRIALS)
LOW, HIGH = 0.93 - SPARE, 0.97 + SPARE
MANY = 100_000
"""Images from which an estimand is computed: its own standard error is a twentieth of the intervals' or less."""

SPREADS = (0.2, None)
REPEATS = 8
"""Draws of an image; the worst case is selected on half of them."""


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


def chances(rng: np.random.Generator, truth: float, spread: float | None, n: int) -> np.ndarray:
    """(n,) chances with the mean ``truth``."""
    if spread is None:
        return np.full(n, truth)
    if spread == 0:
        return (rng.random(n) < truth).astype(float)
    return rng.beta(truth * spread, (1 - truth) * spread, n)


def draws(rng: np.random.Generator, chance: np.ndarray, repeats: int) -> np.ndarray:
    """(repeats, n), 1 with the chance of the image."""
    return (rng.random((repeats, len(chance)), dtype=np.float32) < chance).astype(float)


def evaluation(wrong: np.ndarray, attacked: bool = True) -> Rows:
    """Decisions (R, N) from a matrix that is 1 where the defender errs; the true label is 0."""
    n = wrong.shape[1]
    size, zero = np.full(n, 0.1 if attacked else 0.0), np.zeros(n)
    label = np.zeros(n, np.int64)
    return Rows(wrong.astype(np.int16), label, label, False, size, size * 10, zero, zero)


def coverage(make: Callable[[], Estimate], truth: float) -> float:
    """Share of repetitions whose interval holds the truth."""
    found = [make() for _ in range(TRIALS)]
    return sum(one.low - 1e-12 <= truth <= one.high + 1e-12 for one in found) / TRIALS


def majority(chance: np.ndarray, repeats: int) -> np.ndarray:
    """Probability that more than half of ``repeats`` draws of each ``chance`` are 1."""
    more = range(repeats // 2 + 1, repeats + 1)
    return np.sum([math.comb(repeats, k) * chance**k * (1 - chance) ** (repeats - k) for k in more], axis=0)


# ------------------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize("truth", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("spread", SPREADS)
def test_rate_of_200_images(rng, truth, spread):
    found = coverage(lambda: rate(draws(rng, chances(rng, truth, spread, 200), REPEATS)), truth)
    assert LOW <= found <= HIGH


@pytest.mark.parametrize("truth", [0.05, 0.5, 0.95])
def test_rate_of_a_deterministic_model(rng, truth):
    fold = Accuracy()
    found = coverage(lambda: fold([evaluation(draws(rng, np.full(200, 1 - truth), 1))]), truth)
    assert LOW <= found <= HIGH


@pytest.mark.parametrize(("truth", "n"), [(0.02, 50), (0.99, 200)])
@pytest.mark.parametrize("spread", [0.2, 2.0])
def test_extreme_rates_are_not_too_sure(rng, truth, n, spread):
    """Rare images carry the rate: where none of them was drawn, the variance that is seen is far too small."""
    assert coverage(lambda: rate(draws(rng, chances(rng, truth, spread, n), REPEATS)), truth) >= LOW


@pytest.mark.parametrize(("truth", "n"), [(0.01, 50), (0.02, 50), (0.02, 200), (0.05, 20)])
def test_extreme_rates_of_a_deterministic_model(rng, truth, n):
    assert coverage(lambda: rate(draws(rng, np.full(n, truth), 1)), truth) >= LOW


@pytest.mark.parametrize("spread", [0.2, 2.0])
def test_the_naive_binomial_over_draws_does_not_cover(rng, spread):
    """What the clustering is for."""

    def naive() -> Estimate:
        mean = float(draws(rng, chances(rng, 0.5, spread, 200), 20).mean())
        half = 1.96 * math.sqrt(mean * (1 - mean) / 4000)
        return Estimate(mean, mean - half, mean + half, 200)

    assert coverage(naive, 0.5) < 0.7


@pytest.mark.parametrize("truth", [0.05, 0.5])
def test_rate_when_a_batch_shares_its_noise(rng, truth):
    """A latent-normal model: example effect sd 1, draw effect sd .5 shared by a block of 100, own noise sd 1."""
    limit = NormalDist().inv_cdf(truth) * math.sqrt(1 + 1 + 0.25)
    block = np.arange(200) // 100

    def values() -> np.ndarray:
        shared = rng.normal(0, 0.5, (20, 2)).repeat(100, 1)
        own = rng.standard_normal((20, 200), dtype=np.float32)
        return (limit + rng.normal(0, 1, 200) + shared + own > 0).astype(float)

    assert LOW <= coverage(lambda: rate(values(), block), truth) <= HIGH
    blind = np.mean([(e := rate(values())).low <= truth <= e.high for _ in range(300)])
    assert blind < 0.93, "ignoring that draws are shared should lose coverage, or the term does nothing"


# ------------------------------------------------------------------------------------------ conditional and gated rates


def success_truth(rng: np.random.Generator, right: float, spread: float | None, kept: float, repeats: int) -> float:
    """Attacked, an image with the chance c to be right has the chance kept · c."""
    chance = chances(rng, right, spread, MANY)
    counted = majority(chance, repeats)
    return float((counted * (1 - kept * chance)).sum() / counted.sum())


@pytest.mark.parametrize(
    ("right", "spread", "kept", "repeats", "n"),
    [(0.9, 0.0, 0.3, 1, 250), (0.7, 2.0, 0.8, 9, 320), (0.6, 0.2, 0.98, 9, 400)],
)
def test_success(rng, right, spread, kept, repeats, n):
    truth = success_truth(rng, right, spread, kept, repeats)
    assert 0.01 < truth < 0.95

    def make() -> Estimate:
        chance = chances(rng, right, spread, n)
        clean, attacked = draws(rng, 1 - chance, repeats), draws(rng, 1 - kept * chance, repeats)
        return Success()([evaluation(attacked), evaluation(clean, attacked=False)])

    found = coverage(make, truth)
    assert found >= LOW and (found <= HIGH or truth < 0.05)


@pytest.mark.parametrize(("truth", "n"), [(0.9, 60), (0.97, 200)])
def test_success_of_few_images(rng, truth, n):
    aim = success_truth(rng, truth, 2.0, 0.03, 9)

    def make() -> Estimate:
        chance = chances(rng, truth, 2.0, n)
        pair = draws(rng, 1 - 0.03 * chance, 9), draws(rng, 1 - chance, 9)
        return Success()([evaluation(pair[0]), evaluation(pair[1], attacked=False)])

    assert coverage(make, aim) >= LOW


def gated_truth(rng: np.random.Generator, mean: float, spread: float | None, repeats: int, gates: int, at: int):
    """Success and share of gated images where all models are fooled by an image with the image's own chance."""
    chance = chances(rng, mean, spread, MANY)
    fooled = majority(chance, repeats)
    opened = np.sum([math.comb(gates, k) * fooled**k * (1 - fooled) ** (gates - k) for k in range(at, gates + 1)], 0)
    return float((opened * chance).sum() / opened.sum()), float(opened.mean())


GATED: tuple[tuple[Fold, int, int, int], ...] = (  # fold, models, gates of each target, how many must open
    (Gated(2), 4, 3, 2),
    (Rotations(4, 2), 4, 3, 2),
    (Rotations(3, 0), 3, 0, 0),
)


@pytest.mark.parametrize(("fold", "models", "gates", "at"), GATED)
@pytest.mark.parametrize(("mean", "spread", "repeats", "n"), [(0.6, 2.0, 3, 330), (0.7, 2.0, 1, 280)])
def test_gated_rates(rng, fold, models, gates, at, mean, spread, repeats, n):
    """Targets of one image are correlated through its chance; images that pass fewer rotations weigh less."""
    truth, share = gated_truth(rng, mean, spread, repeats, gates, at)
    assert 0.05 <= truth <= 0.96
    n = 200 if gates == 0 else n

    def make() -> Estimate:
        chance = chances(rng, mean, spread, n)
        return fold([evaluation(one) for one in draws(rng, chance, models * repeats).reshape(models, repeats, n)])

    assert gates == 0 or share * n > 198
    assert LOW <= coverage(make, truth) <= HIGH


@pytest.mark.parametrize("fold", [Rotations(4, 2)])
@pytest.mark.parametrize(("mean", "spread"), [(0.03, 0.2), (0.97, 2.0)])
def test_gated_rates_of_few_images(rng, fold, mean, spread):
    truth, share = gated_truth(rng, mean, spread, 3, 3, 2)
    n = min(400, round(30 / share))

    def make() -> Estimate:
        both = draws(rng, chances(rng, mean, spread, n), 12).reshape(4, 3, n)
        return fold([evaluation(one) for one in both])

    assert coverage(make, truth) >= LOW


def test_lead_of_one_gate_over_another(rng):
    """Three models gated by two others of each, less the same three without a gate, which all images are tried on."""
    gated, share = gated_truth(rng, 0.6, 2.0, 3, 2, 2)
    assert share * 400 > 195

    def make() -> Estimate:
        both = draws(rng, chances(rng, 0.6, 2.0, 400), 9).reshape(3, 3, 400)
        made = [evaluation(one) for one in both]
        return Lead(3, 3, 3, pass_at=2)([*made, *made])

    assert LOW <= coverage(make, gated - 0.6) <= HIGH


# ----------------------------------------------------------------------------------------- differences and worst cases


@pytest.mark.parametrize(
    ("one", "kept", "spread", "repeats"),
    [(0.6, 0.9, 0.0, 1), (0.6, 0.9, 2.0, REPEATS), (0.9, 0.5, 0.2, REPEATS), (0.2, 0.4, 0.2, REPEATS)],
)
def test_paired_difference(rng, one, kept, spread, repeats):
    """The second model is right with the chance kept · that of the first, image by image."""

    def make() -> Estimate:
        chance = chances(rng, one, spread, 200)
        # All or nothing: the second model errs on whole images, too.
        other = chance * (rng.random(200) < kept) if spread == 0 else kept * chance
        return Difference()([evaluation(draws(rng, 1 - c, repeats)) for c in (chance, other)])

    assert LOW <= coverage(make, one * (1 - kept)) <= HIGH


@pytest.mark.parametrize("spread", [0.2, 20.0])
def test_difference_of_equal_but_unrelated_models(rng, spread):
    def make() -> Estimate:
        return difference(*(draws(rng, chances(rng, 0.7, spread, 200), REPEATS) for _ in range(2)))

    assert LOW <= coverage(make, 0.0) <= HIGH


@pytest.mark.parametrize(
    ("one", "kept", "spread", "n"),
    [(0.99, 0.99, 0.0, 200), (0.03, 0.5, 0.2, 200), (0.98, 0.97, 2.0, 50), (0.5, 0.9, 0.2, 50)],
)
def test_small_differences_and_few_images(rng, one, kept, spread, n):
    def make() -> Estimate:
        chance = chances(rng, one, spread, n)
        other = chance * (rng.random(n) < kept) if spread == 0 else kept * chance
        repeats = 1 if spread == 0 else REPEATS
        return difference(draws(rng, chance, repeats), draws(rng, other, repeats))

    assert coverage(make, one * (1 - kept)) >= LOW


def test_difference_when_a_batch_shares_its_noise(rng):
    """Both sides have a draw effect of their own, sd .5, shared by all images; the image effect is common."""
    limits = [NormalDist().inv_cdf(p) * math.sqrt(2.25) for p in (0.7, 0.6)]
    block = np.zeros(200, np.int64)

    def make(known: np.ndarray | None = block) -> Estimate:
        image = rng.normal(0, 1, 200)
        sides = [
            limit + image + rng.normal(0, 0.5, (12, 1)) + rng.standard_normal((12, 200), dtype=np.float32) > 0
            for limit in limits
        ]
        return difference(sides[0].astype(float), sides[1].astype(float), known)

    assert LOW <= coverage(make, 0.1) <= HIGH
    assert np.mean([(e := make(None)).low <= 0.1 <= e.high for _ in range(300)]) < 0.93


def survivals(rng: np.random.Generator, mean: float, spread: float | None, n: int, attacks: int = 3) -> np.ndarray:
    """(attacks, n): the first attack leaves an image its chance, each other a random share of it."""
    chance = chances(rng, mean, spread, n)
    shares = rng.random((attacks, n)) < 0.5
    shares[0] = False
    return np.where(shares, 0.6, 1.0) * chance


def chosen_truth(rng: np.random.Generator, mean: float, spread: float | None, repeats: int) -> float:
    """Survival under the attack that is the worst of ``repeats`` draws, on other draws; exact given the images."""
    chance = survivals(rng, mean, spread, MANY)
    seen = rng.binomial(repeats, chance)
    order = seen.mean(1).argsort()  # of equals the one that is stronger on the other images
    return float(np.take_along_axis(chance, order[seen[order].argmin(0)][None], 0).mean())


@pytest.mark.parametrize(("mean", "spread", "n"), [(0.5, 0.2, 200), (0.9, 2.0, 200)])
@pytest.mark.parametrize("fold", [WorstCase(), Gap()])
def test_worst_case(rng, fold, mean, spread, n):
    """The estimand is the rate under the attack that was selected on the other half of the draws."""
    truth = chosen_truth(rng, mean, spread, REPEATS // 2)
    truth = mean - truth if isinstance(fold, Gap) else truth
    found = coverage(
        lambda: fold([evaluation(draws(rng, 1 - c, REPEATS)) for c in survivals(rng, mean, spread, n)]), truth
    )
    assert LOW <= found <= HIGH


@pytest.mark.parametrize(("mean", "spread"), [(0.03, 0.2), (0.99, 2.0)])
@pytest.mark.parametrize("fold", [WorstCase()])
def test_worst_case_of_few_images(rng, fold, mean, spread):
    truth = chosen_truth(rng, mean, spread, REPEATS // 2)
    truth = mean - truth if isinstance(fold, Gap) else truth
    found = coverage(
        lambda: fold([evaluation(draws(rng, 1 - c, REPEATS)) for c in survivals(rng, mean, spread, 50)]), truth
    )
    assert found >= LOW


@pytest.mark.parametrize("fold", [WorstCase(), Gap()])
def test_worst_case_of_deterministic_models(rng, fold):
    """Of one draw the worst case is the minimum: three attacks, each leaves an image's chance on its own."""
    chance = chances(rng, 0.7, 2.0, MANY)
    truth = float((chance**3).mean())
    truth = 0.7 - truth if isinstance(fold, Gap) else truth

    def make() -> Estimate:
        one = chances(rng, 0.7, 2.0, 200)
        return fold([evaluation(draws(rng, 1 - one, 1)) for _ in range(3)])

    assert LOW <= coverage(make, truth) <= HIGH


@pytest.mark.parametrize(("seeds", "images"), [(0.3, 1.0), (0.1, 1.0)])
def test_five_seeds(rng, seeds, images):
    """A latent-normal model: seed effect, image effect, their interaction sd .5, deterministic decisions."""
    own = 0.5
    limit = NormalDist().inv_cdf(0.7) * math.sqrt(seeds**2 + images**2 + own**2)

    def make() -> Estimate:
        effects = rng.normal(0, seeds, (5, 1)) + rng.normal(0, images, 200) + rng.normal(0, own, (5, 200))
        return Seeds()([evaluation(wrong[None]) for wrong in limit + effects < 0])

    assert LOW <= coverage(make, 0.7) <= HIGH


def test_one_model_does_not_speak_for_other_seeds(rng):
    """What the seeds' variance is for."""
    limit = NormalDist().inv_cdf(0.7) * math.sqrt(1.09)

    def make() -> Estimate:
        wrong = limit + rng.normal(0, 0.3) + rng.normal(0, 1, 200) < 0
        return Accuracy()([evaluation(wrong[None])])

    assert coverage(make, 0.7) < 0.85


def test_the_minimum_over_attacks_on_the_same_draws_does_not_cover(rng):
    """Ten attacks that do nothing to a model that errs on 10 % of draws: choosing by luck would claim less."""
    attacks = [evaluation(draws(rng, np.full(400, 0.1), 20)) for _ in range(10)]
    naive = np.min([a.survives().mean(0) for a in attacks], axis=0).mean()
    found = WorstCase()(attacks)
    assert naive < 0.8
    assert found.low <= 0.9 <= found.high
