"""The loop of networks with a learning rule of their own: equal bits whatever happens in between."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.data import Images, find, pixels
from robassay.errors import UsageError
from robassay.learner import Learner, Told
from robassay.learning import learn
from robassay.models import Learn
from robassay.registry import part
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.training import restore


class Prototypes(Classifier):
    """Logits: products of the image and a pattern per class."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.patterns = torch.nn.Parameter(torch.rand(classes, pixels))
        self.register_buffer("rate", torch.tensor(1.0))

    def draw(self, h: Tensor) -> Tensor:
        return h.flatten(1) @ torch.nn.functional.normalize(self.patterns).T


@part(source="Hebb 1949")
class Hebb(Learner):
    """Patterns move towards images of their class; the rate halves from pass to pass and lives in a buffer."""

    passes: int = 3
    keep: str = "last"  # type: ignore[assignment]
    late: bool = False

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        return Prototypes(math.prod(shape), classes)

    def present(self, model: Classifier, images: Images, number: int, rng: Stream, told: Told) -> None:
        assert isinstance(model, Prototypes) and not model.training
        order = torch.randperm(len(images.y), generator=rng.generator())
        for i, k in enumerate(order.tolist()):
            model.patterns[images.y[k]] += 0.1 * model.rate * pixels(images.x[k : k + 1]).flatten()
            told(i + 1, len(order))
        model.rate *= 0.5

    def decides(self, number: int) -> bool:
        return not self.late or number == self.passes - 1


class Killed(Exception):
    """Stands for the end of the process."""


def run(net: Learner, folder: Path, told: Any = None) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    data = find("digits")
    images = Images(*(part[:300] for part in data.split("train")))
    return learn(net, (1, 8, 8), 10, images, data.split("val"), Stream(("t",)), folder, told or (lambda done, all_: 0))


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Its buffers go on, too: a rate that began again would give other patterns."""

    def kill(done: int, total: int) -> None:
        assert total == 900
        if done == 450:
            raise Killed

    whole = run(Hebb(), tmp_path / "whole")
    with pytest.raises(Killed):
        run(Hebb(), tmp_path / "killed", kill)
    again = run(Hebb(), tmp_path / "killed")
    assert whole.keys() == again.keys() and all(torch.equal(whole[k], again[k]) for k in whole)
    assert whole["weight/rate"] == 0.125


def test_the_history_says_which_pass_was_kept(tmp_path: Path) -> None:
    best = run(Hebb(keep="best"), tmp_path / "best")
    accuracy = best["history/val_accuracy"]
    assert accuracy[int(best["history/epoch"])] == accuracy.max() > 0.6
    late = run(Hebb(keep="best", late=True), tmp_path / "late")
    assert late["history/val_accuracy"].isnan().tolist() == [True, True, False]
    assert int(late["history/epoch"]) == 2


def test_as_a_cell(tmp_path: Path) -> None:
    data, store = find("digits"), Store(tmp_path)
    cell = Learn(Hebb(), data, limit=300)
    carry_out([cell], store, 1, quiet=True)
    arrays = {k: torch.from_numpy(v) for k, v in store.read(cell.key).items()}
    model = restore(cell.net, data.shape, 10, arrays)
    test = data.split("test")
    assert (model(pixels(test.x)).argmax(1) == test.y).float().mean() > 0.6


@pytest.mark.parametrize("net, keep, word", [(Hebb(passes=0), 300, "passes=0"), (Hebb(), 0, "no training image")])
def test_bad_input(net: Learner, keep: int, word: str, tmp_path: Path) -> None:
    data = find("digits")
    images = Images(*(part[:keep] for part in data.split("train")))
    with pytest.raises(UsageError, match=word):
        learn(net, (1, 8, 8), 10, images, data.split("val"), Stream(("t",)), tmp_path, lambda done, total: None)
