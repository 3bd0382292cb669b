"""Adversarial images that were made before a training: which are taken, with which labels, and that they are learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robassay.access import White
from robassay.attacks.cw import CW
from robassay.cells import Craft, Examples
from robassay.data import Data, Images, find, pixels
from robassay.errors import UsageError
from robassay.given import held_data
from robassay.goals import RandomTarget
from robassay.models import Train
from robassay.nets.mlp import MLP
from robassay.offline import Offline
from robassay.recipe import Recipe
from robassay.run import carry_out
from robassay.run.worker import LocalContext
from robassay.store import Store
from robassay.threat import Threat, euclidean

BRIEF = Recipe(epochs=2, batch=64, lr=5e-3)


@pytest.fixture(scope="module")
def digits() -> Data:
    return find("digits")


def crafts(digits: Data, steps: int = 40) -> tuple[Craft, ...]:
    source = Train(MLP((20,)), digits, BRIEF)
    attack = CW(search=2, steps=steps)
    goal = RandomTarget()
    return tuple(
        Craft((source,), Examples(digits, "train", a, a + 15), attack, Threat("l2"), White(), goal) for a in (30, 100)
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Store:
    place = Store(tmp_path_factory.mktemp("offline"))
    assert not carry_out(crafts(digits), place, 0, silent=True).failed
    return place


def taken(offline: Offline, store: Store) -> Images:
    return offline.images(LocalContext(offline.crafts[0], store, torch.device("cpu")))


def every(store: Store, digits: Data) -> tuple[Tensor, Tensor, Tensor]:
    """Images that the attacks made, their distances and true labels."""
    found = [store.read(c.key) for c in crafts(digits)]
    x_adv = torch.cat([torch.from_numpy(f["x_adv"]) for f in found])
    x = torch.cat([torch.from_numpy(f["x"]) for f in found])
    train = digits.split("train")
    return x_adv, euclidean(x_adv - pixels(x)), torch.cat([train.y[30:45], train.y[100:115]])


def test_the_nearest_changed_images_come_first_with_their_true_labels(store: Store, digits: Data) -> None:
    x_adv, distance, labels = every(store, digits)
    changed = int((distance > 0).sum())
    assert changed >= 20
    images, y = taken(Offline(crafts(digits), keep=12), store)
    assert images.dtype == torch.uint8 and images.shape == (12, 1, 8, 8)
    nearest = sorted((float(d), i) for i, d in enumerate(distance) if d > 0)[:12]
    for image, label, (_, i) in zip(images, y, nearest, strict=True):
        assert int(label) == int(labels[i])
        assert (pixels(image[None])[0] - x_adv[i]).abs().max() <= 0.5 / 255 + 1e-6


def test_unchanged_images_are_failures_and_too_few_are_said(store: Store, digits: Data) -> None:
    changed = int((every(store, digits)[1] > 0).sum())
    assert len(taken(Offline(crafts(digits), keep=changed), store).y) == changed
    with pytest.raises(Exception, match=f"changed {changed} of 30 images only"):
        taken(Offline(crafts(digits), keep=changed + 1), store)


def test_they_are_learnt_and_are_part_of_the_name(store: Store, digits: Data) -> None:
    plain = Train(MLP((20,)), digits, BRIEF, limit=64)
    hardened = replace(plain, extra=Offline(crafts(digits), keep=16))
    other = replace(plain, extra=Offline(crafts(digits, steps=41), keep=16))
    assert len({plain.key, hardened.key, other.key}) == 3
    assert {c.key for c in hardened.needs} == {c.key for c in crafts(digits)}
    assert not carry_out([plain, hardened], store, 0, silent=True).failed
    weights = [store.read(m.key)[_weight(store, m)] for m in (plain, hardened)]
    assert weights[0].shape == weights[1].shape and (weights[0] != weights[1]).any()


def test_labels_of_extra_images_matter(tmp_path: Path, digits: Data) -> None:
    """A net that sees nothing but one class, and sixteen extra images of others, learns the others only from those."""
    lone = replace(crafts(digits)[0].sources[0], limit=None)
    assert isinstance(lone, Train)
    made = Offline(crafts(digits), keep=20)
    plain = Train(MLP((50,)), digits, Recipe(epochs=60, batch=16, lr=5e-3, keep="last"), limit=2)
    place = Store(tmp_path)
    assert not carry_out([plain, replace(plain, extra=made)], place, 0, silent=True).failed
    images, y = taken(made, place)
    context = LocalContext(plain, place, torch.device("cpu"))
    right = [
        float((context.open(m)(pixels(images)).argmax(1) == y).float().mean())
        for m in (plain, replace(plain, extra=made))
    ]
    assert right[1] > 0.95 and right[0] < 0.5


def test_extra_images_are_of_the_same_data(digits: Data) -> None:
    x, y = torch.rand(30, 1, 8, 8), torch.arange(30) % 10
    with pytest.raises(UsageError, match="Attack images of the same data set"):
        Train(MLP((20,)), held_data(x, y), BRIEF, extra=Offline(crafts(digits)))


def test_only_the_training_split_is_learnt_from(digits: Data) -> None:
    bad = replace(crafts(digits)[0], on=Examples(digits, "test", 0, 5))
    with pytest.raises(UsageError, match="split 'test' cannot be learnt from"):
        Offline((bad,))
    with pytest.raises(UsageError, match="one Craft at least"):
        Offline(())
    one = Train(MLP((20,)), digits, BRIEF)
    with pytest.raises(UsageError, match="whose true labels are the point"):
        Train(MLP((20,)), digits, BRIEF, teacher=one, extra=Offline(crafts(digits)))


def _weight(store: Store, model: Train) -> str:
    return min(n for n in store.read(model.key) if n.startswith("weight/") and n.endswith("weight"))  # read in no order
