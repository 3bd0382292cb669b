"""The evidence of an audit: landscape and faithfulness against closed forms, what is described, one small audit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from toy_nets import AlwaysDropout

from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.auditing import describe_audit
from robassay.cell import Model, cell
from robassay.cells import Craft, Examples, Score
from robassay.checklist import faithfulness
from robassay.classifier import Classifier
from robassay.data import find, pixels
from robassay.document import Document
from robassay.errors import UsageError
from robassay.estimators import Backprop, Ruled
from robassay.evidence import evidence, galleries
from robassay.given import held, held_data
from robassay.landscape import Faithful, Landscape
from robassay.nets.ops import sign
from robassay.rules import Rectangle
from robassay.run import carry_out
from robassay.signals import Signals
from robassay.store import Store
from robassay.study import Audit, Study
from robassay.threat import Threat

PIXELS = 36
EPS = 0.04


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Lie(torch.autograd.Function):
    """The identity with another gradient: "noise" is drawn anew and tells nothing, "against" is the opposite."""

    @staticmethod
    def forward(ctx, x, kind):
        ctx.kind = kind
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        noise = gradient.norm() * torch.randn_like(gradient)
        return {"true": gradient, "against": -gradient, "noise": noise, "none": 0 * gradient}[ctx.kind], None


class Curved(Classifier):
    """Two classes; the margin of label 0 is w·x + xᵀQx + noise · sum(x): central differences of it are exact."""

    classes = 2

    def __init__(self, kind: str, curved: float, noise: float) -> None:
        super().__init__()
        self.kind, self.curved, self.noise = kind, curved, noise
        self.stochastic = noise > 0

    def draw(self, h):
        x = Lie.apply(h.flatten(1), self.kind)
        height = x @ numbers(PIXELS) + self.curved * ((x @ numbers(PIXELS, PIXELS, seed=1)) * x).sum(1)
        height = height + self.noise * torch.randn(1) * x.sum(1)
        return torch.stack([torch.zeros_like(height), height], 1)


@cell
class Made(Model):
    kind: str = "true"
    curved: float = 0.0
    noise: float = 0.0

    def compute(self, ctx):
        return {"made": torch.tensor(1)}

    def open(self, ctx):
        return Curved(self.kind, self.curved, self.noise)


def greys(n: int) -> Examples:
    """Images of 6 × 6 pixels so far from black and white that nothing is cut, of two classes."""
    x = 0.3 + 0.4 * torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    return Examples(held_data(x, torch.arange(n) % 2), "test", 0, n)


@pytest.fixture(scope="module")
def grey() -> Examples:
    return greys(8)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("s") / "store")


def computed(one, store: Store) -> dict[str, np.ndarray]:
    outcome = carry_out([one], store, 0, silent=True)
    assert not outcome.failed
    return store.read(one.key)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("curved", "noise"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5)])
def test_a_true_gradient_is_faithful_to_rounding(grey, store, norm, curved, noise):
    """Also on a random function, whose gradient and differences are of other draws: with enough of them they agree."""
    how = Backprop(64) if noise else Backprop(1)
    found = computed(Faithful(Made(curved=curved, noise=noise), grey, Threat(norm, EPS), how), store)
    assert found["agreement"].shape == (8,)
    assert found["agreement"].min() > (0.9 if noise else 0.9999)


def test_the_rise_of_a_linear_function_is_known(grey, store):
    """Along the sign of w the slope is ‖w‖₁, along random signs its root mean square is about ‖w‖₂."""
    found = computed(Faithful(Made(), grey, Threat("linf", EPS), Backprop(1), directions=200), store)
    w = numbers(PIXELS)
    assert found["rise"] == pytest.approx(np.full(8, float(w.abs().sum() / w.norm())), rel=0.15)


@pytest.mark.parametrize(("kind", "low", "high"), [("noise", -0.25, 0.25), ("none", 0.0, 0.0), ("against", -1, -0.999)])
def test_a_backward_that_lies_is_not(grey, store, kind, low, high):
    found = computed(
        Faithful(Made(kind=kind, curved=0.5), grey, Threat("linf", EPS), Backprop(1), directions=200), store
    )
    assert low <= found["agreement"].mean() <= high


class Binarised(Classifier):
    """A random projection onto 1,000 signs, weighted at random: no gradient is true, some are of use."""

    classes, stochastic = 2, False

    def draw(self, h):
        u = 1.5 * (h.flatten(1) - 0.5) @ numbers(PIXELS, 1000)  # of size 1
        height = sign(u) @ numbers(1000, seed=1)
        return torch.stack([torch.zeros_like(height), height], 1)


@cell
class Signs(Model):
    def compute(self, ctx):
        return {"made": torch.tensor(1)}

    def open(self, ctx):
        return Binarised()


@pytest.mark.parametrize(("window", "flag"), [(1.0, False), (0.3, False), (0.003, True), (0.0005, True)])
def test_a_binarised_network_lies_through_narrow_windows(store, window, flag):
    how = Ruled(Rectangle(2 * window), Backprop(1))
    found = faithfulness(computed(Faithful(Signs(), greys(80), Threat("linf", 0.2), how), store)["agreement"])
    assert found["flag"] == flag, found


def test_where_nothing_changes_there_is_nothing_to_compare(grey, store):
    class Flat(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2) + 0 * x.flatten(1)[:, :2]

    found = computed(Faithful(held(Flat(), grey), grey, Threat("linf", EPS), Backprop(1)), store)
    assert np.isnan(found["agreement"]).all() and np.isnan(found["rise"]).all()


def test_a_landscape_is_the_plane_of_a_linear_function(grey, store):
    """Along the gradient's sign the margin rises by eps · ‖w‖₁ per unit; the middle is the image itself."""
    found = computed(Landscape(Made(), grey, Threat("linf", EPS), Backprop(1), 5, 1), store)
    assert found["at"].tolist() == [-2, -1, 0, 1, 2] and found["margin"].shape == (8, 5, 5)
    images = grey.load()
    height = images.x.flatten(1).float() / 255 @ numbers(PIXELS)
    here = torch.where(images.y == 0, height, -height).numpy()
    assert found["margin"][:, 2, 2] == pytest.approx(here, abs=1e-4)
    slope = float(EPS * numbers(PIXELS).abs().sum())
    assert found["margin"][:, :, 2] - here[:, None] == pytest.approx(np.tile(slope * found["at"], (8, 1)), abs=1e-4)
    across = found["margin"][:, 2] - here[:, None]
    assert across == pytest.approx(across[:, 3:4] * found["at"], abs=1e-4)
    assert (np.abs(across[:, 3]) < slope).all(), "a random direction is less steep"
    assert found["entropy"] == pytest.approx(np.log1p(np.exp(found["margin"])), abs=1e-4)


def test_a_landscape_of_a_random_function_is_smooth(grey, store):
    """Every point meets the same draws: noise of any size leaves the plane of a linear function a plane."""
    found = computed(Landscape(Made(noise=50.0), grey, Threat("linf", EPS), Backprop(4), 5, 3), store)
    bend = np.diff(found["margin"], n=2, axis=1)
    assert np.abs(bend).max() < 1e-3 * np.abs(found["margin"]).max()


def test_what_cannot_be_measured_is_refused(grey):
    threat = Threat("linf", EPS)
    with pytest.raises(UsageError, match="odd"):
        Landscape(Made(), grey, threat, grid=10)
    with pytest.raises(UsageError, match="share"):
        Faithful(Made(), grey, threat, share=0.0)
    with pytest.raises(UsageError, match="radius"):
        evidence(Made(), grey, Threat("linf"), "quick", False)
    with pytest.raises(UsageError, match="quick"):
        evidence(Made(), grey, threat, "fast", False)


@pytest.mark.parametrize("budget", ["quick", "standard", "thorough"])
def test_only_a_random_network_has_curves_over_draws_and_noise_to_switch_off(grey, budget):
    threat, plain = Threat("linf", EPS), {"eps", "steps", "landscape", "faithful"}
    ids = lambda *how: {item.id for item in evidence(Made(), grey, threat, budget, *how)}
    assert ids(False) == plain
    assert ids(True) == plain | {"draws"}
    assert ids(True, True, True) == plain | {"draws", "noise"}
    assert ids(True, False, True) == {"eps", "landscape"}


def test_the_axes_are_what_was_asked_for(grey):
    found = {item.id: item for item in evidence(Made(), grey, Threat("linf", 0.1), "standard", True, True, True)}
    assert found["eps"].x == pytest.approx((0, 0.025, 0.05, 0.1, 0.2, 0.4, 1.0))
    assert found["steps"].x == (1, 5, 10, 20, 40, 80) and found["draws"].x == (1, 2, 5, 10, 20, 50)
    wide = next(i for i in evidence(Made(), grey, Threat("l2", 2.0), "standard", False) if i.id == "eps")
    assert wide.x == pytest.approx((0, 0.5, 1, 2, 4, 6.0)), "the length of a white image of 36 pixels; 8 is more"
    attacks = [m.evaluations[0][0].on.attack for m in found["steps"].series["PGD ce"]]
    assert [getattr(a, "steps", 1) for a in attacks] == [1, 5, 10, 20, 40, 80]
    draws = [m.evaluations[0][0].on.access.estimator.draws for m in found["draws"].series["PGD margin"]]
    assert draws == [1, 2, 5, 10, 20, 50]
    assert list(found["draws"].series) == ["PGD ce", "PGD scaled_ce", "PGD margin"]


@pytest.mark.parametrize(("side", "expected"), [(64, None), (65, 1)])
def test_every_attack_of_an_audit_shows_an_image_and_nothing_is_computed_for_it(side, expected):
    """Of large images the claimed attack's alone; what makes no images has none."""
    on = Examples(held_data(torch.rand(4, 1, side, 6), torch.arange(4) % 2), "test", 0, 4)
    item = describe_audit(Made(), on, Threat("linf", EPS), "quick")
    shown = galleries(item)
    made = [name for name, (score, *_) in item.battery.items() if isinstance(score.on, Craft)]
    assert len(shown) == (expected or 2 + len(made)) and len(made) >= 5
    assert shown[0].caption == f"{item.title}: claimed" and shown[0].score in item.claimed
    assert len({one.id for one in shown}) == len({one.caption for one in shown}) == len(shown)
    assert {cell.key for one in shown for cell in one.needs()} <= {cell.key for cell in item.needs()}


def test_evidence_uses_few_images_and_its_own_draws(grey):
    on = Examples(find("digits"), "test", 0, 300)
    items = evidence(held(nn.Flatten(), on), on, Threat("linf", 0.1), "quick", True)
    cells = [c for item in items for c in item.needs()]
    assert max((c.examples if isinstance(c, Score) else c.on).stop for c in cells) <= 50
    assert {c.repeats for c in cells if isinstance(c, Score)} == {20}
    assert any(isinstance(c.on, Craft) for c in cells if isinstance(c, Score))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict]:
    """Small quick audits of a linear network trained on digits: times 100, and with dropout that stays on."""
    images = find("digits").split("train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(64, 10)
        optimizer = torch.optim.Adam(linear.parameters(), 1e-2)
        for _ in range(300):
            rows = torch.randint(len(images.y), (128,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(linear(pixels(images.x[rows]).flatten(1)), images.y[rows]).backward()
            optimizer.step()
    made = {"masked": (Times(100.0), linear), "random": (AlwaysDropout(0.2), linear)}
    nets = {
        name: nn.Sequential(nn.Flatten(), *((a, b) if name == "random" else (b, a))) for name, (a, b) in made.items()
    }
    items = tuple(described(name, net) for name, net in nets.items())
    place = Store(tmp_path_factory.mktemp("audits") / "store")
    study = Study("small", "Small", items)
    assert not carry_out(study.needs(), place, 0, silent=True).failed
    return {found["id"]: found for found in Document(study.freeze(), place).audits()}


def described(name: str, net: nn.Module) -> Audit:
    """An audit with a battery of one attack, and all the evidence that a quick one has."""
    on, threat = Examples(find("digits"), "test", 0, 24), Threat("linf", EPS)
    model = held(net, on)

    def against(attack: PGD) -> tuple[Score, ...]:
        return (Score(model, Craft((model,), on, attack, threat, White(Backprop(5))), repeats=10),)

    return Audit(
        id=name,
        title=name,
        network="linear",
        threat=threat,
        clean=(Score(model, on, repeats=10),),
        claimed=against(PGD(steps=10, keep="last")),
        adequate=against(PGD(steps=20)),
        battery={"PGD-20 margin": against(PGD(steps=20, loss="margin"))},
        signals=(Signals(model, on),),
        evidence=evidence(model, on, threat, "quick", name == "random", True, True),
    )


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_the_evidence_of_an_audit_is_a_json_value_with_every_point(results):
    for name, result in results.items():
        shown = {one["id"]: one for one in json.loads(json.dumps(result["evidence"]))}
        assert shown.keys() == {"eps", "steps", "landscape"} | ({"draws", "noise"} if name == "random" else set())
        points = [
            p for one in shown.values() if one["kind"] == "curves" for line in one["series"] for p in line["points"]
        ]
        assert all(p["n"] == 24 and 0 <= p["low"] <= p["value"] <= p["high"] <= 1 for p in points)
        grid = shown["landscape"]
        assert np.shape(grid["margin"]) == np.shape(grid["entropy"]) == (len(grid["at"]),) * 2
        start, *_, end = [p["value"] for p in shown["eps"]["series"][1]["points"]]
        assert start > 0.75 and end == 0, "scaled cross-entropy reaches everyone where everything is allowed"
        assert "faithful" in {c["name"] for c in result["checks"]}
    noise = next(one for one in results["random"]["evidence"] if one["id"] == "noise")
    clean = [line[0]["value"] if line[0] else None for line in noise["cells"]]
    assert clean[0] > 0.75 and clean[1] > 0.75 and clean[2] is None


def test_the_checklist_of_real_audits(results):
    for name, result in results.items():
        rows = {row["criterion"]: row for row in result["checklist"]}
        assert len(rows) == 11
        assert rows["black box beats white box"]["outcome"] == "not measured"
        assert rows["unavailable gradients"]["outcome"] == ("seen" if name == "masked" else "not seen")
        assert rows["unbounded attacks fail"]["outcome"] != "not measured"
        measured = rows["transfer failure"]["outcome"] != "not measured"
        assert measured == (name == "random")
    honest = {row["criterion"] for row in results["random"]["checklist"] if row["outcome"] == "seen"}
    assert honest <= {"one step beats many", "incomplete optimisation", "unstable predictions", "transfer failure"}


def test_a_linear_network_is_faithful_whatever_its_scale(results):
    for result in results.values():
        (check,) = [c for c in result["checks"] if c["name"] == "faithful"]
        assert check["value"] > 0.9 and not check["flag"]
