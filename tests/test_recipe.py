"""A recipe's schedule and loss, against softmax regression whose steps are written out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robassay.cell import describe
from robassay.classifier import Classifier, Net
from robassay.data import Images, find, pixels
from robassay.defences.a2snn import A2SNN
from robassay.defences.l2p import L2P
from robassay.errors import UsageError
from robassay.models import Train
from robassay.nets.bnn import BNND
from robassay.nets.mlp import MLP
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.training import train

RNG = Stream(("test", "recipe"))


class Linear(Classifier):
    """Softmax regression from weights 0; remembers the rates that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.classes = torch.nn.Linear(64, 10, bias=False), 10
        torch.nn.init.zeros_(self.layer.weight)

    def draw(self, h: Tensor) -> Tensor:
        logits: Tensor = self.layer(h.flatten(1))
        return logits

    def after_step(self, rate: float) -> None:
        Softmax.rates.append(rate)


class Softmax(Net):
    rates: list[float] = []  # noqa: RUF012

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        return Linear()


def digits() -> tuple[Images, Images]:
    images = find("digits").split("train")
    return Images(images.x[:200], images.y[:200]), find("digits").split("val")


def trained(recipe: Recipe, folder: Path, **more: Any) -> Tensor:
    Softmax.rates.clear()
    found = train(Softmax(), (1, 8, 8), 10, *digits(), recipe, RNG, folder, lambda done, total: None, **more)
    return found["weight/layer.weight"].double()


def by_hand(
    rates: list[float],
    fresh: tuple[int, ...] = (),
    momentum: float = 0.0,
    temperature: float = 1.0,
    soft: Tensor | None = None,
    x: Tensor | None = None,
) -> Tensor:
    """Weights after epochs of two steps of 100 images; the gradient of softmax regression is written out."""
    images, weight, velocity = digits()[0], torch.zeros(10, 64).double(), torch.zeros(10, 64).double()
    x = (pixels(images.x) if x is None else x).flatten(1).double()
    target = torch.eye(10).double()[images.y] if soft is None else soft
    for i, rate in enumerate(rates):
        epoch = i // 2
        order = torch.randperm(200, generator=RNG.child("order", epoch).generator())
        rows = order[:100] if i % 2 == 0 else order[100:]
        error = (x[rows] @ weight.T / temperature).softmax(1) - target[rows]
        gradient = error.T @ x[rows] / (100 * temperature)
        velocity = gradient if i == 0 or (epoch in fresh and i % 2 == 0) else momentum * velocity + gradient
        weight = weight - rate * velocity
    return weight


def sgd(**fields: Any) -> Recipe:
    return Recipe(**{"batch": 100, "optimizer": "sgd", "lr": 0.5, "momentum": 0.0, "keep": "last", **fields})


def test_the_rate_changes_at_milestones_and_decays_at_every_step(tmp_path: Path) -> None:
    recipe = sgd(epochs=4, milestones=(1, 3), gamma=0.2, decay=0.1)
    factors = [1, 1, 0.2, 0.2, 0.2, 0.2, 0.04, 0.04]
    expected = [0.5 * f / (1 + 0.1 * i) for i, f in enumerate(factors)]
    weight = trained(recipe, tmp_path)
    assert Softmax.rates == pytest.approx(expected)
    assert torch.allclose(weight, by_hand(expected), atol=1e-6)
    assert not torch.allclose(weight, by_hand([0.5 * f for f in factors]), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "rates", "at"),
    [
        ({"step": 2}, [0.5] * 4 + [0.25] * 2, (2,)),
        ({"milestones": (2,)}, [0.5] * 4 + [0.25] * 2, (2,)),
        ({"milestones": (1,)}, [0.5] * 2 + [0.25] * 4, (1,)),
    ],
)
def test_a_fresh_optimiser_has_no_momentum(
    change: dict[str, Any], rates: list[float], at: tuple[int, ...], tmp_path: Path
) -> None:
    def weights(fresh: bool) -> Tensor:
        folder = tmp_path / str(fresh)
        folder.mkdir()
        return trained(sgd(epochs=3, gamma=0.5, momentum=0.9, fresh=fresh, **change), folder)

    old, new = weights(False), weights(True)
    assert torch.allclose(old, by_hand(rates, momentum=0.9), atol=1e-6)
    assert torch.allclose(new, by_hand(rates, at, momentum=0.9), atol=1e-6)
    assert not torch.allclose(old, new, atol=1e-3)


def test_the_temperature_divides_the_logits_of_the_loss(tmp_path: Path) -> None:
    weight = trained(sgd(epochs=2, temperature=5.0, lr=20.0), tmp_path)
    assert torch.allclose(weight, by_hand([20.0] * 4, temperature=5.0), atol=1e-5)


def test_noise_that_would_never_begin_is_refused() -> None:
    for net in (L2P(delay=3), A2SNN(independent=3)):
        Train(net, find("digits"), Recipe(epochs=4, keep="last"))
        for recipe in (Recipe(epochs=3, keep="last"), Recipe(epochs=4)):
            with pytest.raises(UsageError, match="begins in epoch 3"):
                Train(net, find("digits"), recipe)


@pytest.mark.parametrize(
    "bad",
    [
        {"gamma": -1.0},
        {"milestones": (2,), "gamma": (0.0,)},
        {"weight_decay": -1.0},
        {"momentum": 1.0},
        {"nesterov": True, "momentum": 0.0},
    ],
)
def test_numbers_that_spoil_a_training_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Recipe(**bad)


def test_a_last_batch_of_one_image_is_refused_where_it_cannot_be_normalised(tmp_path: Path) -> None:
    digits = find("digits").split("train")
    images, val = Images(digits.x[:33], digits.y[:33]), Images(digits.x[33:53], digits.y[33:53])
    arguments = ((1, 8, 8), 10, images, val, Recipe(epochs=1, batch=32), Stream(("last",)), tmp_path, lambda *_: None)
    with pytest.raises(UsageError, match="leave a last batch of one"):
        train(BNND(widths=(4, 4, 4)), *arguments)
    assert train(MLP((5,)), *arguments)


def test_each_milestone_may_have_a_factor_of_its_own() -> None:
    """BNN-D on CIFAR-10: .005, from epoch 101 on .001, from 142 on .0005 (Tan et al. 2020, App. A4)."""
    recipe = Recipe(epochs=150, lr=0.005, milestones=(100, 141), gamma=(0.2, 0.5))
    assert [round(recipe.rate(e), 7) for e in (0, 99, 100, 140, 141, 149)] == [
        0.005,
        0.005,
        0.001,
        0.001,
        0.0005,
        0.0005,
    ]
    with pytest.raises(UsageError, match="2 factors for 1 milestones"):
        Recipe(milestones=(5,), gamma=(0.2, 0.5))


def test_rates_by_hand() -> None:
    recipe = Recipe(epochs=200, lr=0.1, milestones=(60, 120, 160), gamma=0.2, decay=1e-6)
    assert recipe.rate(59) == 0.1 and recipe.rate(60) == pytest.approx(0.02) and recipe.rate(199) == pytest.approx(8e-4)
    assert recipe.rate(0, 1_000_000) == pytest.approx(0.05)
    assert [e for e in range(200) if recipe.turns(e)] == [60, 120, 160]
    assert [e for e in range(10) if Recipe(step=4).turns(e)] == [4, 8]


def test_fields_at_their_default_leave_the_name_as_it_was() -> None:
    assert describe(Recipe()) == {"type": "Recipe"}
    changed = {"milestones": (1,), "decay": 1e-6, "temperature": 2.0}
    for name, value in changed.items():
        assert set(describe(Recipe(**{name: value}))) == {"type", name}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"step": 2, "milestones": (3,)}, "both change"),
        ({"milestones": (5, 5)}, "in order"),
        ({"milestones": (0, 5)}, "from 1 on"),
        ({"decay": -1e-6}, "grow"),
        ({"decay": float("nan")}, "grow"),
        ({"fresh": True}, "never does"),
        ({"temperature": 0.0}, "positive"),
    ],
)
def test_impossible_schedules_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Recipe(**wrong)
