"""Finding out what a module is, without being told: classes, randomness, hidden state, coupling, gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robassay.classifier import check_finite, like_probabilities, logits_of
from robassay.errors import UsageError
from robassay.rng import Stream
from robassay.rules import RGA, Exponential, acting

DRAWS = 16
COUPLED_SIGMAS = 6.0
COUPLED_PASSES = 64


class Findings(NamedTuple):
    """What :func:`probe` found."""

    classes: int
    stochastic: bool
    """Two passes over the same images differ."""
    reproducible: bool
    """Equal seeds of the global generators give equal logits; otherwise the module keeps state or seeds itself."""
    coupled: bool
    """A row's logits depend on which other rows are in the batch."""
    differentiable: bool
    """A gradient that is not zero everywhere reaches the input."""
    probabilities: bool
    """The output looks like probabilities, not logits."""
    spiking: bool = False
    """Neurons over time are in the gradient's way: it follows an attacker's rule, of whole spike trains, too."""


@torch.no_grad()
def probe(module: nn.Module, x: Tensor) -> Findings:
    """Probe ``module`` with images ``x`` (B, C, H, W) in [0,1], B ≥ 2; a few dozen passes.

    Raises:
        UsageError: the module cannot take such images, or does not return logits (B, classes).
        RobassayError: NaN logits.
    """
    rng = Stream(("probe",))
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    x = x.to(tensors[0].dtype) if tensors else x
    logits = _first_pass(module, x)
    if logits.shape[0] != len(x) or logits.shape[1] < 2:
        raise UsageError(
            f"the model returned logits of shape {tuple(logits.shape)} for {len(x)} images; an audit needs "
            f"({len(x)}, classes) with at least two classes."
        )
    check_finite(logits)
    draws = torch.stack([_logits(module, x, rng.child(i)) for i in range(DRAWS)])
    same = torch.equal(draws[0], _logits(module, x, rng.child(0)))
    stochastic = not same or not bool((draws == draws[0]).all())
    return Findings(
        classes=logits.shape[1],
        stochastic=stochastic,
        reproducible=same,
        coupled=_coupled(module, x, draws, stochastic, rng),
        differentiable=_differentiable(module, x, rng),
        probabilities=like_probabilities(draws),
        spiking=_spiking(module, x, rng),
    )


def _logits(module: nn.Module, x: Tensor, rng: Stream) -> Tensor:
    with rng.active():
        return logits_of(module(x))


def _first_pass(module: nn.Module, x: Tensor) -> Tensor:
    """One pass whose failure is explained: the usual cause is another image size than the module was made for."""
    try:
        return _logits(module, x, Stream(("probe", "first")))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        channels, height, width = x.shape[1:]
        message = f"the model cannot take images of shape {channels}×{height}×{width} (channels × height × width). "
        wanted = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), channels)
        if wanted != channels:
            message += f"Its first convolution takes {wanted} channels, the images have {channels}. "
        message += f"It said: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. "
        raise UsageError(message + "Audit it on the data set it was built for (--data NAME).") from error


def _coupled(module: nn.Module, x: Tensor, draws: Tensor, stochastic: bool, rng: Stream) -> bool:
    """Whether the first image's logits change with its batch mates: exactly, or in their first two moments."""
    one = x[:1]
    mates = [torch.full_like(one, value).expand(3, *x.shape[1:]) for value in (0.0, 1.0)]
    passes = COUPLED_PASSES if stochastic else 1
    try:
        alone = _of_first(module, one, passes, rng.child("alone"))
    except (RuntimeError, ValueError):
        return True  # a module that cannot take a single image (batch norm in training mode) needs its batch
    mated = [_of_first(module, torch.cat([one, m]), passes, rng.child("mates", i)) for i, m in enumerate(mates)]
    if not stochastic:
        allowed = 1e-3 * float(draws.abs().max() + 1)
        return any(bool((m - alone).abs().max() > allowed) for m in [*mated, draws[:1, 0]])
    return any(_differ(alone, m) or _differ((alone - alone.mean(0)) ** 2, (m - alone.mean(0)) ** 2) for m in mated)


def _of_first(module: nn.Module, batch: Tensor, passes: int, rng: Stream) -> Tensor:
    """Logits (passes, C) of the first image of a batch."""
    return torch.stack([_logits(module, batch, rng.child(i))[0] for i in range(passes)])


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether the means of two samples (n, C) differ by far more than their standard errors."""
    spread = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    return bool(((a.mean(0) - b.mean(0)).abs() > COUPLED_SIGMAS * spread + 1e-3 * (a.abs().mean() + 1e-12)).any())


def _spiking(module: nn.Module, x: Tensor, rng: Stream) -> bool:
    """Whether one rule gives one gradient, two heights of it give two, and a rule of spike trains is accepted."""
    found = []
    for rule in (Exponential(0.0, 1.0), Exponential(0.0, 1.0), Exponential(0.0, 0.5), RGA()):
        with torch.enable_grad(), rng.child("gradient").active(), acting(rule):
            image = x.detach().clone().requires_grad_()
            try:
                (gradient,) = torch.autograd.grad(logits_of(module(image)).sum(), image, allow_unused=True)
            except (RuntimeError, UsageError):
                return False
        if gradient is None:
            return False
        found.append(gradient)
    return torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def _differentiable(module: nn.Module, x: Tensor, rng: Stream) -> bool:
    with torch.enable_grad(), rng.child("gradient").active():
        image = x.detach().clone().requires_grad_()
        try:
            logits = logits_of(module(image))
            if not logits.requires_grad:
                return False
            (gradient,) = torch.autograd.grad(logits.square().sum(), image, allow_unused=True)
        except RuntimeError:
            return False
    return gradient is not None and bool((gradient != 0).any())
