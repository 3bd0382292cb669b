"""The STDP network against its naive form, values by hand, and toys that it must learn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from naive_stdp import forward, inhibited, layer, update, waves
from naive_stdp import winners as naive_winners
from torch import Tensor

from robassay.data import Images, find, pixels
from robassay.errors import UsageError
from robassay.nets import plasticity
from robassay.nets.latency import REACH, STEPS, filters, final_wave, responses, times
from robassay.nets.plasticity import Winner, earliest, first_spikes, strengthen, winners
from robassay.nets.stdp import LAYERS, SNNM, STDPNetwork
from robassay.rng import Stream
from robassay.rules import Triangle, acting
from robassay.testing import check_classifier

SMALL = SNNM(maps=(8, 12, 20), epochs=(1, 1, 1))


def built(net: SNNM = SMALL, shape: tuple[int, int, int] = (1, 12, 12), classes: int = 10) -> STDPNetwork:
    with Stream(("stdp",)).active():
        model = net.build(shape, classes).eval().requires_grad_(False)
    assert isinstance(model, STDPNetwork)
    return model


def images(n: int, side: int = 12, channels: int = 1) -> Tensor:
    """Blurred noise: responses everywhere, and some pixels without."""
    x = torch.rand(n, channels, side, side, generator=Stream(("images",)).generator())
    return F.avg_pool2d(x, 3, 1, 1).sub(0.2).mul(2).clamp(0, 1)


# ------------------------------------------------------------------------------------------------------------ front end


def test_filters_have_the_published_values() -> None:
    found = filters()
    assert found.shape == (6, 1, 13, 13)
    centre = found[0, 0, 5:8, 5:8]
    assert centre[1, 1] == 1
    assert centre[0, 1].item() == pytest.approx(-0.15589, abs=1e-5)
    assert centre[0, 0].item() == pytest.approx(-0.09411, abs=1e-5)
    assert not found[0, 0, :5].any() and found.flatten(1).amax(1).tolist() == [1] * 6
    assert found.flatten(1).sum(1).abs().max() < 1e-5
    assert found[1].min().item() == pytest.approx(-6.4149, abs=1e-4)
    assert found[3].min().item() == pytest.approx(-9.7833, abs=1e-4)


@pytest.mark.data
def test_the_first_digit_spikes_as_published() -> None:
    x = pixels(find("mnist").split("train").x[:1])
    response = responses(x)
    assert int((response > 0).sum()) == 1313
    t = times(response)
    assert [int((t <= step).sum()) for step in range(STEPS)] == [87 * (step + 1) for step in range(STEPS)]


def test_local_normalisation_divides_by_the_mean_of_a_padded_square() -> None:
    x = images(2, 20)
    raw = F.conv2d(x * 255, filters(), padding=6)
    raw = torch.where(raw >= 50, raw, 0.0)
    b, m = 1, 3
    i, j = divmod(int(raw[b, m].argmax()), 20)
    square = F.pad(raw, [REACH] * 4)[b, m, i : i + 17, j : j + 17]
    found = responses(x)[b, m, i, j]
    assert raw[b, m, i, j] > 0 and found == pytest.approx((raw[b, m, i, j] / square.mean()).item(), rel=1e-4)


def test_ranks_share_the_steps_evenly_and_forget_brightness() -> None:
    x = images(4, 20)
    t = times(responses(x))
    for one, r in zip(t, responses(x), strict=True):
        share = int((r > 0).sum()) // STEPS
        assert [int((one == step).sum()) for step in range(STEPS)] == [share] * STEPS
        assert r[one == 3].min() >= r[one == 4].max() and r[one == 14].min() > 0
    bright = 4 * responses(x)
    assert torch.equal(times(bright), t)


def test_images_with_few_or_no_responses() -> None:
    response = torch.zeros(2, 6, 5, 5)
    response[1, 2, 1, :3] = torch.tensor([1.0, 3.0, 2.0])
    t = times(response)
    assert (t[0] == STEPS).all()
    assert t[1, 2, 1, :4].tolist() == [2, 0, 1, STEPS]
    model = built()
    blank = torch.zeros(1, 1, 12, 12)
    assert model.rejects(blank).tolist() == [True] and model.rejects(images(3)).tolist() == [False] * 3


# -------------------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("side", [12, 28])
def test_the_last_step_decides_as_all_steps_do(side: int) -> None:
    """The short form equals fifteen steps through every layer, image by image; thresholds cut in between."""
    model, x = built(shape=(1, side, side)), images(5, side)
    model.weights[0].mul_(0.45)
    model.weights[1].mul_(0.25)
    t = times(responses(x))
    expected = torch.stack([forward(one, list(model.weights)) for one in t])
    found = model.potentials(model.prefix(x))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-4)
    silent = first_spikes(t, model.weights[0], LAYERS[0]) == STEPS
    assert 0.02 < silent.float().mean() < 0.98
    assert torch.equal(found.flatten(1).argmax(1) // (found[0, 0].numel() * 2), model(x).argmax(1))


def test_spike_times_are_the_first_steps_of_monotone_waves() -> None:
    model, x = built(), images(3)
    model.weights[0].mul_(0.5)
    t = times(responses(x))
    found = first_spikes(t, model.weights[0], LAYERS[0])
    for one, expected in zip(t, found, strict=True):
        _, spikes = layer(waves(one), model.weights[0], 2, 15.0)
        assert (spikes.diff(dim=0) >= 0).all()
        assert torch.equal(STEPS - spikes.sum(0), expected.float())
        pooled = waves(earliest(expected[None], 2)[0])
        assert torch.equal(pooled, F.max_pool2d(waves(expected), 2))


@pytest.mark.parametrize(("shape", "maps", "last"), [((1, 28, 28), (30, 250, 200), 4), ((3, 32, 32), (6, 8, 10), 5)])
def test_shapes(shape: tuple[int, int, int], maps: tuple[int, int, int], last: int) -> None:
    model = built(SNNM(maps=maps), shape)
    x = torch.rand(1, *shape)
    found = model.potentials(model.prefix(x))
    assert found.shape == (1, maps[2], last, last) and model(x).shape == (1, 10)


def test_colour_is_averaged() -> None:
    x = images(2, 12, 3)
    assert torch.equal(built(shape=(3, 12, 12))(x), built()(x.mean(1, keepdim=True)))


def test_the_exam() -> None:
    check_classifier(built(), images(6))


# ---------------------------------------------------------------------------------------------------------- competition


@pytest.mark.parametrize("number", [0, 1])
def test_winners_equal_the_naive_competition(number: int) -> None:
    how = LAYERS[number]
    front = 6 if number == 0 else 8
    generator = Stream(("winners", number)).generator()
    counted = 0
    for _ in range(12):
        weight = torch.rand(10, front, how.kernel, how.kernel, generator=generator)
        t = torch.randint(0, 16, (front, 14, 14), generator=generator).to(torch.uint8)
        t[torch.rand(t.shape, generator=generator) < 0.5] = STEPS
        potential, spikes = layer(waves(t), weight, how.padding, how.threshold)
        expected = naive_winners(inhibited(potential), how.winners, how.radius)
        found = winners(t, weight, how)
        assert [(w.map, w.y, w.x) for w in found] == expected
        assert [STEPS - int(spikes[:, w.map, w.y, w.x].sum()) for w in found] == [w.step for w in found]
        assert len({w.map for w in found}) == len(found)
        mine, theirs = weight.clone(), weight.clone()
        for w in found:
            strengthen(mine, t, w, how.padding, 0.1, -0.05)
            update(theirs, waves(t), spikes, (w.map, w.y, w.x), how.padding, (0.1, -0.05))
        assert torch.allclose(mine, theirs, atol=1e-6) and not torch.equal(mine, weight)
        counted += len(found)
    assert counted > 40


def test_stdp_by_hand() -> None:
    """Inputs up to the winner's step strengthen, later and silent ones weaken, both by w · (1 − w)."""
    weight = torch.full((2, 1, 1, 3), 0.5)
    t = torch.tensor([[[2, 3, STEPS]]], dtype=torch.uint8)
    weight = F.pad(weight, [0, 0, 1, 1])  # a 3 × 3 kernel whose middle row sees the image
    weight[:, :, [0, 2]] = 0.25
    strengthen(weight, t, Winner(1, 0, 1, 2), 1, 0.1, -0.05)
    assert weight[1, 0, 1].tolist() == pytest.approx([0.525, 0.4875, 0.4875])
    assert weight[1, 0, 0].tolist() == pytest.approx([0.25 - 0.05 * 0.1875] * 3)
    assert (weight[0, 0, 1] == 0.5).all()


# ------------------------------------------------------------------------------------------------------------- learning


def bars(n: int, side: int = 12) -> Images:
    """Horizontal (0) and vertical (1) bars of one pixel at random places."""
    generator = Stream(("bars",)).generator()
    x = torch.zeros(n, 1, side, side, dtype=torch.uint8)
    y = torch.randint(0, 2, (n,), generator=generator)
    at = torch.randint(2, side - 2, (n,), generator=generator)
    for i in range(n):
        x[(i, 0, at[i]) if y[i] == 0 else (i, 0, slice(None), at[i])] = 255
    return Images(x, y)


def test_a_repeated_bar_is_learnt_within_200_presentations() -> None:
    net = SNNM(maps=(4, 4, 4), epochs=(1, 1, 1))
    model = built(net, classes=2)
    one = bars(40)
    bar = one.x[one.y == 0][:1].expand(200, -1, -1, -1)
    model.rates[0] = 0.15
    before = model.convergence(0)
    net.present(model, Images(bar, torch.zeros(200, dtype=torch.int64)), 0, Stream(("t",)), lambda done, total: None)
    changed = [m for m in range(4) if ((model.weights[0][m] < 0.1) | (model.weights[0][m] > 0.9)).float().mean() > 0.9]
    assert changed and before > 0.15
    assert int(model.presented[0]) == 200


def test_rates_double_and_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plasticity, "DOUBLING", 5)
    net = SNNM(maps=(4, 4, 4), epochs=(1, 1, 1))
    model, seen = built(net, classes=2), []
    for _ in range(8):
        net.present(model, bars(5), 0, Stream(("t",)), lambda done, total: None)
        seen.append(round(float(model.rates[0]), 6))
    assert seen == [0.008, 0.016, 0.032, 0.064, 0.128, 0.15, 0.15, 0.15] and float(model.rates[1]) == pytest.approx(
        0.004
    )


def test_reward_teaches_two_classes() -> None:
    """Over 95 % in two passes of the last layer behind a first pass of the others."""
    net = SNNM(maps=(8, 16, 20), epochs=(1, 1, 2))
    model, learnt, fresh = built(net, (1, 18, 18), 2), bars(400, 18), bars(600, 18)
    model.rates[:2] = 0.05
    for number in range(net.passes):
        net.present(model, learnt, number, Stream(("t", number)), lambda done, total: None)
    assert [net.layer(n) for n in range(4)] == [0, 1, 2, 2] and [net.decides(n) for n in range(4)] == [0, 0, 1, 1]
    right = (model(pixels(fresh.x[400:])).argmax(1) == fresh.y[400:]).float().mean()
    assert right > 0.95


def test_punishment_lowers_the_wrong_map() -> None:
    model = built(classes=10)
    wave = torch.rand(12, 2, 2, generator=Stream(("wave",)).generator()) < 0.5
    weight = model.weights[2].clamp(0.2, 0.8)
    winner, heights = Winner(3, 1, 0, STEPS - 1), []
    for _ in range(20):
        plasticity._reward(weight, wave, winner, False, [1.0, 1.0])
        heights.append(float(F.conv2d(wave.float()[None], weight, padding=2)[0, 3, 1, 0]))
    assert all(b < a for a, b in itertools.pairwise(heights))
    plasticity._reward(weight, wave, winner, True, [1.0, 1.0])
    assert float(F.conv2d(wave.float()[None], weight, padding=2)[0, 3, 1, 0]) > heights[-1]
    assert weight[3].min() >= 0.2 - 1e-6 and weight[3].max() <= 0.8 + 1e-6


def test_rewards_shrink_with_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plasticity, "ADAPT", 50)
    net = SNNM(maps=(4, 8, 10), epochs=(1, 1, 1), intended=True)
    model, learnt = built(net, classes=2), bars(100)
    asked: list[list[float]] = []
    real = plasticity._reward
    monkeypatch.setattr(
        plasticity, "_reward", lambda w, a, b, g, f: (asked.append([float(g), *f]), real(w, a, b, g, f))
    )
    net.present(model, learnt, 2, Stream(("t",)), lambda done, total: None)
    assert asked[0][1:] == pytest.approx([0.9, 0.1]) and len(asked) == 100
    right = sum(good for good, *_ in asked[:50])
    assert asked[50][1:] == pytest.approx([1 - right / 50, right / 50])
    assert model.rates[2:].sum().item() == pytest.approx(1)


def test_maps_sit_out() -> None:
    wave, weight = torch.ones(3, 2, 2, dtype=torch.bool), torch.full((6, 3, 5, 5), 0.5)
    weight[4] = 0.8
    generator = Stream(("drop",)).generator()
    won = [plasticity._strongest(wave, weight, 0.5, generator) for _ in range(200)]
    share = sum(w is not None and w.map == 4 for w in won) / 200
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 200)


# -------------------------------------------------------------------------------------------------------------- attacks


def gradient(model: STDPNetwork, x: Tensor) -> Tensor:
    image = x.clone().requires_grad_()
    return torch.autograd.grad(model(image)[:, 2].sum(), image)[0]


def test_the_gradient_points_to_what_raises_the_logit() -> None:
    """Contrast of either sign makes spikes, so the opposite step raises the logit, too, but less."""
    model, x = built(SMALL, (1, 28, 28)), images(20, 28) * 0.6
    model.weights[0].mul_(0.35)
    model.weights[1].mul_(0.2)
    g = gradient(model, x)
    ahead, behind = (model((x + s * 0.1 * g.sign()).clamp(0, 1))[:, 2] for s in (1, -1))
    assert (ahead > behind).sum() >= 18 and ahead.mean() > 1.5 * behind.mean()


def test_the_step_of_a_filter_is_differentiated_at_its_threshold() -> None:
    x = images(1, 8).double().requires_grad_()
    weight = torch.rand(6, 8, 8, dtype=torch.float64, generator=Stream(("w",)).generator())
    (found,) = torch.autograd.grad((final_wave(x) * weight).sum(), x)
    expected = F.conv_transpose2d(weight[None], filters().double(), padding=6) * 255 / 50
    assert torch.allclose(found, expected)


def test_the_gradient_of_normalised_responses_is_exact_within_the_gate() -> None:
    x = images(1, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(responses, (x,), eps=1e-7, atol=1e-4, rtol=1e-4)


def test_a_hard_gate_adds_no_strokes() -> None:
    """Far from every response there is no gradient, and near them the true threshold has one that it has not."""
    x = torch.zeros(1, 1, 40, 40)
    x[..., :10, :10] = images(1, 10)
    hard, contrast = built(SNNM(maps=(8, 12, 20), gate="hard"), (1, 40, 40)), built(SNNM(maps=(8, 12, 20)), (1, 40, 40))
    near = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    near[..., :25, :25] = True
    of_hard, of_contrast = gradient(hard, x), gradient(contrast, x)
    assert of_hard[near].any() and not of_hard[~near].any() and ((of_hard == 0) & (of_contrast != 0)).any()
    assert torch.equal(hard(x), contrast(x))


def test_a_rule_changes_the_gradient_and_not_the_decision() -> None:
    model, x = built(), images(3)
    with acting(Triangle(0.5)):
        ruled, logits = gradient(model, x), model(x)
    assert torch.equal(logits, model(x)) and not torch.equal(ruled, gradient(model, x))


@pytest.mark.parametrize(
    ("net", "shape", "classes", "word"),
    [
        (SMALL, (1, 5, 8), 10, "6 × 6"),
        (SMALL, (1, 12, 12), 7, "Write 21"),
    ],
)
def test_what_it_cannot_take(net: SNNM, shape: tuple[int, int, int], classes: int, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        net.build(shape, classes)


@pytest.mark.parametrize("bad", [{"maps": (1, 2)}, {"epochs": (0, 1, 1)}, {"drop": 1.0}, {"gate": "soft"}], ids=str)
def test_impossible_descriptions_are_refused(bad: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=next(iter(bad))):
        SNNM(**bad)
