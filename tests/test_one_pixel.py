"""One pixel: the evolution on functions with known minima, whole pixels and integer colours, known weak spots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robassay.access import Scores
from robassay.attacks.one_pixel import OnePixel, evolved, painted, trials, vectors
from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.policy import MeanOf
from robassay.rng import Stream
from robassay.testing import check_attack
from robassay.threat import Goal, Threat

RNG = Stream(("test", "one-pixel"))
NEVER = lambda k, rows, best: torch.zeros(len(rows), dtype=torch.bool)


class WeakSpot(Classifier):
    """Label 1 as soon as the pixel at (3, 5) is bright in its first channel; nothing else counts."""

    classes = 2

    def draw(self, h: Tensor) -> Tensor:
        z = 8 * (h[:, 0, 3, 5] - 0.7)
        return torch.stack([-z, z], 1)


class Bright(Classifier):
    """Label 1 when the image is bright: ``needed`` more of brightness than grey 0.5 in the first channel."""

    classes = 2

    def __init__(self, needed: float, noise: float = 0.0) -> None:
        super().__init__()
        self.needed, self.noise, self.stochastic, self.rows = needed, noise, noise > 0, "independent"
        self.images = 0

    def draw(self, h: Tensor) -> Tensor:
        self.images += len(h)
        z = (h[:, 0] - 0.5).flatten(1).sum(1) - self.needed
        if self.noise:
            z = z + self.noise * torch.randn(len(h))
        return torch.stack([-z, z], 1)


def attacked(attack: OnePixel, model: Classifier, x: Tensor, pixels: int, start: Tensor | None = None) -> Any:
    access = Scores(MeanOf(1)).open([model], len(x))
    access.start = start
    goal = Goal(torch.zeros(len(x), dtype=torch.int64))
    return attack(access, x, goal, Threat("l0", pixels), RNG), access.spent


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(count)]


@pytest.mark.parametrize("mutation", [0.5, "dither"])
def test_evolution_finds_the_centre_of_a_sphere(mutation):
    limits = torch.tensor([32.0, 32, 255, 255, 255])
    centre = torch.tensor([[3.0, 30, 10, 128, 250], [31.0, 1, 255, 0, 77]])
    energy = lambda k, rows, members: ((members - centre[rows, None]) / limits).square().sum(-1)
    start = torch.rand(2, 60, 5, generator=RNG.generator()) * limits
    found = evolved(start, limits, energy, NEVER, generators(2), OnePixel(generations=120, mutation=mutation))
    assert ((found - centre).abs() / limits).max() < 1e-3


def test_evolution_is_as_good_as_scipys():
    scipy = pytest.importorskip("scipy.optimize")
    centre, limits = np.array([0.2, 0.9, 0.5, 0.1]), torch.ones(4)
    wavy = lambda v: ((v - centre) ** 2).sum(-1) + 0.05 * (1 - np.cos(12 * (v - centre))).sum(-1)
    energy = lambda k, rows, members: torch.from_numpy(wavy(members.double().numpy()))
    start = torch.rand(10, 40, 4, generator=RNG.generator())
    ours = evolved(start, limits, energy, NEVER, generators(10), OnePixel(generations=30, mutation="dither"))
    ours = ours.double().numpy()
    theirs = [
        scipy.differential_evolution(
            wavy, [(0, 1)] * 4, maxiter=30, init=start[i].numpy(), seed=i, tol=0.01, polish=False, updating="deferred"
        ).fun
        for i in range(10)
    ]
    assert np.median(wavy(ours)) <= 3 * np.median(theirs)


def test_evolution_stops_where_it_has_settled_or_arrived():
    asked = []
    limits = torch.ones(3)
    start = torch.rand(3, 10, 3, generator=RNG.generator())

    def energy(k: int, rows: Tensor, members: Tensor) -> Tensor:
        asked.append(rows.tolist())
        flat = torch.ones(members.shape[:2])  # row 0 has settled from the start
        return torch.where((rows == 0)[:, None], flat, members.sum(-1))

    evolved(start, limits, energy, lambda k, rows, best: (rows == 1) & (k == 2), generators(3), OnePixel(generations=5))
    assert asked == [[0, 1, 2], [0, 1, 2], [1, 2], [2], [2], [2]]


def test_a_trial_is_best_plus_a_difference_of_two_others():
    members = (2.0 ** torch.arange(8)).reshape(1, 8, 1)
    limits = torch.tensor([1e9])
    for i in range(20):
        drawn = torch.rand(1, 8, 6, generator=RNG.child(i).generator())
        tried = trials(members + 1000, torch.tensor([3]), drawn, limits, 1.0, 1.0)[0, :, 0] - 1000 - 8
        for me in range(8):
            pairs = {float(2**a - 2**b) for a in range(8) for b in range(8) if len({a, b, me}) == 3}
            assert float(tried[me]) in pairs
    out = trials(members + 0.5, torch.tensor([7]), drawn, torch.tensor([130.0]), 1.0, 1.0)
    assert ((out >= 0) & (out <= 130)).all()
    kept = trials(torch.rand(1, 8, 50), torch.tensor([0]), torch.rand(1, 8, 104), torch.ones(50), 1e-9, 0.0)
    assert kept.shape == (1, 8, 50)


def test_with_crossover_0_one_number_changes():
    members = torch.rand(2, 9, 6, generator=RNG.generator()) * 0.1 + 0.4
    drawn = torch.rand(2, 9, 16, generator=RNG.child(1).generator())
    tried = trials(members, torch.tensor([0, 1]), drawn, torch.ones(6), 0.5, 0.0)
    changed = (tried != members).sum(-1)
    assert (changed <= 1).all() and changed.sum() > 9


def test_positions_and_colours_are_truncated_and_stay_inside():
    x = torch.full((1, 3, 4, 5), 0.5)
    member = torch.tensor([[3.99, 5.0, 0.9, 255.0, 128.7, 0.0, 0.5, 10, 20, 30, 0.2, 0.7, 40, 50, 60]])
    found = painted(x, member, (0.0, 1.0))
    assert torch.allclose(found[0, :, 3, 4] * 255, torch.tensor([0.0, 255.0, 128.0]))
    assert torch.allclose(found[0, :, 0, 0] * 255, torch.tensor([40.0, 50.0, 60.0]))  # the later of two
    assert int((found != x).any(1).sum()) == 2 and (x == 0.5).all()
    again = painted(x, vectors(found, x, 2, (0.0, 1.0)), (0.0, 1.0))
    assert torch.equal(again, found)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_finds_the_one_pixel_that_counts(channels):
    x = torch.rand(4, channels, 8, 8, generator=RNG.generator()) * 0.4
    x_adv, spent = attacked(OnePixel(200, 30, settled=0.0), WeakSpot(), x, 1)
    assert (WeakSpot()(x_adv).argmax(1) == 1).all()
    changed = (x_adv != x).any(1)
    assert (changed.flatten(1).sum(1) == 1).all() and changed[:, 3, 5].all()
    assert (spent.queries < 200 * 30).all()


@pytest.mark.parametrize("pixels", [1, 3, 5])
def test_so_many_pixels_change_to_integer_colours(pixels):
    x = torch.rand(3, 3, 8, 8, generator=RNG.generator())
    x_adv, _ = attacked(OnePixel(50, 8, mutation="dither"), Bright(100.0), x, pixels)
    changed = (x_adv != x).any(1, keepdim=True).expand_as(x)
    levels = x_adv[changed] * 255
    assert Threat("l0", pixels).holds(x_adv, x).all() and changed.any()
    assert torch.allclose(levels, levels.round(), atol=1e-4) and levels.min() >= 0 and levels.max() <= 255


def test_more_pixels_do_not_succeed_less_when_they_begin_with_fewer():
    x = torch.full((12, 1, 6, 6), 0.2) + torch.linspace(0, 0.12, 12).reshape(-1, 1, 1, 1)
    needed = float((x[7] - 0.5).sum()) + 0.9
    before, start = torch.zeros(12, dtype=torch.bool), None
    rates = []
    for pixels in (1, 2, 3):
        start, _ = attacked(OnePixel(60, 6), Bright(needed), x, pixels, start)
        now = Bright(needed)(start).argmax(1) == 1
        assert (now | ~before).all()
        before = now
        rates.append(int(now.sum()))
    assert 0 < rates[0] < rates[2]


def test_questions_are_counted_and_finished_images_leave():
    x = torch.rand(3, 1, 5, 5, generator=RNG.generator()) * 0.5
    model = Bright(100.0, noise=1.0)
    access = Scores(MeanOf(2)).open([model], 3)
    OnePixel(30, 4)(access, x, Goal(torch.zeros(3, dtype=torch.int64)), Threat("l0", 1), RNG)
    # Populations of 30 and a look at the best of each; the energies of a hopeless image are all 1: it settles.
    assert access.spent.queries.tolist() == [62] * 3 and access.spent.draws.tolist() == [124] * 3
    assert model.images == 3 * 124
    model = Bright(float((x[1] - 0.5).sum()) + 2)
    _, spent = attacked(OnePixel(30, 4), model, x, 2)
    assert model.images == int(spent.queries.sum()) and set(spent.queries.tolist()) <= {31 * k for k in range(1, 6)}


class Watched(Classifier):
    """Keeps every image it is shown; it may say of itself that it is random, and is not."""

    classes = 2

    def __init__(self, stochastic: bool) -> None:
        super().__init__()
        self.stochastic, self.rows = stochastic, "independent"
        self.seen: list[Tensor] = []

    def draw(self, h: Tensor) -> Tensor:
        self.seen += list(h)
        z = 8 * (h[:, 0, 3, 5] - 1.2)  # no pixel is so bright: the evolution goes on and converges
        return torch.stack([-z, z], 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("targeted", [False, True])
def test_equal_candidates_are_asked_about_once_and_nothing_else_changes(channels: int, targeted: bool) -> None:
    x = torch.rand(3, channels, 8, 8, generator=RNG.generator()) * 0.4
    goal, results = Goal(torch.full((3,), int(targeted)), targeted), []
    for stochastic in (False, True):  # what may be random is asked again
        model = Watched(stochastic)
        access = Scores().open([model], 3)
        attack = OnePixel(60, 25, settled=0.0, mutation="dither")
        results.append(attack(access, x, goal, Threat("l0", 1), RNG))
        assert int(access.spent.queries.sum()) == len(model.seen)
        distinct = len({(image.numpy().tobytes()) for image in model.seen})
        if stochastic:
            assert channels == 3 or distinct < 0.6 * len(model.seen)
        else:
            checks = len(model.seen) - distinct
            assert checks <= 3 * 26, "besides the look at the best of each generation no image comes twice"
    assert torch.equal(*results)


def test_passes_are_split_without_changing_anything(monkeypatch):
    x = torch.rand(3, 1, 5, 5, generator=RNG.generator()) * 0.5
    whole, spent = attacked(OnePixel(30, 3), Bright(-2.0), x, 2)
    monkeypatch.setitem(__import__("robassay.attacks.one_pixel", fromlist=["x"]).PASS_ELEMENTS, "cpu", 500)
    parts, counted = attacked(OnePixel(30, 3), Bright(-2.0), x, 2)
    assert torch.equal(whole, parts) and torch.equal(spent.queries, counted.queries)


def test_a_targeted_goal_and_no_pixels():
    x = torch.rand(3, 1, 8, 8, generator=RNG.generator()) * 0.4
    wanted = Goal(torch.ones(3, dtype=torch.int64), targeted=True)
    access = Scores().open([WeakSpot()], 3)
    assert (WeakSpot()(OnePixel(200, 30, settled=0.0)(access, x, wanted, Threat("l0", 1), RNG)).argmax(1) == 1).all()
    assert torch.equal(attacked(OnePixel(), WeakSpot(), x, 0)[0], x)


@pytest.mark.parametrize("mutation", [0.5, "dither"])
def test_it_passes_the_exam(mutation):
    check_attack(OnePixel(30, 5, mutation=mutation))
    check_attack(OnePixel(30, 3), Threat("l0", 1), Scores(MeanOf(3)))


def test_bad_settings_are_explained():
    for make, words in (
        (lambda: OnePixel(4), "population ≥ 5"),
        (lambda: OnePixel(settled=-0.1), "settled ≥ 0"),
        (lambda: OnePixel(mutation=0.0), "'dither'"),
        (lambda: OnePixel(mutation="wild"), "'dither'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=words):
            make()
    x = torch.rand(1, 1, 4, 4)
    for threat, words in ((Threat("linf", 0.1), "Threat\\('l0', 1\\)"), (Threat("l0"), "needs a radius")):
        with pytest.raises(UsageError, match=words):
            OnePixel()(None, x, Goal(torch.zeros(1, dtype=torch.int64)), threat, RNG)
