"""Clouds and sections: neighbours counted by hand, a plane with known places, decisions on both of its sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robassay.cell import Model, cell
from robassay.cells import Examples
from robassay.classifier import Classifier
from robassay.clouds import Cloud, Section, neighbours, plane, three
from robassay.data import find
from robassay.errors import UsageError
from robassay.folds import Accuracy, rows
from robassay.run import carry_out
from robassay.store import Store

ON = Examples(find("digits"), "train", 0, 24)


def computed(cell, folder):
    store = Store(folder)
    outcome = carry_out([cell], store, 0, silent=True)
    assert not outcome.failed, outcome.failed
    return store.read(cell.key)


def test_neighbours_vote_and_the_nearest_breaks_a_tie() -> None:
    points = torch.tensor([[0.0], [1.0], [2.1], [3.3], [9.0]])
    labels = torch.tensor([5, 0, 1, 1, 0])
    assert neighbours(points, labels, 1).tolist() == [0, 5, 0, 1, 1], "itself is no neighbour"
    assert neighbours(points, labels, 3).tolist()[0] == 1, "two of three"
    assert neighbours(points, labels, 2).tolist()[0] == 0, "one each: the nearer one's"
    # From the origin the classes follow each other 1, 0, 0, 1: two each, and the nearest is of 1.
    four = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    assert neighbours(four, torch.tensor([7, 1, 0, 0, 1]), 4).tolist()[0] == 1


class Places(Classifier):
    """Logits that say where an image's label lies, and what a coin says where it is noisy."""

    classes = 10

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise, self.stochastic = noise, noise > 0
        x, y = find("digits").split("train")
        self.known = {tuple(one.flatten().tolist()): int(label) for one, label in zip(x[:24], y[:24], strict=True)}

    def draw(self, x):
        label = torch.tensor([self.known[tuple((one.flatten() * 255).round().int().tolist())] for one in x])
        logits = 9 * torch.nn.functional.one_hot(label, 10).float() + 0 * x.flatten(1)[:, :1]
        return logits + self.noise * torch.randn_like(logits)


@cell
class Known(Model):
    """One of the two, with so much noise."""

    kind: str
    noise: float

    def compute(self, ctx):
        return {"made": torch.tensor(1)}

    def open(self, ctx):
        return {"places": Places, "half": Half}[self.kind](self.noise)


def test_a_cloud_without_overlap_has_no_error_and_noise_gives_it_one(tmp_path) -> None:
    clear, dim = (computed(Cloud(Known("places", noise), ON, draws=3, neighbours=1), tmp_path) for noise in (0.0, 30.0))
    assert clear["decisions"].shape == (1, 24) and dim["decisions"].shape == (3, 24) and clear["xy"].shape == (24, 2)
    more_than_one = np.bincount(clear["labels"])[clear["labels"]] > 1
    assert (clear["decisions"][0] == clear["labels"])[more_than_one].all()
    assert not (clear["decisions"][0] == clear["labels"])[~more_than_one].any()
    assert Accuracy()([rows([dim])]).value < 0.5 < Accuracy()([rows([clear])]).value
    assert (dim["decisions"][0] != dim["decisions"][1]).any(), "every draw has its own"


def test_the_three_have_their_places_on_the_plane() -> None:
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    centre, along, up, points = plane(x)
    assert float((along * up).sum()) == pytest.approx(0, abs=1e-6) and float(along.norm()) == pytest.approx(1)
    for image, (a, b) in zip(x, points, strict=True):
        assert torch.allclose(centre + a * along + b * up, image, atol=1e-5)
    assert points[1, 0] > points[0, 0] and points[2, 1] > points[0, 1]
    assert float(points[0, 1]) == pytest.approx(float(points[1, 1]), abs=1e-6), "the first two lie level"
    assert three(torch.tensor([4, 4, 2, 4, 7, 1])) == [0, 2, 4]
    with pytest.raises(UsageError, match="2 classes"):
        three(torch.tensor([4, 4, 2]))


class Half(Classifier):
    """Class 1 beyond the middle between two images; noise makes it waver at the boundary alone."""

    classes = 10

    def __init__(self, noise: float) -> None:
        super().__init__()
        x = find("digits").split("train").x[:3].float() / 255
        self.way, self.noise, self.stochastic = x[1] - x[0], noise, noise > 0
        self.bias = float((self.way * (x[0] + x[1]) / 2).sum())

    def draw(self, x):
        height = 50 * ((x * self.way).flatten(1).sum(1) - self.bias)
        height = height + self.noise * torch.randn_like(height)
        return torch.stack([torch.zeros_like(height), height, *[torch.full_like(height, -1e4)] * 8], 1)


def test_a_section_tells_both_sides_and_where_draws_disagree(tmp_path) -> None:
    assert three(find("digits").split("train").y[:24])[:2] == [0, 1], "between which Half decides"
    still = computed(Section(Known("half", 0.0), ON, grid=11, draws=4), tmp_path)
    assert still["decision"].shape == (11, 11) and not still["variance"].any() and still["at"][0] == -still["at"][-1]
    near = {tuple(point): int(np.abs(still["at"] - point[0]).argmin()) for point in still["points"][:2].tolist()}
    (first, i), (second, j) = near.items()
    row = int(np.abs(still["at"] - first[1]).argmin())
    assert still["decision"][row, i] == 0 and still["decision"][row, j] == 1 and first[0] < second[0]
    noisy = computed(Section(Known("half", 30.0), ON, grid=11, draws=20), tmp_path)
    boundary = int(np.abs(noisy["at"] - (first[0] + second[0]) / 2).argmin())
    assert noisy["variance"][row, boundary] > noisy["variance"][row, [i, j]].max()
    assert 0 < noisy["variance"].max() <= 0.5, "two classes"


def test_what_cannot_be_drawn_is_refused() -> None:
    model = Known("half", 0.0)
    for make in (
        lambda: Cloud(model, ON, neighbours=24),
        lambda: Cloud(model, ON, draws=0),
        lambda: Section(model, ON, grid=1),
        lambda: Section(model, ON, draws=0),
    ):
        with pytest.raises(UsageError):
            make()
