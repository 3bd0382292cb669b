"""How an STDP network learns: competition for an image, and the change of the winners' weights.

One image at a time. The neurons that spike first win, so the steps of a presentation are computed one by one and only
until all winners are found. Source: Mozafari et al. 2019 and its published example.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robassay.data import Images, pixels
from robassay.nets.latency import STEPS, responses, times
from robassay.rng import Stream

if TYPE_CHECKING:
    from robassay.learner import Told
    from robassay.nets.stdp import Layer, STDPNetwork

BATCH = 100
"""Images whose waves are computed at once."""
DOUBLING, MOST, WEAKER = 500, 0.15, 0.75
"""Strengthening doubles after so many presentations, up to MOST; weakening is WEAKER times as fast."""
REWARD, PUNISHMENT = (0.004, -0.003), (-0.004, 0.0005)
BOUNDS = (0.2, 0.8)
ADAPT = 1000
"""Presentations between two adaptations of reward and punishment."""


class Winner(NamedTuple):
    """A neuron that learns, and its step."""

    map: int
    y: int
    x: int
    step: int


# ---------------------------------------------------------------------------------------------------------- layers 1, 2


def present_features(model: STDPNetwork, layer: int, x: Tensor, told: Told) -> None:
    """One pass of STDP of layer 0 or 1 over images uint8 (N, C, H, W), in their order."""
    from robassay.nets.stdp import LAYERS

    how = LAYERS[layer]
    model.kept = None
    for i, front in enumerate(fronts(model, layer, x)):
        found = winners(front, model.weights[layer], how)
        rate = float(model.rates[layer])
        for winner in found:
            strengthen(model.weights[layer], front, winner, how.padding, rate, -WEAKER * rate)
        model.presented[layer] += 1
        if int(model.presented[layer]) % DOUBLING == 0:
            model.rates[layer] = min(2 * rate, MOST)
        if i % BATCH == 0:
            told(i, len(x))


def fronts(model: STDPNetwork, layer: int, x: Tensor) -> Iterator[Tensor]:
    """Spike times in front of a layer, pooled, for images uint8 (N, C, H, W): N times uint8 (maps, H, W)."""
    from robassay.nets.stdp import LAYERS

    for part in x.split(BATCH):
        t = times(responses(pixels(part).mean(1, keepdim=True)))
        for below in range(layer):
            t = first_spikes(earliest(t, LAYERS[below].pool), model.weights[below], LAYERS[below])
        yield from earliest(t, LAYERS[layer].pool).unbind()


def earliest(t: Tensor, pool: int) -> Tensor:
    """Pooling of spike times uint8 (B, maps, H, W): the earliest spike of each window."""
    if pool == 1:
        return t
    return (STEPS - F.max_pool2d((STEPS - t).float(), pool)).to(torch.uint8)


def first_spikes(t: Tensor, weight: Tensor, how: Layer) -> Tensor:
    """Spike times (B, maps, H', W') of a layer whose input, already pooled, spikes at times ``t`` (B, maps, H, W)."""
    found = None
    for step in range(STEPS):
        potential = F.conv2d((t <= step).float(), weight, padding=how.padding)
        silent = (potential <= how.threshold).to(torch.uint8)
        found = silent if found is None else found + silent
    assert found is not None
    return found


def winners(t: Tensor, weight: Tensor, how: Layer) -> list[Winner]:
    """The neurons that learn from one image, in the order in which they win.

    Where several maps spike at a position, only the first may win, and of those that are first together the one with
    the largest potential. The earliest spike wins, of several the largest potential; a winner shuts out its map and a
    square of ``how.radius`` around itself in all maps.

    Args:
        t: spike times in front of the layer, pooled, uint8 (maps, H, W).
        weight: the layer's (maps, maps in front, k, k), none of them negative.
    """
    found: list[Winner] = []
    potential: Tensor | None = None
    for step in range(STEPS):
        arriving = F.conv2d((t == step).float()[None], weight, padding=how.padding)[0]
        potential = arriving if potential is None else potential.add_(arriving)
        if step == 0:
            spent = torch.zeros_like(potential[0], dtype=torch.bool)  # positions where somebody has spiked
            shut = torch.zeros_like(spent)
        best, champion = potential.max(0)
        fresh = (best > how.threshold) & ~spent
        spent |= fresh
        found += _won(best, champion, fresh, shut, step, found, how)
        if len(found) == how.winners:
            break
    return found


def _won(
    best: Tensor, champion: Tensor, fresh: Tensor, shut: Tensor, step: int, before: list[Winner], how: Layer
) -> list[Winner]:
    """Winners of one step, best potential first; ``shut`` learns what they shut out."""
    open_ = fresh & ~shut
    taken = {w.map for w in before}
    won: list[Winner] = []
    candidates = open_.nonzero()
    if not len(candidates):
        return won
    order = best[open_].argsort(descending=True, stable=True)
    maps = champion[open_][order].tolist()
    r = how.radius
    for (y, x), m in zip(candidates[order].tolist(), maps, strict=True):
        if m in taken or shut[y, x]:
            continue
        won.append(Winner(m, y, x, step))
        taken.add(m)
        shut[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1] = True
        if len(before) + len(won) == how.winners:
            break
    return won


def strengthen(weight: Tensor, t: Tensor, winner: Winner, padding: int, plus: float, minus: float) -> None:
    """STDP of one winner, in place: ``plus`` for inputs that spiked no later than it, else ``minus``.

    The change is scaled by w · (1 − w), which keeps weights in [0, 1].
    """
    w = weight[winner.map]
    early = patch(t <= winner.step, winner, padding, w.shape[-1])
    rate = torch.where(early, plus, minus)
    w.add_(rate * w * (1 - w)).clamp_(0, 1)


def patch(seen: Tensor, winner: Winner, padding: int, kernel: int) -> Tensor:
    """What a neuron sees of a map of booleans (maps, H, W): (maps, kernel, kernel), False outside the image."""
    padded = F.pad(seen, [padding] * 4)
    return padded[:, winner.y : winner.y + kernel, winner.x : winner.x + kernel]


# -------------------------------------------------------------------------------------------------------------- layer 3


def present_rewards(
    model: STDPNetwork,
    images: Images,
    drop: float,
    factors: tuple[float, float] | None,
    rng: Stream,
    told: Told,
) -> None:
    """One pass of reward-modulated STDP of the last layer.

    The winner is the neuron with the largest potential at the last step. It is rewarded when its map is one of the
    right class. After every thousand images rewards are scaled by the share of wrong decisions among them, punishments
    by that of right ones.

    Args:
        factors: of rewards and punishments to begin with; None goes on as before.
    """
    waves = _final_waves(model, images.x)
    weight, each = model.weights[2], model.weights[2].shape[0] // model.classes
    if factors is not None:
        model.rates[2:] = torch.tensor(factors)
    generator = rng.generator()
    right = wrong = 0
    for i, (wave, label) in enumerate(zip(waves, images.y.tolist(), strict=True)):
        winner = _strongest(wave, weight, drop, generator)
        if winner is not None:
            good = winner.map // each == label
            right, wrong = right + good, wrong + (not good)
            _reward(weight, wave, winner, good, model.rates[2:].tolist())
        model.presented[2] += 1
        if (i + 1) % ADAPT == 0:
            model.rates[2:] = torch.tensor([wrong / ADAPT, right / ADAPT])
            right = wrong = 0
        if i % BATCH == 0:
            told(i, len(waves))


def _final_waves(model: STDPNetwork, x: Tensor) -> Tensor:
    """Who has spiked in front of the last layer by the last step, pooled: bool (N, maps, h, w)."""
    from robassay.nets.stdp import LAYERS

    name = (x.data_ptr(), len(x))
    if model.kept is not None and model.kept[0] == name:
        return model.kept[1]
    found = []
    for part in x.split(BATCH):
        wave = model.prefix(pixels(part))
        for layer in (0, 1):
            wave = (model.height(layer, wave) > LAYERS[layer].threshold).float()
        found.append(wave.bool())
    waves = torch.cat(found)
    model.kept = name, waves
    return waves


def _strongest(wave: Tensor, weight: Tensor, drop: float, generator: torch.Generator) -> Winner | None:
    """The neuron with the largest potential; None when all are 0."""
    potential = F.conv2d(wave.float()[None], weight, padding=weight.shape[-1] // 2)[0]
    if drop:
        potential *= (torch.rand(len(potential), 1, 1, generator=generator) >= drop).float()
    place = int(potential.argmax())
    if not potential.flatten()[place] > 0:
        return None
    m, rest = divmod(place, potential[0].numel())
    return Winner(m, *divmod(rest, potential.shape[2]), STEPS - 1)


def _reward(weight: Tensor, wave: Tensor, winner: Winner, good: bool, factors: list[float]) -> None:
    """Change of the winner's weights, without the factor w · (1 − w), within [.2, .8]."""
    rates, factor = (REWARD, factors[0]) if good else (PUNISHMENT, factors[1])
    w = weight[winner.map]
    seen = patch(wave, winner, w.shape[-1] // 2, w.shape[-1])
    w.add_(torch.where(seen, factor * rates[0], factor * rates[1])).clamp_(*BOUNDS)
