"""Intervals cover what they claim, and the worst case is not fooled by luck."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

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
from robassay.intervals import difference, rate, student
from robassay.thawed import thaw

TRIALS = 1200
RNG = np.random.default_rng(0)
# 1200 trials have a standard error of .63 points at 95 %; the band of 93-97 % is judged with two of them to spare.
LOW, HIGH = 0.93 - 0.0126, 0.97 + 0.0126


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    global RNG  # noqa: PLW0603
    RNG = np.random.default_rng(20261121)


def evaluation(wrong: np.ndarray, attacked: bool = True, shared: bool = False) -> Rows:
    """Decisions (R, N) from a matrix that is 1 where the defender errs; the true label is 0."""
    n = wrong.shape[1]
    size = np.full(n, 0.1 if attacked else 0.0)
    zero = np.zeros(n)
    return Rows(
        wrong.astype(np.int16), np.zeros(n, np.int64), np.zeros(n, np.int64), shared, size, size * 10, zero, zero
    )


def coverage(make, truth: float) -> tuple[float, float]:
    """Shares of trials in which our interval, and the naive binomial over all draws, contain the truth."""
    ours = naive = 0
    for _ in range(TRIALS):
        values, block = make()
        found = rate(values, block)
        ours += found.low <= truth <= found.high
        mean = values.mean()
        half = 1.96 * np.sqrt(mean * (1 - mean) / values.size)
        naive += mean - half <= truth <= mean + half
    return ours / TRIALS, naive / TRIALS


@pytest.mark.parametrize("truth", [0.05, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("spread", [0.2, 2.0])
def test_rate_covers_the_truth_with_clustered_draws_and_the_naive_binomial_does_not(truth, spread):
    def make():
        chance = RNG.beta(truth * spread, (1 - truth) * spread, 200)
        return (RNG.random((20, 200)) < chance).astype(float), None

    ours, naive = coverage(make, truth)
    assert LOW <= ours <= HIGH
    assert naive < 0.7


@pytest.mark.parametrize("truth", [0.05, 0.5, 0.95])
def test_rate_covers_the_truth_for_deterministic_models(truth):
    ours, _ = coverage(lambda: ((RNG.random((1, 200)) < truth).astype(float), None), truth)
    assert LOW <= ours <= HIGH + 0.005  # one draw per example is discrete: Wilson reaches .971 at .95


@pytest.mark.parametrize("truth", [0.05, 0.5, 0.95])
def test_rate_covers_the_truth_when_a_batch_shares_its_noise(truth):
    """A latent-normal model: example effect sd 1, draw effect sd .5 shared by a block of 100, own noise sd 1."""
    limit = NormalDist().inv_cdf(truth) * np.sqrt(1 + 1 + 0.25)
    block = np.arange(200) // 100

    def make():
        example = RNG.normal(0, 1, 200)
        values = np.empty((50, 200))
        for b in (0, 1):
            inside = block == b
            draw = RNG.normal(0, 0.5, (50, 1))
            values[:, inside] = limit + example[inside] + draw + RNG.normal(0, 1, (50, 100)) > 0
        return values, block

    ours, _ = coverage(make, truth)
    assert LOW <= ours <= HIGH
    blind = sum((e := rate(make()[0])).low <= truth <= e.high for _ in range(300)) / 300
    assert blind < 0.93, "ignoring that draws are shared should lose coverage, or the term does nothing"


def test_paired_difference_covers_the_truth_and_is_not_sure_of_nothing():
    hits = 0
    for _ in range(TRIALS):
        one = RNG.random((1, 200)) < 0.6
        other = one & (RNG.random((1, 200)) < 0.9)
        found = difference(one.astype(float), other.astype(float))
        hits += found.low <= 0.06 <= found.high
    assert LOW <= hits / TRIALS <= HIGH + 0.01
    same = np.ones((1, 200))
    assert difference(same, same).value == 0 and 0.005 < difference(same, same).high < 0.03


def test_extreme_rates_have_intervals():
    none = rate(np.zeros((20, 200)))
    assert (none.value, none.low) == (0, 0) and 0.01 < none.high < 0.03
    every = rate(np.ones((20, 200)))
    assert (every.value, every.high) == (1, 1) and 0.97 < every.low < 0.99


def test_worst_case_of_lucky_draws_is_unbiased():
    """Ten attacks that do nothing, on a model that errs on 10 % of draws: the minimum over attacks would claim less."""
    attacks = [evaluation(RNG.random((20, 400)) < 0.1) for _ in range(10)]
    naive = np.min([a.survives().mean(0) for a in attacks], axis=0).mean()
    found = WorstCase()(attacks)
    assert naive < 0.8
    assert found.low <= 0.9 <= found.high


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
