"""The translucent box: targets, gates and rotations counted by hand, and the protocol on models of known weakness."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_box import Blank, Marks, Spot
from toy_nets import RNG

from robassay.access import Decisions, White
from robassay.cell import with_needs
from robassay.cells import Craft, Examples, Score
from robassay.classifier import Classifier
from robassay.document import _outcome
from robassay.errors import UsageError
from robassay.folds import Rows, rows
from robassay.gates import Changed, Crossed, Gated, Lead, MeanAccuracy, Moved, Reached, Rotations
from robassay.goals import UnlikePredictions
from robassay.intervals import ahead, difference, ratio
from robassay.plan import plan
from robassay.protocols.translucent import Attacker, across, buckets, translucent
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Measure, Table
from robassay.thawed import thaw
from robassay.verdict import as_json

RESULT = Path(__file__).parents[1] / "results" / "small" / "protocols-translucent.json"

# ------------------------------------------------------------------------------------------------------------ targets


class Says(Classifier):
    """Always one class."""

    def __init__(self, label: int, classes: int = 5) -> None:
        super().__init__()
        self.label, self.classes = label, classes

    def draw(self, h):
        logits = h.flatten(1).sum(1, keepdim=True).repeat(1, self.classes)  # not like probabilities
        return logits + 2 * torch.eye(self.classes)[self.label]


def targets(models, x, y, classes=5, kappa=0.0):
    opened = White().open(models, len(x))
    goal = UnlikePredictions(kappa).goal(y, classes, opened, x, RNG)
    assert goal.targeted and goal.kappa == kappa and opened.spent.draws.tolist() == [len(models)] * len(x)
    return goal.labels


def test_targets_are_uniform_among_the_labels_that_are_neither_true_nor_predicted():
    x, y = torch.rand(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(2000) % 2 * 4
    found = targets([Says(1), Says(3), Says(3)], x, y, kappa=2.5)
    for label, allowed in ((0, (2, 4)), (4, (0, 2))):
        counts = found[y == label].bincount(minlength=5)
        assert counts.nonzero().flatten().tolist() == list(allowed) and counts[allowed[0]].item() in range(437, 564)
    assert targets([Says(c) for c in (0, 1, 2)], x[:50], y[:50] * 0 + 3).eq(4).all()


def test_where_every_other_label_is_predicted_any_but_the_true_one_is_wanted():
    x, y = torch.rand(2000, 1, 2, 2, generator=torch.Generator().manual_seed(1)), torch.full((2000,), 3)
    counts = targets([Says(c) for c in range(5)], x, y).bincount(minlength=5)
    assert counts[3] == 0 and counts[counts > 0].min() > 420 and (counts > 0).sum() == 4
    assert targets([Says(0, 2)], x[:9], y[:9] * 0 + 1, classes=2).eq(0).all()


def test_a_target_depends_on_its_image_alone_and_logits_are_needed():
    x, y = torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(2)), torch.arange(40) % 5
    found, order = targets([Says(2)], x, y), torch.arange(39, -1, -1)
    assert torch.equal(targets([Says(2)], x[order], y[order]), found[order])
    assert torch.equal(targets([Says(2)], x[7:9], y[7:9]), found[7:9])
    with pytest.raises(UsageError, match="White"):
        UnlikePredictions().goal(y, 5, Decisions().open([Says(2)], 40), x, RNG)


# -------------------------------------------------------------------------------------------------------------- folds


def made(decisions, wanted=1, l2=1.0, labels=0) -> Rows:
    """An evaluation of a targeted attack; decisions (R, N), unchanged where l2 is 0."""
    decisions = np.atleast_2d(np.asarray(decisions, dtype=np.int16))
    n = decisions.shape[1]
    size = np.broadcast_to(np.asarray(l2, dtype=float), n)
    none = np.zeros(n)
    label = np.broadcast_to(labels, n)
    return Rows(decisions, label, none.astype(int), False, size, size, none, none, np.full(n, wanted))


def several(models: int, draws: int = 4, images: int = 60, seed: int = 0) -> list[Rows]:
    """Targets of unlike robustness, refusals among them, on images of unlike size of which some were not changed."""
    rng = np.random.default_rng(seed)
    l2, easy = rng.choice([0.0, 0.4, 1.2, 2.0, 3.5], images), rng.random(images)
    chance = [np.clip(easy + shift, 0, 1) for shift in rng.normal(0, 0.2, models)]
    drawn = [np.where(rng.random((draws, images)) < c, 1, rng.integers(-1, 3, (draws, images))) for c in chance]
    return [made(d, l2=l2) for d in drawn]


def recount(groups, pass_at, within=(0.0, math.inf), gates=None, places=range(8)):
    """Successes and trials one by one: no array operation."""
    won, trials = 0.0, 0
    for g, group in enumerate(groups):
        for i in places:
            target = group[i]
            for j in range(len(target.labels)):
                if not (within[0] < target.l2[j] <= within[1]):
                    continue
                passed = 0
                for k, gate in enumerate((gates or groups)[g]):
                    hits = sum(int(d[j] == gate.targets[j]) for d in gate.decisions)
                    passed += k != i and hits > len(gate.decisions) / 2
                if passed >= pass_at:
                    trials += 1
                    won += sum(int(d[j] == target.targets[j]) for d in target.decisions) / len(target.decisions)
    return won, trials


@pytest.mark.parametrize("within", [(0.0, math.inf), (0.4, 2.0), (2.0, 3.0)])
@pytest.mark.parametrize("pass_at", [0, 2, 5, 7])
def test_rotations_and_gates_are_what_a_recount_says(pass_at, within):
    first, second = several(8), several(8, seed=1)
    gates = [e._replace(l2=first[0].l2, linf=first[0].linf) for e in second]  # of the same attack
    for groups in ([first], [first, second]):
        won, trials = recount(groups, pass_at, within)
        found = Rotations(8, pass_at, within=within)([e for g in groups for e in g])
        assert found.n == 0 if trials == 0 else found.value == pytest.approx(won / trials) and found.n > 0
    for found, (won, trials) in (
        (Gated(pass_at, within=within)(first), recount([first], pass_at, within, places=[0])),
        (Crossed(8, pass_at, within=within)([*first, *gates]), recount([first], pass_at, within, gates=[gates])),
    ):
        assert found.n == 0 if trials == 0 else found.value == pytest.approx(won / trials)
    assert Crossed(8, pass_at, within=within)([*first, *first]) == pytest.approx(
        Rotations(8, pass_at, within=within)(first), nan_ok=True
    )


def test_a_gate_is_the_first_evaluations_alone():
    """The target is fooled on images 0 and 2; the gates by images 0, 1 and by 0, 2, 3; image 4 was not changed."""
    l2 = [1, 1, 1, 1, 0]
    group = [made([1, 0, 1, 0, 1], l2=l2), made([1, 1, 0, 0, 1], l2=l2), made([1, 2, 1, 1, 1], l2=l2)]
    expected = {0: (2 / 4, 4), 1: (2 / 4, 4), 2: (1 / 1, 1)}
    for pass_at, (value, n) in expected.items():
        found = Gated(pass_at)(group)
        assert (found.value, found.n) == (value, n)


def test_nothing_found_is_no_rate_and_a_refusal_is_no_success():
    nothing = [made([1, 1, 1], l2=0.0) for _ in range(4)]
    for fold in (Rotations(4), Rotations(4, 2), Gated(1), Lead(2, 2, 2), Moved(), Crossed(2, 1)):
        found = fold(nothing)
        assert math.isnan(found.value) and found.n == 0, fold
    assert Changed()(nothing)[0] == 0 and Reached()(nothing) == (0, 0, *Reached()(nothing)[2:])
    refused = [made([-1, -1, -1]) for _ in range(3)]
    assert Rotations(3)(refused)[::3] == (0.0, 3) and Rotations(3, 1)(refused).n == 0
    assert Reached()([refused[0], made([1, 0, 1])]).value == pytest.approx(2 / 6)
    assert MeanAccuracy()([made([0, 0, 0], l2=0), made([0, 2, 2], l2=0)]).value == pytest.approx(4 / 6)


def test_one_image_tells_nothing_of_the_spread():
    """19 of 30 draws on one image: its residual is rounding, which once counted as a spread next to nothing."""
    for hits in range(1, 30):
        parts = [np.zeros((10, 50)) for _ in range(3)]
        for i in range(hits):
            parts[i % 3][i // 3, 7] = 1
        weights = np.zeros(50)
        weights[7] = 3
        found = ratio(parts, weights)
        assert found.value == pytest.approx(hits / 30) and found.n == 1 and found.high - found.low > 0.8
    # Three images, all alike: never more than their 90 draws tell.
    weights[[8, 9]] = 3
    for part in parts:
        part[:] = 0
        part[:5, 7:10] = 1
    alike = ratio(parts, weights)
    assert alike.value == 0.5 and alike.n == 3 and alike.high - alike.low > 0.5


def test_distances_are_averaged_over_the_attacks_on_an_image():
    found = Moved()([made([0, 0, 0], l2=[1, 2, 0]), made([0, 0, 0], l2=[3, 0, 0])])
    assert (found.value, found.n) == (2.0, 2)
    assert Moved((1.5, 2.5))([made([0, 0, 0], l2=[1, 2, 0]), made([0, 0, 0], l2=[3, 0, 0])])[::3] == (2.0, 1)
    assert Changed()([made([0, 0, 0], l2=[1, 2, 0]), made([0, 0, 0], l2=[3, 0, 0])]).value == pytest.approx(3 / 6)
    assert _outcome(as_json(Moved()([made([0], l2=0)])), 0.0, "above") == ("UNDECIDED", "no image to judge by, n = 0")
    single = as_json(Moved()([made([0, 0], l2=[0, 2])]))
    assert single == {"value": 2.0, "low": None, "high": None, "n": 1}  # no infinity, which is no JSON
    assert _outcome(single, 0.0, "above") == ("UNDECIDED", "200.0 without an interval, n = 1")


def test_too_few_gates_and_unlike_images_are_refused():
    for fold in (Rotations, Crossed):
        with pytest.raises(UsageError, match=r"pass_at=5 of the 3 .* Hold out more models, or write pass_at=3"):
            fold(4, 5)
    with pytest.raises(UsageError, match="pass_at=2"):
        Lead(4, 2, 2, than_at=2)
    with pytest.raises(UsageError, match="no whole number of groups of 3"):
        Rotations(3)(several(4))
    with pytest.raises(UsageError, match="different images"):
        Rotations(2)([made([1, 1]), made([1, 1], labels=2)])
    with pytest.raises(UsageError, match="different images"):
        Lead(1, 1, 1)([made([1, 1]), made([1, 1, 1])])
    with pytest.raises(UsageError, match="different images"):
        Reached()([made([1, 1]), made([1, 1, 1])])


def test_a_lead_is_the_difference_of_the_two_rates():
    ours, theirs = several(8), several(12, seed=3)
    theirs = [e._replace(l2=ours[0].l2, linf=ours[0].linf) for e in theirs]
    fold = Lead(8, 8, 4, pass_at=5, than_at=1, within=(0.1, 2.5))
    one, other = (
        Rotations(8, 5, within=(0.1, 2.5))(ours).value,
        Rotations(4, 1, within=(0.1, 2.5))(theirs).value,
    )
    found = fold([*ours, *theirs])
    assert found.value == pytest.approx(one - other) and found.low < found.value < found.high
    frozen = json.loads(json.dumps(Measure((), fold).freeze()["fold"]))
    assert thaw(frozen) == fold


def test_the_difference_of_ratios_is_that_of_pairs_where_every_image_has_one_trial():
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5):
        one, other = (rng.random((3, 50)) < share).astype(float), (rng.random((3, 50)) < 0.3).astype(float)
        block = np.arange(50) // 25
        ones = np.ones(50)
        for b in (None, block):
            pair, found = difference(one, other, b), ahead(([one], ones), ([other], ones), b)
            assert found[0] == pytest.approx(pair[0]) and found.n == 50
            # Degrees of freedom of shared noise are those of both variances here, of the smaller one there.
            assert found[1:3] == pytest.approx(pair[1:3], abs=1e-9 if b is None else 0.3)
    empty = ahead(([one], ones), ([other], 0 * ones))
    assert math.isnan(empty.value) and empty.n == 0


def test_the_interval_of_the_lead_covers_the_truth():
    """Rates .7 and .5 over images that have 1 to 8 trials on one side and 8 on the other; 95 % of 1,000 intervals."""
    rng, inside, images = np.random.default_rng(0), 0, 200
    easy = rng.normal(0, 1, 20_000)
    tries = np.where(easy > 0, 8, rng.integers(1, 4, 20_000))  # what passes a gate more often is fooled more often
    p, q = 1 / (1 + np.exp(-easy - 0.8)), 1 / (1 + np.exp(-easy))
    truth = (p * tries).sum() / tries.sum() - q.mean()
    for _ in range(1000):
        at = rng.integers(0, 20_000, images)
        ours, theirs = rng.binomial(tries[at], p[at])[None].astype(float), rng.binomial(8, q[at])[None].astype(float)
        found = ahead(([ours], tries[at].astype(float)), ([theirs], np.full(images, 8.0)))
        inside += found.low <= truth <= found.high
    assert 930 <= inside <= 970
    assert ratio([ours], tries[at].astype(float)).n == images


# ----------------------------------------------------------------------------------------------------------- protocol


ON = Examples(Blank(), "test", 0, 16)
LOW, HIGH = (0.0, 0.5), (0.5, 1.0)


def box(attack=None, more=0, refuses=(), kappas=(0.0,), **changed):
    def scheme(portion, seed):
        return Spot(portion, seed, more, seed in refuses)

    attacker = Attacker(attack or Marks(), ON, kappas)
    return translucent(scheme, Blank(), attacker, **{"alone": 2, **changed}), attacker


def value(measure: Measure, store: Store):
    assert not carry_out(measure.needs(), store, 0, silent=True).failed
    return measure.fold([rows([store.read(s.key) for s in e]) for e in measure.evaluations])


def test_the_rates_are_those_counted_by_hand(tmp_path):
    """Held-out model i needs strength i, and image j has j mod 8: it fools models 0 … j mod 8.

    Jointly 1 + 2 + … + 8 of 64 pairs are fooled. Passing 5 of 7: of strength 4 the three pairs that fail (the other
    five pass them), of strengths 5, 6, 7 all eight, of which 6, 7 and 8 are fooled. Alone the strengths are 0, 0, 1, 1,
    2, 2, 3, 3. One to one, models 0 and 1: the first follows every mark, the second 6 of 8.
    """
    (found, _), store = box(kappas=(0.0, 3.0)), Store(tmp_path / "store")
    expected = {
        "joint": (found.joint.transfer(), 36 / 64),
        "validated": (found.validated(), 21 / 27),
        "single": (found.single.transfer(), 20 / 64),
        "plain": (found.plain.transfer(), 7 / 8),
        "joint, low": (found.joint.transfer(0, LOW), 10 / 32),
        "joint, high": (found.joint.transfer(0, HIGH), 26 / 32),
        "single, low": (found.single.transfer(0, LOW), 6 / 32),
        "own, joint": (found.joint.success(), 36 / 64),
        "own, single": (found.single.success(), (8 + 6) / 16),
        "found": (found.joint.found(), 1.0),
        "several": (found.joint.lead(found.single), 16 / 64),
        "validation": (found.joint.lead(found.joint, 5), 21 / 27 - 36 / 64),
    }
    for name, (measure, rate) in expected.items():
        assert value(measure, store).value == pytest.approx(rate), name
    assert value(found.validated(LOW), store).n == 0
    assert value(found.joint.distance(), store).value == pytest.approx(0.4, abs=0.01)
    assert value(found.joint.distance(LOW), store).value == pytest.approx(0.2, abs=0.01)
    assert value(found.joint.at(3.0).transfer(), store).value == pytest.approx(36 / 64)
    assert len(found.plain.groups) == 4 and all(len(g.held) == 1 for g in found.plain.groups)


def test_validation_and_all_its_rotations_need_no_cell_of_their_own(tmp_path):
    (found, _), store = box(), Store(tmp_path / "store")
    plain, validated = found.joint.transfer(), found.validated()
    assert {c.key for c in with_needs(validated.needs())} == {c.key for c in with_needs(plain.needs())}
    carry_out(plain.needs(), store, 0, silent=True)
    assert not plan(validated.needs(), store).todo
    kinds = [type(c) for c in with_needs(validated.needs())]
    assert kinds.count(Score) == 8 and kinds.count(Craft) == 1
    evaluations = [rows([store.read(s.key) for s in e]) for e in found.joint.held]
    assert len(Rotations(8, 5).trials(evaluations)) == 8
    won, trials = recount([evaluations], 5)
    assert Rotations(8, 5)(evaluations).value == pytest.approx(won / trials) and trials == 2 * 27
    assert all(score.rounded for score in plain.needs())


def test_models_learn_shares_of_their_own_and_attack_classes_that_none_of_them_predicts():
    found, _ = box(kappas=(0.0, 3.0))
    models = (*found.attacked, *found.held)
    assert [m.data.seed for m in models] == [m.seed for m in models] == list(range(16))
    joint, alone = found.joint.groups[1].crafts[0], found.single.groups[0].crafts[0]
    assert joint.aim == UnlikePredictions(3.0) and joint.sources == found.attacked and joint.threat.eps is None
    assert alone.sources == found.attacked[:1] and alone.aim == UnlikePredictions(0.0)
    assert found.single.at(0.0).groups[1].crafts == found.plain.at(0.0).groups[1].crafts


def test_another_scheme_is_judged_behind_the_attackers_own_validation(tmp_path):
    (ours, attacker), (theirs, _), store = box(), box(more=2), Store(tmp_path / "store")
    assert value(across(ours, ours, attacker), store) == pytest.approx(value(ours.validated(), store))
    # Strength 4: the three places with a gate of their own pass five others; models 5, 6, 7 and more are not fooled.
    # Strengths 5, 6, 7 pass everywhere; models i + 2 follow for i ≤ strength − 2: 4, 5 and 6 of 8.
    assert value(across(ours, theirs, attacker), store).value == pytest.approx(15 / 27)
    fewer, _ = box(v=6, pass_at=3)
    with pytest.raises(UsageError, match="holds out 8 models, the other 6"):
        across(ours, fewer, attacker)


def test_no_success_anywhere_is_no_rate_and_a_target_that_refuses_is_never_fooled(tmp_path):
    (nothing, _), store = box(Marks(gives_up=True)), Store(tmp_path / "store")
    for measure in (nothing.joint.transfer(), nothing.validated(), nothing.joint.lead(nothing.single)):
        found = value(measure, store)
        assert math.isnan(found.value) and found.n == 0
    assert value(nothing.joint.success(), store).value == 0 and value(nothing.joint.found(), store).value == 0
    # Model 0 of the held-out ones refuses everything: it is one trial less that succeeds, and opens no gate.
    (stubborn, _) = box(refuses=(8,))
    assert value(stubborn.joint.transfer(), store).value == pytest.approx((36 - 8) / 64)
    # Of seven that can be fooled: strength 4, count 4: never; strength 5, count 5: places 0, 6, 7, none fooled;
    # strengths 6 and 7, counts 6 and 7: all eight places, 6 and 7 fooled.
    assert value(stubborn.validated(), store).value == pytest.approx(13 / 19)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"t": 1, "alone": 1}, "t=1 model cannot be attacked jointly"),
        ({"v": 1}, "v=1 held-out models leave 0 to validate"),
        ({"v": 5}, "v=5 held-out models leave 4 .* pass_at=5"),
        ({"pass_at": 0}, "pass_at=0"),
        ({"alone": 9}, "alone=9 of the t=8"),
        ({"alone": 1}, "alone=1"),
    ],
)
def test_too_few_models_are_refused(changed, message):
    with pytest.raises(UsageError, match=message):
        box(**changed)


def test_buckets_are_equal_and_end_at_the_cut():
    assert buckets(3.0) == ((0.0, 0.75), (0.75, 1.5), (1.5, 2.25), (2.25, 3.0))
    with pytest.raises(UsageError, match="bin or more"):
        buckets(0.0)


# -------------------------------------------------------------------------------------------------------------- study


@pytest.mark.data
def test_the_study_validates_without_cells_of_its_own_and_is_the_papers():
    """Ge et al., §5.2: eight attacked, eight held out, five of seven; each learns a half of its own."""
    from robassay.papers.translucent import protocols_translucent

    study = protocols_translucent("small", None)
    tables = {item.id: item for item in study.items if isinstance(item, Table)}
    transfer = tables["translucent-transfer"]
    for scheme in ("Standard", "Dropout", "RS-1", "RS-1-Adv"):
        plain, validated = (transfer.entries[f"{scheme}, {s}", "any"] for s in ("Multi-8", "Multi-8, 5 of 7"))
        assert plain.needs() == validated.needs() and len(plain.needs()) == 3 * 8
        assert validated.fold == Rotations(8, 5) and plain.fold == Rotations(8)
        crafts = {score.on for score in plain.needs()}
        assert len(crafts) == 3 and all(len(c.sources) == 8 for c in crafts)
        models = {*(m for c in crafts for m in c.sources), *(score.target for score in plain.needs())}
        assert len({m.data for m in models}) == len(models) == 16
        heat = tables["translucent-heat-5"].entries[f"{scheme} attacked", scheme]
        assert {s.key for s in heat.needs()} == {s.key for s in plain.needs()}
    whole = protocols_translucent("full", None)
    sizes = next(item for item in whole.items if item.id == "translucent-size")
    assert sizes.cols == ("K 0", "K 5", "K 10", "K 15") and sizes.published["RS-1, Multi-8", "K 0"] == 2.77
    assert sizes.published["Standard, Single", "K 0"] == 2.12
