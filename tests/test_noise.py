"""Noise: exact sizes, numbers of each image's own, JPEG as PIL has it, and random search as by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from toy_nets import LABELS, Deterministic, Net

from robassay.access import Scores
from robassay.attacks.gradient import random_start
from robassay.attacks.noise import JPEG, Gaussian, Uniform, UniformSearch
from robassay.errors import UsageError
from robassay.policy import MeanOf
from robassay.rng import Stream
from robassay.testing import check_attack
from robassay.threat import Goal, Threat, euclidean

RNG = Stream(("test", "noise"))
X = torch.rand(6, 3, 4, 4, generator=RNG.generator())
GOAL = Goal(torch.zeros(6, dtype=torch.int64))


@pytest.mark.parametrize("threat", [Threat("linf", 0.1), Threat("l2", 0.7)])
def test_uniform_fills_the_ball_and_knows_no_batch_mates(threat):
    found = Uniform()(None, X, GOAL, threat, RNG)
    assert threat.holds(found, X).all() and (threat.size(found, X) > 0.5 * threat.eps).all()
    alone = torch.cat([Uniform()(None, x, GOAL, threat, RNG) for x in X.split(1)])
    assert torch.equal(found, alone)
    assert not torch.equal(found, Uniform()(None, X, GOAL, threat, RNG.child(1)))


def test_gaussian_has_its_length_until_the_box_cuts_it():
    wide = Threat("l2", 2.5, box=(-9.0, 9.0))
    assert torch.allclose(euclidean(Gaussian()(None, X, GOAL, wide, RNG) - X), torch.tensor(2.5).double(), atol=1e-5)
    found = Gaussian()(None, X, GOAL, Threat("l2", 2.5), RNG)
    assert (euclidean(found - X) < 2.4).all() and Threat("l2", 2.5).holds(found, X).all()
    assert torch.equal(Gaussian()(None, X, GOAL, Threat("l2", 0.0), RNG), X)


def test_gaussian_noise_has_no_preferred_direction():
    many = torch.full((200, 1, 8, 8), 0.5) + torch.arange(200).reshape(-1, 1, 1, 1) * 1e-4
    noise = Gaussian()(None, many, GOAL, Threat("l2", 1.0, box=(-9.0, 9.0)), RNG) - many
    assert noise.mean(0).abs().max() < 5 * (1 / 8) / 200**0.5  # five standard errors
    assert noise.flatten(1).pow(4).mean() * 64**2 == pytest.approx(3, rel=0.1)  # the kurtosis of a normal number


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 75])
def test_jpeg_is_what_pil_makes_of_the_rounded_image(channels, quality):
    x = torch.rand(3, channels, 16, 16, generator=RNG.generator())
    found = JPEG(quality)(None, x, GOAL, Threat("l2"), RNG)
    for image, back in zip(x, found, strict=True):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy().squeeze()
        file = io.BytesIO()
        Image.fromarray(pixels, "L" if channels == 1 else "RGB").save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)).reshape(16, 16, channels)
        assert ((back * 255).round().permute(1, 2, 0).numpy() == expected).all()
    # Subsampled colour: a change of hue at every pixel does not survive even the best quality.
    best = JPEG(100)(None, x, GOAL, Threat("l2"), RNG)
    assert ((best - x).abs().max() < 0.02) == (channels == 1)
    assert (euclidean(best - x) < euclidean(found - x)).all()


def test_jpeg_keeps_the_box_of_the_threat():
    x = X * 4 - 2
    found = JPEG(90)(None, x, GOAL, Threat("linf", box=(-2.0, 2.0)), RNG)
    assert torch.allclose((found + 2) / 4, JPEG(90)(None, X, GOAL, Threat("linf"), RNG), atol=1e-6)


def test_random_search_keeps_the_largest_margin_by_hand():
    x, threat = torch.rand(4, 3, 4, 4, generator=RNG.generator()), Threat("linf", 0.02)
    model = Deterministic()
    goal = Goal(model(x).argmax(-1))
    access = Scores().open([model], 4)
    found = UniformSearch(30)(access, x, goal, threat, RNG)
    samples = [random_start(x, threat, RNG.child("sample", k)) for k in range(30)]
    margins = torch.stack([goal.margin(model(s)) for s in samples])
    assert torch.allclose(goal.margin(model(found)), margins.amax(0), atol=1e-5)
    assert access.spent.queries.tolist() == [30] * 4 and not goal.reached(model(found).argmax(-1)).any()


def test_random_search_stops_each_image_at_its_first_success():
    x = torch.rand(4, 3, 4, 4, generator=RNG.generator())
    model = Deterministic()
    goal, threat = Goal(model(x).argmax(-1)), Threat("linf", 0.5)
    access = Scores().open([model], 4)
    found = UniformSearch(200)(access, x, goal, threat, RNG)
    wrong = [goal.reached(model(random_start(x, threat, RNG.child("sample", k))).argmax(-1)) for k in range(200)]
    first = torch.stack(wrong).float().argmax(0) + 1
    assert goal.reached(model(found).argmax(-1)).all()
    assert access.spent.queries.tolist() == first.tolist()


def test_random_search_on_a_random_net_asks_all_it_may_with_all_draws():
    access = Scores(MeanOf(3)).open([Net()], 4)
    x = torch.rand(4, 3, 4, 4, generator=RNG.generator())
    UniformSearch(12)(access, x, Goal(LABELS), Threat("l2", 0.5), RNG)
    assert access.spent.queries.tolist() == [12] * 4 and access.spent.draws.tolist() == [36] * 4


@pytest.mark.parametrize(
    ("method", "threat"),
    [
        (Uniform(), Threat("linf", 0.05)),
        (Uniform(), Threat("l2", 0.5)),
        (UniformSearch(20), Threat("linf", 0.05)),
        (UniformSearch(20), Threat("l2", 0.5)),
        (Gaussian(), Threat("l2", 0.5)),
        (JPEG(50), Threat("l2")),
    ],
    ids=repr,
)
def test_it_passes_the_exam(method, threat):
    check_attack(method, threat)


def test_bad_settings_are_explained():
    for make, words in (
        (lambda: JPEG(0), "from 1 to 100"),
        (lambda: UniformSearch(0), "samples ≥ 1"),
        (lambda: UniformSearch(recheck=1), "recheck ≥ 2"),
        (lambda: JPEG()(None, X, GOAL, Threat("linf", 0.1), RNG), "no radius"),
        (lambda: JPEG()(None, X[:, :2], GOAL, Threat("linf"), RNG), "2 channels"),
        (lambda: Gaussian()(None, X, GOAL, Threat("linf", 0.1), RNG), "Euclidean"),
        (lambda: Uniform()(None, X, GOAL, Threat("l0", 1), RNG), "the threat is l0"),
        (lambda: Uniform()(None, X, GOAL, Threat("linf"), RNG), "needs a radius"),
    ):
        with pytest.raises(UsageError, match=words):
            make()
