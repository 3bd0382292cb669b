"""Eustratiadis et al. 2020: the bound against closed forms, published figures in their places, the claims as said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robassay.access import White
from robassay.attacks.gradient import FGSM, PGD
from robassay.attacks.noise import Uniform
from robassay.averages import Above, Middle, Spared, Times, Told
from robassay.cell import Cell, Model, cell
from robassay.cells import Craft, Disturbed, Examples, Score
from robassay.classifier import Classifier
from robassay.data import find, pixels
from robassay.defences.a2snn import A2SNN, NoiseHead
from robassay.defences.adversarial import AdversarialTraining
from robassay.document import Document
from robassay.errors import UsageError
from robassay.estimators import Backprop, ClosedForm
from robassay.features import Bottleneck, GapBound, intervals
from robassay.folds import Rows, rows
from robassay.models import Train
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.nets.lenet import LeNetPP
from robassay.nets.resnet import ResNet18
from robassay.pace import Pace
from robassay.papers.aligned import (
    AFTER,
    AT,
    BEST,
    LONGER,
    MIXED,
    NONE,
    SMALL,
    TABLE7,
    WIDE,
    ablation,
    competitors,
    controls,
)
from robassay.papers.assailed import CLEAN, FORM, LOSSES, Spent, attacks
from robassay.papers.eustratiadis2020 import KNOWN, eustratiadis2020
from robassay.papers.grounds import Ground, ground
from robassay.papers.published import table
from robassay.papers.refuted import RADII, claims
from robassay.papers.subjects import M
from robassay.precise import doubles
from robassay.probe import probe
from robassay.recipe import Recipe
from robassay.registry import part
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Check, Study, Table
from robassay.thawed import thaw
from robassay.threat import Threat

DIGITS = find("digits")
ON = Examples(DIGITS, "test", 0, 20)
EPS = 0.05
IDS = [f"e{n:02}" for n in range(1, 22)]
WITHOUT_UNION = {"e02", "e03", "e05", "e14", "e21"}


def chain(*layers: nn.Module) -> nn.Sequential:
    with Stream(("chain",)).active():
        for layer in layers:
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                layer.reset_parameters()
    return nn.Sequential(*layers).double().requires_grad_(False)


def numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=Stream(("numbers",)).generator(), dtype=torch.float64)


# -------------------------------------------------------------------------------------------------------------- bounds


def test_intervals_of_a_linear_layer_are_what_signs_reach() -> None:
    layers = chain(nn.Flatten(), nn.Linear(9, 4))
    low, high = intervals(layers, torch.zeros(1, 1, 3, 3).double(), torch.ones(1, 1, 3, 3).double())
    weight, bias = layers[1].weight, layers[1].bias
    assert torch.allclose(high[0], weight.clamp_min(0).sum(1) + bias)
    assert torch.allclose(low[0], weight.clamp_max(0).sum(1) + bias)


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.5])
def test_intervals_of_a_prelu_are_exact_on_either_side_of_0_and_across_it(slope: float) -> None:
    layer = nn.PReLU(init=slope).double().requires_grad_(False)
    ends = torch.tensor([[-2.0, -1.0], [1.0, 3.0], [-2.0, 1.0], [-1.0, 4.0]]).double()
    low, high = intervals(nn.Sequential(layer), ends[:, 0], ends[:, 1])
    for (a, b), least, most in zip(ends.tolist(), low.tolist(), high.tolist(), strict=True):
        values = layer(torch.linspace(a, b, 3001).double())
        assert least == pytest.approx(float(values.min()), abs=2e-3)
        assert most == pytest.approx(float(values.max()), abs=2e-3)
        assert least <= values.min() and values.max() <= most


def test_intervals_hold_for_every_input_between() -> None:
    layers = chain(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.PReLU(), nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(),
                   nn.Linear(8, 5))  # fmt: skip
    x = numbers(1, 1, 8, 8)
    low, high = intervals(layers, x - 0.1, x + 0.1)
    signs = torch.randn(2000, 1, 8, 8, generator=Stream(("signs",)).generator()).sign().double()
    found = layers(torch.cat([x + 0.1 * signs, x + 0.1 * (2 * numbers(500, 1, 8, 8) - 1)]))
    assert (found >= low).all() and (found <= high).all() and (low < high).all()


def test_intervals_name_the_layer_that_they_do_not_know() -> None:
    with pytest.raises(UsageError, match="BatchNorm2d has no interval bound"):
        intervals(nn.Sequential(nn.BatchNorm2d(1)), numbers(1, 1, 2, 2), numbers(1, 1, 2, 2))


@part(source="ours")
class Straight(Backbone):
    """Features that are linear in the pixels."""

    features: int = 5

    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), dim))


@cell
class Untrained(Model):
    """A net as it is drawn."""

    net: A2SNN

    def compute(self, ctx: Any) -> dict[str, Tensor]:
        return {"none": torch.tensor(0)}

    def open(self, ctx: Any) -> Classifier:
        return opened(self.net)


def opened(net: A2SNN) -> NoiseHead:
    with Stream(("untrained",)).active():
        model = net.build(DIGITS.shape, DIGITS.classes)
    assert isinstance(model, NoiseHead)
    return model.eval().requires_grad_(False)


def computed(tmp_path: Any, *cells: Cell) -> list[dict[str, np.ndarray]]:
    store = Store(tmp_path / "store")
    outcome = carry_out(list(cells), store, 0, silent=True)
    assert not outcome.failed, outcome.failed
    return [store.read(one.key) for one in cells]


def test_on_linear_features_the_bound_is_the_exact_change_that_one_sign_step_makes(tmp_path: Any) -> None:
    """Certified and measured meet, and both are eps · |∂ margin|₁ / (√(2π) s), s the deviation of the two logits."""
    net = A2SNN(backbone=Straight(), dim=5)
    model = Untrained(net)
    threat = Threat("linf", EPS, box=(-1.0, 2.0))  # no pixel is cut
    craft = Craft((model,), ON, FGSM("margin"), threat, White(ClosedForm()))
    (found,) = computed(tmp_path, GapBound(model, ON, threat, (craft,)))
    told = rows([found]).told
    head, images = opened(net), ON.load()
    x = pixels(images.x)
    quiet = head.quiet(head.prefix(x))
    for i, y in enumerate(images.y.tolist()):
        others = [k for k in quiet[i].argsort(descending=True).tolist() if k != y]
        w = head.head.weight[y] - head.head.weight[others[0]]
        s = float(w @ head.factor @ head.factor.T @ w) ** 0.5
        slope = w @ head.trunk[1].weight
        assert told["margin"][i] == pytest.approx(float(quiet[i, y] - quiet[i, others[0]]), abs=1e-4)
        assert told["deviation"][i] == pytest.approx(s, rel=1e-4)
        own = head.head.weight[y] @ head.factor
        assert told["single"][i] == pytest.approx(float(own.norm()), rel=1e-4)
        assert told["certified"][i] == pytest.approx(
            EPS * float(slope.abs().sum()) / (math.sqrt(2 * math.pi) * s), rel=1e-4
        )
    # The attack follows the margin to the strongest class, which at a right answer is the runner-up.
    right = told["margin"] > 0
    met = right & np.isclose(told["measured"], told["certified"], rtol=1e-3)
    assert right.any() and met.sum() > right.sum() / 2
    assert (told["measured"] <= told["certified"] * (1 + 1e-5)).all()  # pixels are float32
    fall = math.sqrt(2 * math.pi) * told["certified"] * told["deviation"]
    lower = [
        math.erfc((m - f) / s / math.sqrt(2)) / 2
        for m, f, s in zip(told["margin"], fall, told["deviation"], strict=True)
    ]
    before = [math.erfc(m / s / math.sqrt(2)) / 2 for m, s in zip(told["margin"], told["deviation"], strict=True)]
    assert np.allclose(told["found"][met], (np.array(lower) - before)[met], atol=1e-3)


def test_a_trained_net_keeps_its_bound_and_a_smaller_change_is_measured_than_certified(tmp_path: Any) -> None:
    model = Train(A2SNN(SmallCNN(width=4), dim=6), DIGITS, Recipe(epochs=2, lr=5e-3))
    threat = Threat("linf", EPS)
    seen = White(Backprop(5))
    crafts = tuple(Craft((model,), ON, attack, threat, seen) for attack in (FGSM(), PGD(steps=5, loss="margin")))
    one, both = computed(tmp_path, GapBound(model, ON, threat, crafts[:1]), GapBound(model, ON, threat, crafts))
    less, more = rows([one]).told, rows([both]).told
    assert (more["measured"] >= less["measured"]).all() and (more["measured"] > less["measured"]).any()
    assert (more["measured"] < more["certified"]).all() and not more["broken"].any()
    assert (more["found"] <= more["measured"] + 1e-12).all() and (more["found"] > 0.01).any()
    assert set(more["short"]) <= {0.0, 1.0} and (more["certifies"] == (more["certified"] < 1)).all()
    # Any error includes the pair's: on average it rises about as much at least.
    assert more["whole"].mean() > 0.5 * more["found"].mean()


def test_the_bound_asks_for_what_it_is_about() -> None:
    model = Untrained(A2SNN())
    craft = Craft((model,), ON, FGSM(), Threat("linf", EPS))
    with pytest.raises(UsageError, match="L∞"):
        GapBound(model, ON, Threat("l2", 1.0), (craft,))
    with pytest.raises(UsageError, match="same examples"):
        GapBound(model, Examples(DIGITS, "test", 0, 10), Threat("linf", EPS), (craft,))


def test_a_plane_shows_the_noise_and_the_weights_of_the_net(tmp_path: Any) -> None:
    net, on = A2SNN(backbone=Straight(), dim=2), Examples(DIGITS, "test", 0, 60)
    (found,) = computed(tmp_path, Bottleneck(Untrained(net), on))
    head, images = opened(net), on.load()
    features = head.prefix(pixels(images.x))
    assert np.allclose(found["xy"], features, atol=1e-5) and (found["labels"] == images.y.numpy()).all()
    assert np.allclose(found["centres"][3], features[images.y == 3].mean(0), atol=1e-5)
    assert np.allclose(found["covariances"][7], head.factor @ head.factor.T, atol=1e-6)
    assert np.allclose(found["arrows"], head.head.weight)
    w = head.head.weight[images.y[0]].numpy()
    unit = w / np.linalg.norm(w)
    assert found["told/axis"][0] == pytest.approx(np.abs(unit).max(), rel=1e-5)
    axes = np.linalg.eigh((head.factor @ head.factor.T).numpy()).eigenvectors
    assert found["told/aligned"][0] == pytest.approx(np.abs(unit @ axes).max(), rel=1e-4)


# --------------------------------------------------------------------------------------------------- pace and averages


def test_a_step_on_attacked_images_takes_as_much_longer_as_its_adversary_has_passes(tmp_path: Any) -> None:
    """PGD-4 and the step itself are five passes forth and back, the plain step one; the optimiser is shared."""
    hard = AdversarialTraining(PGD(steps=4, keep="last"), Threat("linf", EPS))
    plain, slow = Recipe(batch=64), Recipe(batch=64, adversary=hard)
    pace = Pace(DIGITS, ("plain", "slow"), (SmallCNN(), SmallCNN()), (plain, slow), rounds=8)
    (found,) = computed(tmp_path, pace)
    told = rows([found])
    ratio = Times(("slow",), "plain")([told])
    assert ratio.n == 8 and 1.5 < ratio.value < 15 and ratio.low > 1
    assert (told.told["plain"] > 0).all() and Times(("slow", "plain"), "plain")([told]).value == 1


def telling(**told: list[float]) -> Rows:
    n = len(next(iter(told.values())))
    zeros = np.zeros(n)
    return Rows(np.zeros((1, n), np.int16), np.zeros(n, np.int64), np.zeros(n, np.int64), False, zeros, zeros, zeros,
                zeros, None, {name: np.array(values) for name, values in told.items()})  # fmt: skip


def test_folds_over_told_numbers() -> None:
    cell = telling(a=[1.0, 2.0, 6.0], b=[1.0, 1.0, 2.0], c=[4.0, 4.0, 4.0])
    assert Told("a")([cell])[::3] == (3.0, 3)
    assert Above("a", 2.0)([cell]).value == pytest.approx(1 / 3)
    assert Times(("a",), "b")([cell]).value == pytest.approx(2.0)
    assert Times(("a", "c"), "b")([cell]).value == pytest.approx(2.0)  # the least of 2 and 10/3
    low = Times(("a", "c"), "b")([cell]).low
    assert low == min(Times(("a",), "b")([cell]).low, Times(("c",), "b")([cell]).low)
    with pytest.raises(UsageError, match="tells a, b, c"):
        Told("d")([cell])
    assert thaw({"type": "Times", "ones": ["a"], "other": "b"}) == Times(("a",), "b")


def test_the_median_lies_between_order_statistics() -> None:
    """Of 100 numbers the 40th and the 61st enclose the median in 95 % (binomial tables; the ranks are rounded out)."""
    found = Middle("a")([telling(a=[float(i) for i in range(1, 101)][::-1])])
    assert found == (50.5, 40.0, 61.0, 100)
    few = Middle("a")([telling(a=[1.0, 5.0])])
    assert few.value == 3.0 and few.low == -math.inf and few.high == math.inf


def decided(*draws: list[int]) -> Rows:
    """Decisions on three images of class 0."""
    found = np.array(draws, np.int16)
    zeros = np.zeros(found.shape[1])
    return Rows(found, np.zeros(found.shape[1], np.int64), np.zeros(found.shape[1], np.int64), False, zeros, zeros,
                zeros, zeros)  # fmt: skip


def test_spared_images_are_those_that_an_attack_takes_and_every_draw_leaves() -> None:
    clean = decided([0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0])
    attack = decided([1, 1, 0, 1], [1, 1, 0, 1], [1, 0, 0, 1])  # takes the first two; the last was never right
    other = decided([0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0])  # takes the third
    seen = decided([0, 0, 0, 0], [0, 1, 0, 0])
    assert Spared()([seen, clean, attack])[::3] == (0.5, 2)
    assert Spared(every=False)([seen, clean, attack])[::3] == (0.75, 2)
    assert Spared()([seen, clean, attack, other]).value == pytest.approx(2 / 3)
    assert Spared()([seen, clean, clean]).n == 0
    with pytest.raises(UsageError, match="needs draws"):
        Spared()([seen, clean])


# --------------------------------------------------------------------------------------------------------- the paper's


def test_networks_have_the_weights_of_table_7() -> None:
    """λ1 and λ2, and what appendix B says of the schedules."""
    printed = {"cifar10": (0.1, 1.0, 200, 1e-2), "svhn": (0.05, 0.5, 200, 1e-2), "fashion_mnist": (0.1, 0.5, 100, 1e-3)}
    for name, (entropy, wca, epochs, lr) in printed.items():
        nets = ablation(DIGITS, TABLE7[name])
        weights = {n: (t.net.entropy, t.net.wca) for n, (t, *_) in nets.items() if n != NONE}
        expected = {"m1": (entropy, 0), "m2": (0, wca), "m3": (entropy, 0), "m4": (0, wca), "m5": (entropy, wca)}
        assert weights == expected and {n: t.net.covariance for n, (t, *_) in nets.items() if n != NONE} == {
            n: "diagonal" if n in ("m1", "m2") else "full" for n in M
        }
        assert all((t.recipe.epochs, t.recipe.lr, t.recipe.batch) == (epochs, lr, 128) for t, *_ in nets.values())
        assert isinstance(nets[NONE][0].net, LeNetPP if name == "fashion_mnist" else ResNet18)


def test_attacks_are_the_papers() -> None:
    """§4.1: FGSM and PGD-10 with steps of eps/10 and EoT over 50 draws; C&W and the pixel attack as listed."""
    found = attacks(Spent(), Threat("linf", 8 / 255), True)
    pgd = found["PGD"]
    assert pgd.attack == PGD(steps=10, step=8 / 2550, keep="last") and pgd.attack.random_start
    assert found["FGSM"].attack == FGSM() and found["FGSM"].access == pgd.access == White(Backprop(50))
    assert found["PGD, no EoT"] == type(pgd)(pgd.attack, pgd.threat, White(Backprop(1)))
    cw = found["kappa 5"]
    assert (cw.attack.lr, cw.attack.steps, cw.attack.c0, cw.attack.search) == (5e-4, 1000, 1e-3, 9)
    assert cw.aim.kappa == 5 and cw.threat == Threat("l2")
    three, short = found["3 pixels"], found["3 pixels, short"]
    assert (three.attack.population, three.attack.generations, short.attack.generations) == (400, 1000, 75)
    assert three.attack.crossover == 0.7 and three.attack.mutation == 0.5 and three.threat == Threat("l0", 3)
    assert FORM in found and FORM not in attacks(Spent(), Threat("linf", 0.1), False)


@pytest.fixture(scope="module")
def smoke() -> Study:
    return eustratiadis2020("smoke", None)


@pytest.fixture(scope="module")
def where() -> Ground:
    return ground("smoke", None)


def shown(study: Study) -> dict[str, Table]:
    return {item.id.removeprefix("eustratiadis2020-"): item for item in study.items if isinstance(item, Table)}


def test_every_published_figure_has_its_place_and_every_empty_cell_says_why(
    monkeypatch: pytest.MonkeyPatch, smoke: Study
) -> None:
    found, counts = shown(smoke), {"1": 12, "2": 20, "3": 16, "4": 26, "5": 54, "6": 18}
    for id, count in counts.items():
        printed, ours = table("eustratiadis2020", id), found[id]
        rows = {row.split(" (")[0] if id == "4" else row: row for row in ours.rows}
        for (row, col), _ in printed.figures.items():
            place = rows[row], col if id == "5" else f"CIFAR-10, {col}"
            assert ours.published[place] == printed.rate(row, col)
            assert place in ours.absent
        assert len(ours.published) == count
        empty = {(r, c) for r in ours.rows for c in ours.cols} - set(ours.entries) - set(ours.absent)
        mine = ("short", "(ours)", WIDE)
        assert not [place for place in empty if "CIFAR-10" not in place[1] or not any(w in place[0] for w in mine)]
    assert found["4"].absent[next(r for r in found["4"].rows if r.startswith("TRADES")), "CIFAR-10, PGD"] == (
        "quoted, not built"
    )
    reasons = {reason.split(":")[0] for reason in found["5"].absent.values()}
    assert reasons <= {"no data here", "full only"}


def test_without_data_the_reason_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBASSAY_DATA", raising=False)
    found = shown(eustratiadis2020("smoke", None))
    reasons = set(found["5"].absent.values())
    assert reasons == {"no data here: robassay run eustratiadis2020 --scale full --data-dir FOLDER"}


def test_a_figure_of_ours_is_of_the_network_and_the_attack_that_its_place_says(smoke: Study, where: Ground) -> None:
    found, nets = shown(smoke), where.ablation.nets

    def only(id: str, row: str, col: str) -> Score:
        (score,) = found[id].entries[row, col].evaluations[0]
        assert isinstance(score, Score)
        return score

    fgsm = only("5", "m3", "digits, FGSM")
    assert isinstance(fgsm.on, Craft) and fgsm.on.attack == FGSM() and fgsm.target == nets["m3"][0]
    assert only("5", NONE, "digits, clean").on == where.ablation.on
    assert only("6", "mean of 10 draws", "digits, PGD").policy.draws == 10
    assert only("6", "mean of 10 draws", "digits, PGD").on == only("6", "A2SNN (m5)", "digits, PGD").on
    assert only("6", "no EoT", "digits, PGD").on.access == White(Backprop(1))
    assert only("6", "adversarial training", "digits, clean").target == where.controls.nets[AT][0]
    assert only("1", "PNI", "digits, PGD").target == where.rivals.nets["PNI"][0]
    assert only("2", "kappa 2", "digits, L2P").on.aim.kappa == 2
    assert only("3", "2 pixels", "digits, A2SNN").on.threat == Threat("l0", 2)
    sampled, clean, attacked = (e[0] for e in found["criterion4"].entries["uniform samples: every draw right",
                                                                          "wrong under FGSM"].evaluations)  # fmt: skip
    assert isinstance(sampled.on, Disturbed) and sampled.on.by == Uniform() and clean.on == where.controls.on
    assert isinstance(attacked.on, Craft) and attacked.on.attack == FGSM()


def test_every_claim_is_judged_and_once_more_by_the_worst_of_all(smoke: Study) -> None:
    ids = [item.id for item in smoke.items if isinstance(item, Check)]
    assert ids == sorted([*IDS, "e14-before", *(f"{id}-union" for id in IDS if id not in WITHOUT_UNION)])


def test_the_claims_compare_what_their_sentences_say(where: Ground) -> None:
    told = {claim.id: claim for claim in claims(where)}
    a, c, r = where.ablation, where.controls, where.rivals

    def signs(id: str, part: str) -> dict[tuple[Model, str, Any], float]:
        """Target, attack and access of the groups of a contrast, by their weight."""
        found = {}
        for group, weight in told[id].parts[part].items():
            on = group[0][0].on
            what = (type(on.attack).__name__, on.access) if isinstance(on, Craft) else (CLEAN, None)
            found[(group[0][0].target, *what)] = weight
        return found

    eot = White(Backprop(where.ablation.spent.eot))
    (m5,), (m3,), (m1,), (none,) = (a.nets[n][:1] for n in (BEST, "m3", "m1", NONE))
    assert signs("e02", f"m5 − {NONE}, clean") == {(m5, CLEAN, None): 1, (none, CLEAN, None): -1}
    assert signs("e06", f"m1 − {NONE}, PGD") == {(m1, "PGD", eot): 1, (none, "PGD", eot): -1}
    assert signs("e07", "m3 − m1, FGSM") == {(m3, "FGSM", eot): 1, (m1, "FGSM", eot): -1}
    assert signs("e10", "PGD, no EoT − PGD") == {(m5, "PGD", White(Backprop(1))): 1, (m5, "PGD", eot): -1}
    assert signs("e15", "FGSM − PGD") == {(m5, "FGSM", eot): 1, (m5, "PGD", eot): -1}
    for net in (AT, MIXED):
        assert signs("e13", f"m5 − {net}, PGD") == {(m5, "PGD", eot): 1, (c.nets[net][0], "PGD", eot): -1}
    ours, pni = r.nets["A2SNN"][0], r.nets["PNI"][0]
    assert signs("e01", "A2SNN − PNI, FGSM") == {(ours, "FGSM", eot): 1, (pni, "FGSM", eot): -1}
    assert not any("kappa 0.1" in part for part in told["e03"].parts) and len(told["e03"].parts) == 12
    mean = told["e11"].parts["one pass − mean of 10, PGD"]
    assert {group[0][0].policy.draws: weight for group, weight in mean.items()} == {1: 1, 10: -1}
    weaker, stronger = told["e05"].parts.values()
    generations, pixels = ([{group[0][0].on.attack.generations for group in form} for form in (weaker, stronger)],
                           [[group[0][0].on.threat.eps for group in form] for form in (weaker, stronger)])  # fmt: skip
    assert generations == [{where.rivals.spent.short}, {where.rivals.spent.long}] and pixels == [[3, 1], [1, 3]]
    assert [w for form in (weaker, stronger) for w in form.values()] == [1, -1, 1, -1]
    assert {len(told[id].parts) for id in ("e17", "e17-union")} == {6, 1} and told["e17"].side == "below"
    radii = [[group[0][0].on.threat.eps for group in form] for form in told["e19"].parts.values()]
    assert radii == [[RADII[i], RADII[i + 1]] for i in range(7)]
    draws = {group[0][0].on.access.estimator.draws for form in told["e14"].parts.values() for group in form}
    assert draws == {35, 40, 50}
    wide = signs("e20", f"A2SNN − {WIDE}, clean")
    assert wide == {(ours, CLEAN, None): 1, (r.nets[WIDE][0], CLEAN, None): -1} and told["e20"].side == "below"


def test_a_union_has_the_papers_attack_all_losses_and_the_closed_form(where: Ground) -> None:
    told = {claim.id: claim for claim in claims(where)}
    ((group, _), (other, _)) = told["e06-union"].parts[f"m1 − {NONE}, worst of all"].items()
    losses = [s.on.attack.loss if isinstance(s.on, Craft) else CLEAN for (s,) in group]
    assert (
        losses == ["ce", *LOSSES, "margin", CLEAN] and len(other) == len(group) - 1
    )  # nothing Gaussian to be exact on
    assert {s.on.threat for (s,) in group if isinstance(s.on, Craft)} == {Threat("linf", where.ablation.eps)}
    pixels = {group for form in told["e04-union"].parts.values() for group in form}
    assert all(s.on.threat.norm == "l0" for g in pixels for (s,) in g if isinstance(s.on, Craft))
    for claim in told.values():  # paired: the same images on both sides
        images = {s.examples for form in claim.parts.values() for group in form for (s,) in group}
        assert len(images) == 1, claim.id


def test_controls_differ_from_m5_in_what_they_are_named_for(where: Ground) -> None:
    (m5,) = where.controls.nets[BEST]
    assert isinstance(m5, Train)
    m5 = replace(m5, recipe=replace(m5.recipe, epochs=4))
    made = {name: nets[0] for name, nets in controls(m5, 0.1, SMALL).items()}
    assert made[AT].recipe.adversary.clean == 0 and made[MIXED].recipe.adversary.clean == 0.5
    assert made[LONGER].recipe.adversary is None and made[AT].begin == made[LONGER].begin == m5
    assert made[AFTER].net.independent == SMALL.independent and made[AFTER].recipe == m5.recipe
    published = competitors(DIGITS, TABLE7["cifar10"])
    (narrow,), (wide,) = published["A2SNN"], published[WIDE]
    assert wide.net == replace(narrow.net, dim=512) and wide.recipe == narrow.recipe
    warm = {name: nets[0].recipe.adversary for name, nets in published.items()}
    assert warm["PNI"].warmup == 5 and warm["L2P"].warmup == 20 and warm["A2SNN"] is None and warm["RSE"] is None


def test_what_the_audit_is_told_of_m5_is_what_a_probe_finds(where: Ground) -> None:
    x = pixels(ON.load().x[:4])
    net = where.controls.nets[BEST][0].net.build(DIGITS.shape, 10).eval()
    assert {k: v for k, v in probe(net, x)._asdict().items() if k in ("gaussian", "quiets", "ruled", "spiking")} == {
        k: getattr(KNOWN, k) for k in ("gaussian", "quiets", "ruled", "spiking")
    }
    assert KNOWN.doubles == doubles(net, x) and KNOWN.stochastic and KNOWN.differentiable


def test_the_whole_study_runs_on_digits(smoke: Study, tmp_path: Any) -> None:
    """All 620 cells of the paper, 19 trainings among them, by the code of every scale: about 15 s."""
    store = Store(tmp_path / "store")
    outcome = carry_out(smoke.needs(), store, 0, silent=True)
    assert not outcome.failed
    document = Document(smoke.freeze(), store).whole()
    for one in document["tables"]:
        missing = [c for line in one["cells"] for c in line if c and not c["keys"] and "absent" not in c]
        assert not missing, one["id"]
    theorem = next(one for one in document["tables"] if one["id"].endswith("-theorem"))
    beyond = theorem["cols"].index("pair beyond the bound")
    assert all(line[beyond]["value"] == 0 for line in theorem["cells"])
    assert len(document["drawings"]) == 3 and len(document["audits"]) == 1
    assert all(check["sentence"] != "not computed" for check in document["checks"])
