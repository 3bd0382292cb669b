"""Sharmin et al. 2019: contrasts of losses by hand, the study's published numbers and claims, and what is committed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robassay.attacks.snn_crafted import SNNCrafted
from robassay.auditing import describe_audit
from robassay.cells import Craft
from robassay.contrasts import Contrasts
from robassay.document import Document
from robassay.errors import UsageError
from robassay.folds import Difference, Rows
from robassay.intervals import difference
from robassay.papers import study_of
from robassay.papers.published import table
from robassay.protocols.scenarios import all_of, less
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Audit, Check, Curves, Measure, Study, Table
from robassay.thawed import thaw

FILE = Path(__file__).parents[1] / "results" / "small" / "sharmin2019.json"
CLAIMS = tuple(f"s0{i}" for i in range(1, 10))


def rows(right: np.ndarray, shared: bool = False) -> Rows:
    """Decisions (R, N) of which those are right; every image was changed."""
    right = np.atleast_2d(right).astype(bool)
    n = right.shape[1]
    zero = np.zeros(n)
    labels = np.ones(n, int)
    decided = np.where(right, 1, 0).astype(np.int16)
    return Rows(decided, labels, zero.astype(int), shared, zero + 0.1, zero + 1, zero, zero)


def first(count: int, n: int = 200) -> Rows:
    """The first so many of n images survive."""
    return rows(np.arange(n) < count)


# ----------------------------------------------------------------------------------------------------------- contrasts


def test_a_single_contrast_of_two_is_their_difference():
    rng = np.random.default_rng(0)
    one, other = (rows(rng.random((4, 60)) < p) for p in (0.8, 0.5))
    assert Contrasts((1, 1), (1.0, -1.0))([one, other]) == pytest.approx(Difference()([one, other]))
    assert Contrasts((1, 1), (-1.0, 1.0))([one, other]).value == pytest.approx(-Difference()([one, other]).value)


def test_losses_are_weighed_and_a_group_is_its_worst():
    """Clean 180 and 160 of 200; A loses 20 and 60, B loses 40 and, by the worse of two attacks, 100."""
    clean_a, a1, a2 = first(180), first(160), first(120)
    clean_b, b1, b2, b3 = first(160), first(120), first(90), first(60)
    loss_a = (1.0, -0.5, -0.5, 0.0, 0.0, 0.0)
    b_less_a = (-1.0, 0.5, 0.5, 1.0, -0.5, -0.5)
    given = [clean_a, a1, a2, clean_b, b1, b2, b3]
    sizes = (1, 1, 1, 1, 1, 2)
    assert Contrasts(sizes, loss_a)(given).value == pytest.approx(0.2)
    found = Contrasts(sizes, b_less_a)(given)
    assert found.value == pytest.approx(0.35 - 0.2) and found.low > 0 and found.n == 200
    both = Contrasts(sizes, (*loss_a, *b_less_a))(given)
    assert both.value == pytest.approx(0.15) and both.low == pytest.approx(found.low)


def test_worst_images_are_chosen_one_by_one():
    left, right = rows(np.arange(100) < 50), rows(np.arange(100) >= 50)
    assert Contrasts((1, 2), (1.0, -1.0))([first(100, 100), left, right]).value == 1.0
    assert Contrasts((1, 1, 1), (1.0, -0.5, -0.5))([first(100, 100), left, right]).value == pytest.approx(0.5)


def test_all_must_be_above_for_a_claim_about_all_and_one_below_refutes_it():
    high, low = (1.0, -1.0, 0.0), (0.0, 1.0, -1.0)
    given = [first(150), first(100), first(130)]
    up, down = Contrasts((1, 1, 1), high)(given), Contrasts((1, 1, 1), low)(given)
    assert up.low > 0 and down.high < 0
    both = Contrasts((1, 1, 1), (*high, *low))(given)
    assert both[:3] == pytest.approx((min(up.value, down.value), down.low, down.high))
    twice = Contrasts((1, 1, 1), (*high, *high))(given)
    assert twice == pytest.approx(up)


def test_distances_from_nothing_forget_the_sign_and_the_farthest_counts():
    given = [first(100), first(130), first(101)]
    signed = Contrasts((1, 1, 1), (1.0, -1.0, 0.0))(given)
    far = Contrasts((1, 1, 1), (1.0, -1.0, 0.0), "farthest")(given)
    assert far[:3] == pytest.approx((0.15, -signed.high, -signed.low))
    near = Contrasts((1, 1, 1), (1.0, 0.0, -1.0), "farthest")(given)
    assert near.value == pytest.approx(0.005) and near.low == 0 and 0.005 < near.high < far.low
    assert Contrasts((1, 1, 1), (1.0, -1.0, 0.0, 1.0, 0.0, -1.0), "farthest")(given)[:3] == pytest.approx(far[:3])


def test_weights_of_what_cancels_do_not_widen_the_interval():
    """A constant that is added and taken away again is no news."""
    one, other, clean = first(130), first(100), first(150)
    plain = Contrasts((1, 1), (1.0, -1.0))([one, other])
    assert Contrasts((1, 1, 1, 1), (1.0, -1.0, 1.0, -1.0))([one, other, clean, clean]) == pytest.approx(plain)


def test_sums_beyond_one_keep_their_value_and_interval():
    """Growth by 1 less twice a fall by 1 is 3 for every image; half the images bring that, half nothing."""
    none, every = first(0), first(200)
    assert Contrasts((1, 1), (3.0, -3.0))([every, none]).value == pytest.approx(3.0)
    half = first(100)
    one, three = Contrasts((1, 1), (1.0, -1.0))([half, none]), Contrasts((1, 1), (3.0, -3.0))([half, none])
    assert three[:3] == pytest.approx([3 * end for end in one[:3]])


def test_draws_that_a_batch_shares_widen_the_interval_and_a_fixed_network_mixes_with_a_random_one():
    rng = np.random.default_rng(1)
    drawn = np.repeat(rng.random((20, 1)) < 0.5, 100, axis=1)
    fixed = first(50, 100)
    apart, together = (Contrasts((1, 1), (1.0, -1.0))([rows(drawn, s), fixed]) for s in (False, True))
    assert apart.value == together.value == pytest.approx(drawn.mean() - 0.5)
    assert together.high - together.low > apart.high - apart.low
    plain = difference(drawn.astype(float), np.repeat(np.arange(100)[None] < 50, 20, 0).astype(float), np.zeros(100))
    assert together == pytest.approx(plain)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (((1, 1), (1.0,)), "1 weights are no whole number of contrasts over 2 groups"),
        (((), ()), "no whole number"),
        (((1,), (1.0,), "mean"), "told='mean'"),
    ],
)
def test_what_is_no_contrast_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        Contrasts(*given)
    with pytest.raises(UsageError, match="need 2 evaluations, not 3"):
        Contrasts((1, 1), (1.0, -1.0))([first(1)] * 3)
    with pytest.raises(UsageError, match="different images"):
        Contrasts((1, 1), (1.0, -1.0))([first(1), first(1, 100)])


def test_contrasts_survive_freezing():
    fold = Contrasts((1, 2), (1.0, -1.0), "farthest")
    frozen = {"type": "Contrasts", "sizes": [1, 2], "weights": [1.0, -1.0], "told": "farthest"}
    assert thaw(frozen) == fold


# --------------------------------------------------------------------------------------------------------------- study


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of("sharmin2019", "small", None)


def test_forms_subtract_and_what_cancels_is_not_asked_for():
    clean, one, other = (("c",),), (("a",),), (("b",),)  # type: ignore[var-annotated]
    form = less({clean: 1.0, one: -1.0}, {clean: 1.0, other: -1.0})  # type: ignore[dict-item]
    assert form == {one: -1.0, other: 1.0}
    measure = all_of([form, {one: 2.0}])  # type: ignore[list-item]
    assert measure.fold == Contrasts((1, 1), (-1.0, 1.0, 2.0, 0.0)) and measure.evaluations == (("a",), ("b",))


@pytest.mark.data
@pytest.mark.parametrize("scale", ["small", "full"])
def test_every_published_number_stands_beside_ours(scale: str):
    items = {item.id: item for item in study_of("sharmin2019", scale, None).items}
    for id in ("I", "losses"):
        shown, printed = items[f"sharmin2019-{id}"], table("sharmin2019", id)
        assert isinstance(shown, Table)
        assert shown.published == {place: figure.value / 100 for place, figure in printed.figures.items()}
        assert set(shown.published) <= set(shown.entries)
    assert len(items["sharmin2019-losses"].published) == 7
    if scale == "small":
        assert list(items["sharmin2019-2-cifar10"].published.values()) == [0.278, 0.435, 0.355]


@pytest.mark.data
def test_the_claims_are_the_papers(study: Study):
    checks = {item.id: item for item in study.items if isinstance(item, Check)}
    assert [id for id in checks if "-" not in id] == list(CLAIMS)
    assert [id for id in checks if "-" in id] == [f"s0{i}-union" for i in (1, 3, 4, 5, 6, 7)]
    assert {id for id, c in checks.items() if c.side == "below"} == {"s06", "s07", "s08", "s06-union", "s07-union"}
    assert checks["s07"].limit == 0.01 and checks["s06"].limit == 0.05
    counts = {id: len(c.evidence.fold.weights) // len(c.evidence.fold.sizes) for id, c in checks.items()}
    assert [counts[id] for id in CLAIMS] == [2, 2, 6, 6, 2, 1, 4, 18, 1]


def survivals(measure: Measure, loss: Callable[[str, str, float, int], float]) -> float:
    """The fold where of 1,000 images 900 are right when clean, and an attack takes its loss of them."""
    found = []
    for evaluation in measure.evaluations:
        score = evaluation[0]
        left = 0.9
        if isinstance(score.on, Craft):
            attack = getattr(score.on.attack, "attack", score.on.attack)
            asked = (kind_of(score.target), kind_of(score.on.sources[0]), score.on.threat.eps)
            left -= loss(*asked, getattr(attack, "steps", 1))
        found.append(first(round(1000 * left), 1000))
    return measure.fold(found).value


def kind_of(model) -> str:
    if type(model).__name__ == "Convert":
        return "SNN-I"
    return "ANN" if type(model.net).__name__ == "MLP" else "SNN-II"


@pytest.mark.data
def test_signs_are_those_of_the_sentences(study: Study):
    """The ANN loses .1, SNN-I .3, SNN-II .2; another time it is the source, the radius or the steps that matter."""
    checks = {item.id: item.evidence for item in study.items if isinstance(item, Check)}
    expected = {"s01": 0.1, "s02": -0.2, "s03": -0.2, "s04": 0.0, "s05": 0.1, "s06": 0.1, "s07": 0.1, "s08": 0.0}
    expected |= {"s09": 0.0, "s01-union": 0.1, "s03-union": -0.2, "s05-union": 0.1, "s07-union": 0.1}
    by_target = {"ANN": 0.1, "SNN-I": 0.3, "SNN-II": 0.2}
    assert {id: survivals(checks[id], lambda t, *_: by_target[t]) for id in expected} == pytest.approx(expected)
    by_source = {"ANN": 0.1, "SNN-I": 0.3, "SNN-II": 0.25}
    for id in ("s04", "s04-union"):
        assert survivals(checks[id], lambda _, s, *__: by_source[s]) == pytest.approx(0.15)
    # Growth from 8/255 to 64/255: .56 by SNN-II, .21 by the ANN; .56 − 2 · .21.
    slope = {"ANN": 0.21 / 56, "SNN-I": 0.0, "SNN-II": 0.56 / 56}
    assert survivals(checks["s09"], lambda _, s, eps, __: slope[s] * 255 * eps) == pytest.approx(0.14)
    assert survivals(checks["s08"], lambda _, __, ___, steps: 0.03 * steps) == pytest.approx(0.15)


@pytest.mark.data
def test_second_networks_of_a_kind_are_others_and_steps_are_the_papers(study: Study):
    items = {item.id: item for item in study.items}
    white, black = (items[f"sharmin2019-2a{i}"].series for i in (1, 2))
    for kind in ("ANN", "SNN-I", "SNN-II"):
        own, other = (s[kind][0].evaluations[1][0] for s in (white, black))
        assert own.on.sources == (own.target,) and other.target == own.target
        assert kind_of(other.on.sources[0]) == "SNN-I" and other.on.sources[0] != own.target
    for letter in "cd":
        score = items[f"sharmin2019-2{letter}4"].series["SNN-II"][1].evaluations[1][0]
        assert score.on.attack.steps == 2 and score.on.threat.eps == 16 / 255
    lines = items["sharmin2019-4b"].series
    assert len(lines) == 9 and items["sharmin2019-4b"].x == (8 / 255, 16 / 255, 32 / 255, 64 / 255)
    taken = {name: line[0].evaluations[1][0].on.attack for name, line in lines.items()}
    assert [getattr(a, "attack", a).steps for a in taken.values()] == [2, 5, 7] * 3


@pytest.mark.data
def test_five_steps_and_one_are_the_cells_of_the_protocols(study: Study):
    """What two studies show is computed once: of all images the first hundred."""
    theirs = {c.key for c in study_of("protocols-transfer", "small", None).needs()}
    lines = [m for item in study.items if isinstance(item, Curves) and item.id[-2] in "ab" and item.id[-3] == "2"
             for line in item.series.values() for m in line]  # fmt: skip
    five = [m for item in study.items if item.id in ("sharmin2019-4a", "sharmin2019-4b")
            for name, line in item.series.items() if name.startswith("5 steps") for m in line]  # fmt: skip
    assert len(lines) == 72 and len(five) == 24
    for measure in (*lines, *five):
        assert all(evaluation[0].key in theirs for evaluation in measure.evaluations)


def test_the_audit_is_of_snn_ii_and_claims_what_the_papers_attack_leaves():
    smoke = study_of("sharmin2019", "smoke", None)
    (audit,) = (item for item in smoke.items if isinstance(item, Audit))
    assert kind_of(audit.clean[0].target) == "SNN-II" and audit.threat.eps == 16 / 255
    (claimed,) = audit.claimed
    assert isinstance(claimed.on.attack, SNNCrafted) and claimed.on.attack.attack.steps == 2
    assert claimed.on.sources == (claimed.target,) and claimed.on.on == audit.clean[0].on
    named = describe_audit(claimed.target, claimed.on.on, audit.threat)  # a probe of the untrained network says as much
    assert {*named.battery} == {*audit.battery} and any(name.startswith("sweep") for name in audit.battery)


def test_smoke_runs_from_nothing(tmp_path: Path):
    """Everything that "small" shows, on twenty digits. Above 10 s: three hundred small cells and an audit."""
    smoke, store = study_of("sharmin2019", "smoke", None), Store(tmp_path)
    done = carry_out(smoke.needs(), store, 0, silent=True)
    assert not done.failed
    whole = Document(smoke.freeze(), store).whole()
    assert [c["id"] for c in whole["checks"]][:9] == list(CLAIMS)
    assert all("n = 20" in c["sentence"] for c in whole["checks"]) and len(whole["audits"]) == 1
    first_table = next(t for t in whole["tables"] if t["id"] == "sharmin2019-I")
    assert [c["absent"] for line in first_table["cells"] for c in line if c and c["value"] is None] == (
        ["small and full only"] * 3
    )


@pytest.mark.data
def test_smoke_shows_what_small_shows(study: Study):
    smoke = study_of("sharmin2019", "smoke", None)
    assert [item.id for item in smoke.items] == [item.id for item in study.items]


def test_all_committed_checks_are_judged_on_all_images() -> None:
    checks = json.loads(FILE.read_text(encoding="utf-8"))["checks"]
    assert checks and all(
        one["outcome"] in ("PASS", "FAIL", "UNDECIDED") and "n = 300" in one["sentence"] for one in checks
    )
