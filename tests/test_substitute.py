"""Substitutes: hard labels alone, every question counted, and the same bits after an interruption."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robassay.attacks.gradient import BIM
from robassay.attacks.noise import Uniform
from robassay.cell import Arrays, Model, cell
from robassay.cells import Craft, Examples
from robassay.classifier import Classifier
from robassay.data import Images, find, pixels
from robassay.defences.adversarial import AdversarialTraining
from robassay.document import Document
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.imitation import noisy
from robassay.nets.bsn import BSN
from robassay.nets.mlp import MLP
from robassay.policy import MeanOf, Once, Rejecting
from robassay.protocols.parts import Means
from robassay.protocols.substitutes import ACCURACY, AVERAGED, QUESTIONS, by_substitute, tables
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Study
from robassay.substitute import Asked, Substitute, grown
from robassay.threat import Threat

DIGITS = find("digits")
QUICK, ONE = Recipe(epochs=3, batch=8), Recipe(epochs=1, batch=64)


class Asks(Classifier):
    """Linear in the pixels; counts the rows that it is asked about; random where ``noise`` is above 0."""

    rows_seen = 0
    rows = "independent"

    def __init__(self, weight: Tensor, bias: Tensor, noise: float) -> None:
        super().__init__()
        self.weight, self.bias, self.noise = weight, bias, noise
        self.classes, self.stochastic = len(weight), noise > 0

    def draw(self, h: Tensor) -> Tensor:
        Asks.rows_seen += len(h)
        logits = h.flatten(1) @ self.weight.T + self.bias
        return logits + self.noise * torch.randn_like(logits) if self.noise else logits


@cell
class Linear(Model):
    """Ridge regression on the training digits: right on nine of ten."""

    noise: float = 0.0

    def compute(self, ctx: Any) -> Arrays:
        return {"fitted": torch.tensor(1)}

    def open(self, ctx: Any) -> Classifier:
        images = DIGITS.split("train")
        x = torch.cat([pixels(images.x).flatten(1), torch.ones(len(images.y), 1)], 1)
        square = x.double().T @ x.double() + 20 * torch.eye(65).double()
        found = torch.linalg.solve(square, x.double().T @ torch.eye(10)[images.y].double()).float().T
        return Asks(20 * found[:, :-1], 20 * found[:, -1], self.noise)


class Killed(Exception):
    """Stands for the end of the process."""


@dataclass
class Ctx:
    """A context without a store."""

    scratch: Path
    killed_at: int = -1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    stored: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    told: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scratch.mkdir(exist_ok=True)

    def load(self, one: Any) -> dict[str, np.ndarray]:
        return self.stored[one.key]

    def open(self, model: Model) -> Classifier:
        return model.open(self).eval()

    def progress(self, done: int, total: int) -> None:
        self.told.append((done, total))
        if len(self.told) == self.killed_at:
            raise Killed


def substitute(**fields: Any) -> Substitute:
    """18 digits that are learnt and 2 that are held, doubled twice."""
    whole = {"net": MLP((8,)), "oracle": Linear(), "on": Examples(DIGITS, "test", 0, 20), "recipe": QUICK, "rounds": 2}
    return Substitute(**(whole | fields))


def equal(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------------------- how the set grows


def test_the_step_changes_its_sign_every_second_round() -> None:
    assert substitute(rounds=5).steps == pytest.approx((0.1, 0.1, -0.1, -0.1, 0.1))
    assert substitute(rounds=4, period=3, step=0.2).steps == pytest.approx((0.2, 0.2, 0.2, -0.2))


class Sheet(Classifier):
    """Two logits of two pixels: W x."""

    classes = 2

    def __init__(self, *rows: tuple[float, float]) -> None:
        super().__init__()
        self.weight = torch.tensor(rows)

    def draw(self, h: Tensor) -> Tensor:
        return h.flatten(1) @ self.weight.T


@pytest.mark.parametrize("step", [0.1, -0.1])
def test_images_move_along_the_sign_of_their_labels_logit_and_stay_in_the_box(step: float) -> None:
    """The loss would lead elsewhere: its gradient is a share of W_0 − W_1 = (−1, 2), or of minus that."""
    model = Sheet((1.0, 1.0), (2.0, -1.0))
    x = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.95, 0.05]]).reshape(3, 1, 1, 2)
    found = grown(model, x, torch.tensor([0, 1, 1]), step, Backprop(10), Stream()).reshape(3, 2)
    by_hand = {0.1: [[0.6, 0.6], [0.6, 0.4], [1.0, 0.0]], -0.1: [[0.4, 0.4], [0.4, 0.6], [0.85, 0.15]]}
    assert torch.allclose(found, torch.tensor(by_hand[step]))


def test_the_gradient_of_a_random_network_is_the_mean_of_ten_draws() -> None:
    class Tossed(Sheet):
        """The first weight of the logit is 1 in most draws and −2 in some: on the mean it is positive or not."""

        stochastic, weights = True, list[float]()

        def draw(self, h: Tensor) -> Tensor:
            factor = torch.where(torch.rand(()) < 0.7, 1.0, -2.0)
            self.weights.append(factor.item())
            return h.flatten(1) @ (self.weight * torch.tensor([factor, 1.0])).T

    model, x = Tossed((1.0, 1.0), (1.0, 1.0)), torch.full((1, 1, 1, 2), 0.5)
    estimator = substitute().estimator
    means = set()
    for i in range(20):
        model.weights.clear()
        found = grown(model, x, torch.tensor([0]), 0.1, estimator, Stream((i,))).flatten()
        assert len(model.weights) == 10
        mean = np.mean(model.weights)
        means.add(np.sign(mean))
        assert found.tolist() == pytest.approx([0.5 + 0.1 * np.sign(mean), 0.6])
    assert len(means) > 1


def test_the_set_doubles_and_what_is_refused_does_not_grow(tmp_path: Path) -> None:
    found = substitute(rounds=3, recipe=ONE).compute(Ctx(tmp_path / "all"))
    assert found["history/images"].tolist() == [18, 36, 72, 144]
    assert found["history/queries"].tolist() == [20, 18, 36, 72]
    one = substitute(rounds=3, policy=Rejecting(confidence=0.999), on=Examples(DIGITS, "test", 0, 60), recipe=ONE)
    some = one.compute(Ctx(tmp_path / "some"))
    refused, sizes, asked = (some["answers"] < 0)[: one.learnt], some["history/images"], some["history/queries"]
    assert 0 < refused.sum() < one.learnt and sizes[0] == (~refused).sum()
    assert asked.tolist() == [60, *sizes[:-1].tolist()]
    assert (sizes[1:] < 2 * sizes[:-1]).all() and (sizes[1:] >= sizes[:-1]).all()
    assert (some["queries"][: one.learnt][refused] == 1).all()


@cell
class Silent(Linear):
    """Says 10 where it is not sure, as MC-SEFRON does where no neuron fires: one logit more than there are classes."""

    def open(self, ctx: Any) -> Classifier:
        sure = super().open(ctx)
        assert isinstance(sure, Asks)
        none = torch.zeros(1, 64)
        return Asks(torch.cat([sure.weight, none]), torch.cat([sure.bias, torch.tensor([9.0])]), 0.0)


@pytest.mark.parametrize("mimic", [0, 1])
def test_an_answer_that_is_no_class_is_a_refusal(tmp_path: Path, mimic: int) -> None:
    one = substitute(oracle=Silent(), on=Examples(DIGITS, "test", 0, 60), recipe=ONE, mimic=mimic)
    found = one.compute(Ctx(tmp_path))
    refused, labels = (found["answers"] < 0)[: one.learnt], found["answers"]
    assert 0 < refused.sum() < one.learnt and labels.max() < 10
    assert found["history/images"][0] == (~refused).sum()


def test_only_the_oracles_labels_are_learnt_and_no_true_one(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Mislabelled:
        """Digits whose labels are turned by so many classes; its name does not tell."""

        turned: int = field(metadata={"key": False})
        name: str = "digits"
        checksum: str = DIGITS.checksum
        classes: int = 10
        shape: tuple[int, int, int] = (1, 8, 8)
        note: str = ""

        def split(self, name: Any) -> Images:
            images = DIGITS.split(name)
            return Images(images.x, (images.y + self.turned) % 10)

    right, wrong = (substitute(on=Examples(Mislabelled(by), "test", 0, 40), mimic=1) for by in (0, 3))
    assert right.key == wrong.key
    assert equal(right.compute(Ctx(tmp_path / "right")), wrong.compute(Ctx(tmp_path / "wrong")))


# -------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize("noise, policy, draws", [(0.0, MeanOf(10), 1), (1.0, Once(), 1), (1.0, MeanOf(10), 10)])
@pytest.mark.parametrize("mimic", [0, 2])
def test_every_question_is_counted(noise: float, policy: Any, draws: int, mimic: int, tmp_path: Path) -> None:
    """By hand: 18 · 2² + 2; with mimicking 3 epochs · (2 + 1) steps · 18 · (1 + 2 + 4) more."""
    Asks.rows_seen = 0
    found = substitute(oracle=Linear(noise), policy=policy, mimic=mimic).compute(Ctx(tmp_path))
    each = 4 + (3 * 3 * 7 if mimic else 0)
    assert found["queries"].tolist() == [each] * 18 + [1, 1]
    assert torch.equal(found["draws"], draws * found["queries"])
    assert found["queries"].sum() == found["history/queries"].sum() == (74 if not mimic else 74 + 1134)
    assert Asks.rows_seen == found["draws"].sum()


def test_what_was_asked_is_an_evaluation_of_the_own_images(tmp_path: Path) -> None:
    one, ctx = substitute(), Ctx(tmp_path)
    ctx.stored[one.key] = {name: a.numpy() for name, a in one.compute(ctx).items()}
    found = Asked(one).compute(ctx)
    own = DIGITS.split("test")
    expected = Linear().open(ctx)(pixels(own.x[:20])).argmax(1)
    assert torch.equal(found["decisions"][0].long(), expected) and torch.equal(found["labels"], own.y[:20])
    assert torch.equal(found["queries"], torch.tensor([4] * 18 + [1, 1]))


# -------------------------------------------------------------------------------------------- variance mimicking


def test_noise_has_the_variance_of_the_batch_pixel_by_pixel() -> None:
    x = torch.zeros(20_000, 2, 1, 2)
    x[::2, 0, 0, 1] = 1.0  # half black, half white: a standard deviation of .5
    x[:, 1, 0, 0] = 0.3 + 0.1 * torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    x[:, 1, 0, 1] = 0.7
    change = noisy(x, False, Stream(("n",))) - x
    assert change.std(0).flatten().tolist() == pytest.approx([0.0, 0.5, 0.1, 0.0], rel=0.03)
    assert change.mean(0).abs().max() < 0.02
    assert (change[:, 0, 0, 0] == 0).all() and (change[:, 1, 0, 1] == 0).all()  # a border stays, of whatever grey
    assert len(change[::2, 0, 0, 1].unique()) > 9_000  # fresh for every image, the same ones too
    assert torch.equal(noisy(x, True, Stream(("n",))), (x + change).clamp(0, 1))
    assert change.abs().max() > 1


def test_a_constant_batch_and_a_single_image_stay_as_they_are() -> None:
    one = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for x in (one, one.repeat(5, 1, 1, 1)):
        assert torch.allclose(noisy(x, False, Stream()), x, atol=1e-6)


def test_mimicking_takes_a_step_for_every_copy_with_labels_of_its_own(tmp_path: Path) -> None:
    """A net that notes what it is shown in training: each batch, then m noisy ones with the oracle's answer to them."""
    shown: list[Tensor] = []

    class Noting(Asks):
        def draw(self, h: Tensor) -> Tensor:
            if h.shape[0] <= 8:
                shown.append(h.detach().clone())
            return super().draw(h)

    @cell
    class Noted(Linear):
        def open(self, ctx: Any) -> Classifier:
            made = super().open(ctx)
            assert isinstance(made, Asks)
            return Noting(made.weight, made.bias, 0.0)

    substitute(oracle=Noted(), mimic=2, rounds=0, recipe=Recipe(epochs=2, batch=6)).compute(Ctx(tmp_path))
    assert [len(x) for x in shown] == [6] * (2 * 3 * 3)  # 2 epochs, 3 batches, 3 steps each
    batches = torch.stack(shown).reshape(2, 3, 3, 6, 64)
    own = pixels(DIGITS.split("test").x[:18]).flatten(1)
    for epoch in batches:
        assert {tuple(row.tolist()) for row in epoch[:, 0].reshape(18, 64)} == {tuple(r.tolist()) for r in own}
        assert not torch.equal(epoch[:, 1], epoch[:, 2]) and not torch.equal(epoch[:, 0], epoch[:, 1])
    assert not torch.equal(batches[0, 0, 1] - batches[0, 0, 0], batches[1, 0, 1] - batches[1, 0, 0])


# ------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("fields", [{}, {"net": BSN((12,)), "oracle": Linear(1.0), "mimic": 1}], ids=["plain", "noise"])
@pytest.mark.parametrize("killed_at", [2, 12, 36])
def test_an_interrupted_substitute_ends_with_the_same_bits(fields: Any, killed_at: int, tmp_path: Path) -> None:
    """Killed in the first round, in the second and in the last: 9, 15 and 27 batches."""
    one = substitute(**fields)
    whole = one.compute(Ctx(tmp_path / "whole"))
    with pytest.raises(Killed):
        one.compute(Ctx(tmp_path / "cut", killed_at))
    torch.rand(3)  # the process that goes on has another past
    again = Ctx(tmp_path / "cut")
    assert equal(whole, one.compute(again))
    assert len(again.told) == {2: 51, 12: 42, 36: 27}[killed_at]
    assert again.told[-1][0] == again.told[-1][1]


def test_the_key_and_nothing_else_decides_the_bits(tmp_path: Path) -> None:
    one = substitute(net=BSN((12,)), oracle=Linear(1.0), mimic=1)
    first, before = one.compute(Ctx(tmp_path / "1")), torch.get_rng_state()
    assert equal(first, one.compute(Ctx(tmp_path / "2"))) and torch.equal(before, torch.get_rng_state())
    assert not equal(first, dataclasses.replace(one, seed=1).compute(Ctx(tmp_path / "3")))


# ------------------------------------------------------------------------------------------------- what it is for


def test_a_substitute_of_a_linear_oracle_agrees_with_it_and_its_images_transfer(tmp_path: Path) -> None:
    recipe = Recipe(epochs=20, batch=32, lr=3e-3)
    one = Substitute(MLP((32,)), Linear(), Examples(DIGITS, "train", 0, 300), recipe, rounds=2)
    on = Examples(DIGITS, "test", 0, 100)
    outcome = by_substitute(
        one,
        on,
        {"BIM": Means(BIM(), Threat("linf", 0.2), AVERAGED), "noise": Means(Uniform(), Threat("linf", 0.2), None)},
    )
    table, asked = tables("t", "Digits", {"plain": outcome})
    study = Study("s", "S", (table, asked))
    store = Store(tmp_path / "store")
    assert not carry_out(study.needs(), store, 0, silent=True).failed
    shown, questions = Document(study.freeze(), store).tables()
    found = dict(zip(shown["cols"], shown["cells"][0], strict=True))
    assert found["agreement with the oracle"]["value"] > 0.85 and found["oracle's accuracy"]["value"] > 0.85
    assert found["BIM"]["n"] > 80 and found["BIM"]["low"] > found["noise on the substitute"]["high"]
    assert found[ACCURACY]["n"] == 100
    (cost,) = questions["cells"][0]
    assert questions["cols"] == [QUESTIONS] and cost["n"] == 300
    assert cost["value"] * 300 == pytest.approx(270 * 4 + 30)


# ---------------------------------------------------------------------------------------------------- bad input


def test_an_oracle_that_labels_nothing_or_all_alike_is_told(tmp_path: Path) -> None:
    @cell
    class Alike(Linear):
        def open(self, ctx: Any) -> Classifier:
            return Asks(torch.zeros(10, 64), torch.eye(10)[7], 0.0)  # a confidence of e / (e + 9) = .23

    with pytest.raises(UsageError, match="gave one label, 7, to the 18 images"):
        substitute(oracle=Alike()).compute(Ctx(tmp_path))
    with pytest.raises(UsageError, match="refused all of the 18 images to learn"):
        substitute(oracle=Alike(), policy=Rejecting(confidence=0.25)).compute(Ctx(tmp_path))
    assert substitute(oracle=Alike(), rounds=0).compute(Ctx(tmp_path)), "an audit's twin of a constant network"


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"on": Examples(DIGITS, "test", 5, 5)}, "0 own images"),
        ({"on": Examples(DIGITS, "test", 0, 2)}, "two at least must be learnt"),
        ({"rounds": -1}, "rounds ≥ 0"),
        ({"period": 0}, "period ≥ 1"),
        ({"step": 0.0}, "step > 0"),
        ({"held": 1.0}, "no share"),
        ({"clip": True}, "noisy copies, and there are none"),
        ({"recipe": Recipe(epochs=2, adversary=AdversarialTraining())}, "has adversary="),
    ],
)
def test_what_means_nothing_is_refused(fields: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        substitute(**fields)


@dataclass(frozen=True)
class Greys:
    """Even images from black to white, class 1 where they are brighter than the middle."""

    side: int = 4
    name: str = "greys"
    checksum: str = "greys"
    classes: int = 2
    note: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, self.side, self.side)

    def split(self, name: Any) -> Images:
        level = torch.randperm(200, generator=torch.Generator().manual_seed(0)) + 28
        x = level.to(torch.uint8)[:, None, None, None].expand(-1, *self.shape).contiguous()
        return Images(x, (level > 127).long())


@cell
class Brightness(Model):
    """Decides whether the mean pixel is above a half."""

    data: Greys = Greys()

    def compute(self, ctx: Any) -> Arrays:
        return {"none": torch.tensor(0)}

    def open(self, ctx: Any) -> Classifier:
        ones = torch.ones(self.data.side**2) / self.data.side**2
        return Asks(torch.stack([-ones, ones]), torch.tensor([0.5, -0.5]), 0.0)


def test_images_of_another_shape_or_of_the_attackers_own_are_refused() -> None:
    with pytest.raises(UsageError, match="oracle was trained for images"):
        substitute(oracle=Brightness())
    one = Substitute(MLP((8,)), Brightness(), Examples(Greys(), "test", 0, 40), QUICK)
    with pytest.raises(UsageError, match="overlap"):
        by_substitute(one, Examples(Greys(), "test", 39, 50), {})
    with pytest.raises(UsageError, match="Attack the same kind"):
        by_substitute(one, Examples(DIGITS, "test", 40, 50), {})
    with pytest.raises(UsageError, match="a source was trained for images"):
        Craft((one,), Examples(DIGITS, "test", 40, 50), BIM(), Threat("linf", 0.1))


def test_a_protocol_with_a_known_answer(tmp_path: Path) -> None:
    """Levels lie within .4 of the middle: a step of .45 turns every one of them, one of .001 none but the nearest."""
    recipe = Recipe(epochs=40, batch=32, lr=1e-2)
    one = Substitute(MLP((64,)), Brightness(), Examples(Greys(), "test", 0, 100), recipe, rounds=1)
    wide, tiny = (Means(BIM(steps=2, loss="margin"), Threat("linf", eps), AVERAGED) for eps in (0.45, 0.001))
    outcome = by_substitute(one, Examples(Greys(), "test", 100, 160), {"wide": wide, "tiny": tiny}, slices=25)
    study = Study("s", "S", tables("t", "Greys", {"plain": outcome}))
    store = Store(tmp_path / "store")
    assert not carry_out(study.needs(), store, 0, silent=True).failed
    shown, questions = Document(study.freeze(), store).tables()
    found = dict(zip(shown["cols"], shown["cells"][0], strict=True))
    assert found["wide"]["value"] == 1 and found["wide"]["n"] >= 58
    assert found["tiny"]["n"] <= 4  # rates over what fools the substitute, empty where nothing does
    assert found["agreement with the oracle"]["value"] > 0.95 and found["oracle's accuracy"]["value"] == 1
    assert questions["cells"][0][0]["value"] * 100 == pytest.approx(90 * 2 + 10)
