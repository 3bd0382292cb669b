"""A teacher's soft labels, weights to begin with, and defensive distillation made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_recipe import by_hand, digits, sgd, trained
from torch import Tensor

from robassay.cell import describe
from robassay.classifier import CannotQuiet, Classifier
from robassay.data import find, pixels
from robassay.defences.distillation import Distillation
from robassay.defences.dropout import Dropout
from robassay.defended import distil
from robassay.errors import UsageError
from robassay.models import Train
from robassay.nets.cnn import SmallCNN
from robassay.nets.mlp import MLP
from robassay.recipe import Recipe
from robassay.registry import entries
from robassay.run import carry_out
from robassay.store import Store
from robassay.training import restore


class Teacher(Classifier):
    """A fixed linear map; with noise, unless it is quiet."""

    def __init__(self, noise: float = 0.0, classes: int = 10) -> None:
        super().__init__()
        self.weight = 3 * torch.randn(64, classes, generator=torch.Generator().manual_seed(1))
        self.noise, self.stochastic, self.classes = noise, noise > 0, classes

    def draw(self, h: Tensor) -> Tensor:
        logits = self.quiet(h)
        return logits + self.noise * torch.randn_like(logits)

    def quiet(self, h: Tensor) -> Tensor:
        return h.flatten(1) @ self.weight


@pytest.mark.parametrize("noise", [0.0, 50.0])
def test_the_student_learns_the_softened_words_of_a_quiet_teacher(noise: float, tmp_path: Path) -> None:
    recipe = sgd(epochs=2, temperature=4.0, lr=8.0)
    weight = trained(recipe, tmp_path, teacher=Teacher(noise))
    soft = (Teacher().quiet(pixels(digits()[0].x)).double() / 4).softmax(1)
    assert 0.2 < soft.amax(1).mean() < 0.9  # neither hard labels nor none
    assert torch.allclose(weight, by_hand([8.0] * 4, temperature=4.0, soft=soft), atol=1e-5)


def test_a_teacher_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="teacher has 7 classes, the data set 10"):
        trained(sgd(epochs=1), tmp_path, teacher=Teacher(classes=7))

    class Loud(Teacher):
        def quiet(self, h: Tensor) -> Tensor:
            return Classifier.quiet(self, h)

    with pytest.raises(CannotQuiet):
        trained(sgd(epochs=1), tmp_path, teacher=Loud(1.0))


def test_training_begins_with_the_weights_that_it_is_given(tmp_path: Path) -> None:
    start = {"layer.weight": torch.randn(10, 64, generator=torch.Generator().manual_seed(2))}
    found = trained(sgd(epochs=1, lr=1e-30), tmp_path, begin=start)
    assert torch.equal(found, start["layer.weight"].double())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layer.weight": torch.zeros(10, 49)}, r"layer.weight has shape \(10, 49\), this net's has \(10, 64\)"),
        ({}, "layer.weight has shape none"),
        (
            {"layer.weight": torch.zeros(10, 64), "other": torch.zeros(3)},
            r"other has shape \(3,\), this net's has none",
        ),
    ],
)
def test_weights_of_another_net_are_refused(wrong: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        trained(sgd(epochs=1), tmp_path, begin=wrong)


def test_distillation_takes_three_trainings() -> None:
    net, data, recipe = Dropout(SmallCNN(4)), find("digits"), Recipe(epochs=3, lr=2e-3)
    student = distil(net, data, recipe, seed=5, limit=300)
    teacher = student.teacher
    assert isinstance(teacher, Train) and isinstance(student.begin, Train)
    assert student.begin == teacher.begin and student.begin.begin is None and teacher.teacher is None
    assert student.begin.recipe == Recipe(epochs=1, lr=2e-3, keep="last")
    assert student.recipe == teacher.recipe == Recipe(epochs=3, lr=2e-3, temperature=100.0)
    assert {(c.net, c.data, c.seed, c.limit) for c in (student, teacher, student.begin)} == {(net, data, 5, 300)}
    assert student.needs == (student.begin, teacher) and teacher.needs == (student.begin,)
    assert len({student.key, teacher.key, student.begin.key}) == 3


def test_a_student_is_trained_after_its_forerunners_and_deployed_at_temperature_1(tmp_path: Path) -> None:
    net, data, store = MLP((30,)), find("digits"), Store(tmp_path)
    student = distil(net, data, Recipe(epochs=12, batch=32, lr=1e-2), Distillation(20.0))
    assert not carry_out([student], store, 0, quiet=True).failed
    found = store.read(student.key)
    assert found["history/val_accuracy"].max() > 0.85
    # Its loss saw logits / 20, so that those it is deployed with are large.
    plain = Train(net, data, Recipe(epochs=12, batch=32, lr=1e-2))
    assert not carry_out([plain], store, 0, quiet=True).failed
    x = pixels(data.split("test").x)
    arrays = [{n: torch.from_numpy(a) for n, a in store.read(one.key).items()} for one in (student, plain)]
    sizes = [restore(net, data.shape, data.classes, a)(x).std().item() for a in arrays]
    assert sizes[0] > 4 * sizes[1]


def test_a_finished_cell_keeps_its_name() -> None:
    cell = Train(MLP(), find("digits"), Recipe(epochs=1))
    assert set(describe(cell)) == {"type", "net", "data", "recipe"}
    assert cell.key != Train(MLP(), find("digits"), Recipe(epochs=1), begin=cell).key


def test_the_cell_hands_on_weights_and_teacher(tmp_path: Path) -> None:
    """A student that begins as its own teacher and hardly moves: its loss is the entropy of what the teacher says."""
    data, store = find("digits"), Store(tmp_path)
    first = Train(MLP((20,)), data, Recipe(epochs=3, lr=1e-2))
    still = Recipe(epochs=1, lr=1e-12, temperature=2.0)
    second = Train(MLP((20,)), data, still, begin=first, teacher=first)
    assert not carry_out([second], store, 0, quiet=True).failed
    before, after = store.read(first.key), store.read(second.key)
    assert all(abs(before[n] - after[n]).max() < 1e-9 for n in before if n.startswith("weight/"))
    model = restore(MLP((20,)), data.shape, data.classes, {n: torch.from_numpy(a) for n, a in before.items()})
    soft = (model(pixels(data.split("train").x)) / 2).double().softmax(1)
    assert after["history/train_loss"] == pytest.approx(-(soft * soft.log()).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("role", ["begin", "teacher"])
@pytest.mark.parametrize("change", [{"shape": (1, 9, 9)}, {"classes": 9}])
def test_a_model_for_other_images_is_refused_before_anything_is_trained(role: str, change: dict[str, Any]) -> None:
    data, recipe = find("digits"), Recipe(epochs=1)

    class Other:
        name, checksum, shape, classes = "other", "0", data.shape, data.classes

    for field, value in change.items():
        setattr(Other, field, value)
    with pytest.raises(UsageError, match=rf"{role} was trained for images .* \(other\), digits has \(1, 8, 8\) and 10"):
        Train(MLP(), data, recipe, **{role: Train(MLP(), Other(), recipe)})  # type: ignore[arg-type]


def test_it_is_listed_and_impossible_settings_are_refused() -> None:
    import robassay.defences  # noqa: F401

    (entry,) = [e for e in entries("defences") if e.name == "distillation"]
    assert entry.cls is Distillation and "Papernot" in entry.source
    for wrong in ({"temperature": 0.0}, {"first": 0}):
        with pytest.raises(UsageError):
            Distillation(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave it out of the recipe"):
        distil(MLP(), find("digits"), Recipe(temperature=2.0))
