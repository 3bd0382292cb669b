"""Networks whose neurons speak by the time of one spike: encoder, spike response, fractional contribution, potential.

Times are integer steps of 0.01 ms. Source: Jeyasothy et al. 2019 (MC-SEFRON). All arithmetic is float64: a firing time
is a comparison, which rounding must not decide, and one image at a time the narrower type saves a third at most.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from robassay.errors import RobassayError

WINDOW = 300
"""Steps in which an input spikes, and the time constant of the spike response."""
STEPS = 400
"""Steps that are simulated."""
SILENT = STEPS - 1
"""Firing time of a neuron that does not fire before it."""
OVERLAP = 0.7
WIDTH = 55.0
"""Standard deviation of the kernel that makes a weight vary in time."""
PLASTICITY = 160.0
"""Time constant of spike-timing-dependent plasticity."""
RANK = 16
"""Of the state: the 17th singular value of the kernel is 1e-10 of the first."""
SLOTS = WINDOW + 2
CHUNK = 32
"""Images that are looked up at once: a larger chunk is no faster, and needs half a megabyte more per image of MNIST."""


def encode(x: Tensor, fields: int) -> Tensor:
    """Spike times before rounding, in [1, 301]: features (B, D) in [0,1] → float64 (B, D · fields), fields inside.

    Field r = 1 … R has its centre at (2r − 3)/(2(R − 2)) and the width 1/(0.7 (R − 2)).
    """
    centres = (2 * torch.arange(1, fields + 1, dtype=torch.float64) - 3) / (2 * (fields - 2))
    width = 1 / (OVERLAP * (fields - 2))
    response = (-((x.double()[..., None] - centres) ** 2) / (2 * width**2)).exp()
    return (WINDOW * (1 - response) + 1).flatten(1)


def whole(times: Tensor) -> Tensor:
    """Spike times rounded to int64; a half goes to the even neighbour of the time less one."""
    return ((times - 1).round() + 1).long()


def response(steps: Tensor) -> Tensor:
    """What a spike adds to the potential so many steps later: s/300 · exp(1 − s/300) for s > 0, else 0; any shape."""
    s = steps.double().clamp_min(0) / WINDOW
    return s * (1 - s).exp()


def contribution(times: Tensor, post: Tensor | int, counts: Tensor | float = 1.0) -> Tensor:
    """Each input's share U in a spike at ``post``, by normalised plasticity: float64, shape of ``times`` (…, N).

    With r = post − t and k = exp(−|r|/160): k over the sum of k where r > 0, −k over its sum where r < 0, 0 at r = 0.

    Args:
        times: spike times.
        post: step of the output spike; a tensor (…, 1) for several.
        counts: how many inputs spike at each of ``times``; the sums run over all of them.
    """
    lead = (post - times).double()
    strength = (-lead.abs() / PLASTICITY).exp()
    before, after = strength * (lead > 0), strength * (lead < 0)
    return _share(before, counts) - _share(after, counts)


def _share(strength: Tensor, counts: Tensor | float) -> Tensor:
    total = (strength * counts).sum(-1, keepdim=True)
    return strength / torch.where(total > 0, total, 1.0)  # an empty side has no share


def kernel_factor() -> Tensor:
    """G, float64 (302, 16), with (G Gᵀ)[τ, t] = exp(−(τ − t)²/(2 · 55²)) to 1e-9: row t weights slot τ of a synapse."""
    slots = torch.arange(SLOTS, dtype=torch.float64)
    kernel = (-((slots[:, None] - slots) ** 2) / (2 * WIDTH**2)).exp()
    values, vectors = torch.linalg.eigh(kernel)
    return (vectors[:, -RANK:] * values[-RANK:].sqrt()).contiguous()


def _lags() -> Tensor:
    return torch.arange(STEPS + 1) - torch.arange(SLOTS)[:, None]


RESPONSE = response(_lags())
"""E[s, t], float64 (302, 401): what a spike at s adds to the potential at t."""


def _response_slope() -> Tensor:
    s = _lags().double() / WINDOW
    return -torch.where(s > 0, (1 - s) * (1 - s).exp() / WINDOW, 0.0)


class _Potential(torch.autograd.Function):
    """Looks up every weight at the time of its spike, adds up weights of one time, and spreads them with E.

    Backward, with respect to the unrounded times: the slope of the weight in time (that of the linear interpolation
    between slots, mean of both sides) and the shift of the spike response.
    """

    @staticmethod
    def forward(ctx: Any, times: Tensor, state: Tensor, factor: Tensor) -> Tensor:
        at = whole(times)
        ctx.save_for_backward(at, state, factor)
        parts = [_added(rows, _looked_up(rows, state, factor)) for rows in at.split(CHUNK)]
        return torch.cat(parts) @ RESPONSE if parts else times.new_zeros(0, len(state), STEPS + 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        at, state, factor = ctx.saved_tensors
        slopes, falls = _slopes(factor), _response_slope().T
        found = []
        for rows, gradient in zip(at.split(CHUNK), grads[0].split(CHUNK), strict=True):
            weight = _read_by(rows, gradient @ RESPONSE.T)
            shift = _read_by(rows, gradient @ falls)
            both = weight * _looked_up(rows, state, slopes) + shift * _looked_up(rows, state, factor)
            found.append(both.sum(-1).T)
        return torch.cat(found) if found else at.double(), None, None


def potential(times: Tensor, state: Tensor, factor: Tensor) -> Tensor:
    """V[b, c, t] for t = 0 … 400: unrounded spike times (B, N), state (C, N, 16), factor (302, 16) → (B, C, 401)."""
    values: Tensor = _Potential.apply(times, state, factor)
    return values


def _looked_up(at: Tensor, state: Tensor, factor: Tensor) -> Tensor:
    """Weights (N, B, C) at slot t − 1: slots count from 0, and the source reads them so."""
    return torch.bmm(factor[at.T - 1], state.permute(1, 2, 0))


def _slopes(factor: Tensor) -> Tensor:
    middle = (factor[2:] - factor[:-2]) / 2
    return torch.cat([factor[1:2] - factor[:1], middle, factor[-1:] - factor[-2:-1]])


def _added(at: Tensor, weights: Tensor) -> Tensor:
    """H (B, C, 302): the sum of the weights (N, B, C) whose spikes come at s."""
    images, classes = len(at), weights.shape[-1]
    index = at.T + SLOTS * torch.arange(images)
    sums = weights.new_zeros(images * SLOTS, classes)
    sums.scatter_add_(0, index.flatten()[:, None].expand(-1, classes), weights.reshape(-1, classes))
    return sums.reshape(images, SLOTS, classes).transpose(1, 2)


def _read_by(at: Tensor, by_time: Tensor) -> Tensor:
    """(N, B, C): the column of ``by_time`` (B, C, 302) at every spike."""
    images, classes = by_time.shape[:2]
    index = at.T + SLOTS * torch.arange(images)
    return by_time.transpose(1, 2).reshape(-1, classes)[index.flatten()].reshape(*index.shape, classes)


def firing_times(values: Tensor, threshold: Tensor) -> Tensor:
    """First step at which V (B, C, 401) lies above the threshold (C,), strictly: int64 (B, C); 399 is silence."""
    fired = values[..., :SILENT] > threshold[:, None]
    first = fired.to(torch.uint8).argmax(-1)  # the first of equals
    return torch.where(fired.any(-1), first, SILENT)


def reach(share: Tensor, times: Tensor, post: Tensor | int, counts: Tensor | float = 1.0) -> Tensor:
    """The potential at ``post`` of weights ``share`` (…, N) for spikes at ``times``: float64 (…), positive.

    The arguments are those of :func:`contribution`.

    Raises:
        RobassayError: no input spikes before.
    """
    reached = (share * response(post - times) * counts).sum(-1)
    if not bool(((reached > 0) & reached.isfinite()).all()):
        raise RobassayError(
            "no input spikes early enough, so no weights make a neuron fire at the wanted step: the potential there is "
            f"{reached.tolist()}. Give features in [0,1]."
        )
    return reached
