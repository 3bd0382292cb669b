"""Finding out what a module is, without being told: classes, randomness, hidden state, coupling, gradient, noise."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robassay.classifier import CannotQuiet, Classifier, Wrapped, precision
from robassay.cut import Cut, Place, cut_at, find_cut, named_cut, trace
from robassay.errors import UsageError
from robassay.independence import independent
from robassay.outputs import check_finite, like_probabilities, logits_of
from robassay.rng import Stream
from robassay.rules import RGA, Exponential, Rule, acting

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
    """The output looks like probabilities, not logits: their logarithms are attacked."""
    spiking: bool = False
    """Neurons over time are in the gradient's way: it follows an attacker's rule, of whole spike trains, too."""
    ruled: bool = False
    """The gradient follows an attacker's rule of single potentials: see :func:`robassay.rules.acting`."""
    quiets: bool = False
    """The noise can be switched off."""
    gaussian: bool = False
    """The logits have a closed form given the features: see :meth:`robassay.classifier.Classifier.gaussian`."""
    independent: bool = False
    """Every row of a batch gets noise of its own."""
    split: int = 0
    """Where the part that is computed once per image ends: after so many calls of submodules; 0: there is none."""
    thin: bool = False
    """Up to there, one row of zeros may stand for all: see :class:`robassay.cut.Cut`."""
    alone: bool = True
    """It takes a single image."""
    opaque: bool = False
    """It fails where a gradient is asked for, as NumPy inside does."""


@torch.no_grad()
def probe(module: nn.Module, x: Tensor, split: str = "") -> Findings:
    """Probe ``module`` with images ``x`` (B, C, H, W) in [0,1], B ≥ 2; a few dozen passes.

    Args:
        module: a user's network, or a classifier.
        x: the images.
        split: the submodule at whose output a user's random network is cut; "" to look for one, "none" for no cut.

    Raises:
        UsageError: the module cannot take such images, does not return logits (B, classes), or cannot be cut at
            ``split``.
        RobassayError: NaN logits.
    """
    rng = Stream(("probe",))
    x = x if isinstance(module, Classifier) else x.to(precision(module))
    logits = _first_pass(module, x)
    if logits.shape[0] != len(x) or logits.shape[1] < 2:
        raise UsageError(
            f"the model returned logits of shape {tuple(logits.shape)} for {len(x)} images; an audit needs "
            f"({len(x)}, classes) with at least two classes."
            + " If it is one logit z of two classes, return torch.cat([-z, z], 1) / 2."
            * (logits.shape[1] == 1)
        )
    check_finite(logits)
    draws = torch.stack([_logits(module, x, rng.child(i)) for i in range(DRAWS)])
    same = torch.equal(draws[0], _logits(module, x, rng.child(0)))
    stochastic = not same or not bool((draws == draws[0]).all())
    alone = _alone(module, x, rng)
    differentiable, opaque = _differentiable(module, x, rng)
    ruled, spiking = _rules(module, x, rng)
    found = Findings(
        classes=logits.shape[1],
        stochastic=stochastic,
        reproducible=same,
        coupled=_coupled(module, x, draws, stochastic, alone, rng),
        differentiable=differentiable,
        probabilities=like_probabilities(draws),
        spiking=spiking,
        ruled=ruled,
        alone=alone,
        opaque=opaque,
    )
    if isinstance(module, Classifier):
        return _of_contract(found, module, x, rng)
    return _of_noise(found, module, x, split, rng)


def as_classifier(module: nn.Module, found: Findings, x: Tensor) -> Classifier:
    """The classifier of a module that was probed with images like ``x`` (B, C, H, W); a classifier itself stays."""
    if isinstance(module, Classifier):
        return module
    return Wrapped(
        module,
        found.classes,
        bool(found.stochastic),
        bool(found.coupled),
        rows="independent" if found.independent else "shared",
        cut=cut_of(module, found, x),
        probabilities=bool(found.probabilities),
        alone=bool(found.alone),
        opaque=bool(found.opaque),
    )


def cut_of(module: nn.Module, found: Findings, x: Tensor) -> Cut | None:
    """Where a probed module is cut, for images like ``x`` (B, C, H, W); None where it is not."""
    if not found.split:
        return None
    with Stream(("probe", "cut")).active():
        made = cut_at(
            trace(module.eval(), x[:2].to(precision(module))), Place(found.split, bool(found.thin)), tuple(x.shape[1:])
        )
    assert isinstance(made, Cut)  # the same module, the same images: the cut that was found and checked
    return made


def _of_noise(found: Findings, module: nn.Module, x: Tensor, split: str, rng: Stream) -> Findings:
    """What is found out about a user's module once it is known how to run it: where and what its noise is."""
    if not found.stochastic:
        return found
    if split not in ("", "none") and not found.reproducible:
        raise UsageError(
            f"split='{split}' cannot be checked: equal seeds do not give equal logits, because the module keeps state "
            "or seeds itself. Draw from torch's global generator, or leave split out."
        )
    if found.reproducible:
        if split not in ("", "none"):
            found = _cut(found, named_cut(module, split, x, rng.child("cut")))
        elif split != "none":
            found = _cut(found, find_cut(module, x, rng.child("cut")))
    model = as_classifier(module, found, x)
    if found.reproducible and not found.coupled:
        found = found._replace(independent=independent(model, model.prefix(x), rng.child("rows")))
    return found._replace(quiets=_quiets(model, x, rng))


def _cut(found: Findings, place: Place) -> Findings:
    return found._replace(split=place.calls, thin=place.thin)


def _of_contract(found: Findings, model: Classifier, x: Tensor, rng: Stream) -> Findings:
    """What a classifier says of itself."""
    h = model.prefix(x)
    given = model if isinstance(model, Wrapped) else None
    return found._replace(
        quiets=model.stochastic and _quiets(model, x, rng),
        gaussian=model.gaussian(h) is not None,
        independent=model.stochastic and model.rows == "independent",
        split=int(model.stochastic and h is not x),
        probabilities=found.probabilities or (given is not None and given.probabilities),
        opaque=found.opaque or (given is not None and given.opaque),
    )


def _logits(module: nn.Module, x: Tensor, rng: Stream) -> Tensor:
    with rng.active():
        return logits_of(module(x.clone()))  # a copy: a forward may write to its input


def _first_pass(module: nn.Module, x: Tensor) -> Tensor:
    """One pass whose failure is explained: the usual cause is another image size than the module was made for."""
    try:
        return _logits(module, x, Stream(("probe", "first")))
    except UsageError:
        raise
    except Exception as error:
        said = f"It said: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. "
        if any(word in said.lower() for word in ("cuda", "same device")):
            raise UsageError(
                f"the model moves tensors to a device on its own. {said}The audit computes on {x.device}: build the "
                "network there, and write .to(x.device) in forward instead of a fixed device."
            ) from error
        channels, height, width = x.shape[1:]
        message = f"the model cannot take images of shape {channels}×{height}×{width} (channels × height × width). "
        wanted = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), channels)
        if wanted != channels:
            message += f"Its first convolution takes {wanted} channels, the images have {channels}. "
        raise UsageError(message + said + "Audit it on the data set it was built for (--data NAME).") from error


def _alone(module: nn.Module, x: Tensor, rng: Stream) -> bool:
    """Whether the module takes a single image; one that squeezes its output, or norms over the batch, may not."""
    try:
        return _logits(module, x[:1], rng.child("alone")).shape[0] == 1
    except Exception:  # a user's forward may raise anything: that it does is the answer
        return False


def _coupled(module: nn.Module, x: Tensor, draws: Tensor, stochastic: bool, alone: bool, rng: Stream) -> bool:
    """Whether the first image's logits change with its batch mates: exactly, or in their first two moments."""
    one = x[:1]
    mates = [torch.full_like(one, value).expand(3, *x.shape[1:]) for value in (0.0, 1.0)]
    passes = COUPLED_PASSES if stochastic else 1
    single = _of_first(module, one if alone else torch.cat([one, one]), passes, rng.child("alone"))
    mated = [_of_first(module, torch.cat([one, m]), passes, rng.child("mates", i)) for i, m in enumerate(mates)]
    share = max(1e-3, 4 * torch.finfo(draws.dtype).eps)
    single, mated = single.float(), [m.float() for m in mated]
    if not stochastic:
        allowed = share * float(draws.abs().max() + 1)
        return any(bool((m - single).abs().max() > allowed) for m in [*mated, draws[:1, 0].float()])
    centre = single.mean(0)
    return any(_differ(single, m, share) or _differ((single - centre) ** 2, (m - centre) ** 2, share) for m in mated)


def _of_first(module: nn.Module, batch: Tensor, passes: int, rng: Stream) -> Tensor:
    """Logits (passes, C) of the first image of a batch."""
    return torch.stack([_logits(module, batch, rng.child(i))[0] for i in range(passes)])


def _differ(a: Tensor, b: Tensor, share: float) -> bool:
    """Whether the means of two samples (n, C) differ by far more than their standard errors and their rounding."""
    spread = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    return bool(((a.mean(0) - b.mean(0)).abs() > COUPLED_SIGMAS * spread + share * (a.abs().mean() + 1e-12)).any())


def _rules(module: nn.Module, x: Tensor, rng: Stream) -> tuple[bool, bool]:
    """Whether the gradient follows a rule of single potentials, and one of whole spike trains, too.

    One rule gives one gradient, and two heights of it give two.
    """
    same, again, half = (_ruled(module, x, rule, rng) for rule in (Exponential(0.0), Exponential(0.0), _HALF))
    if same is None or again is None or half is None or not torch.equal(same, again) or torch.equal(same, half):
        return False, False
    return True, _ruled(module, x, RGA(), rng) is not None


_HALF = Exponential(0.0, 0.5)


def _ruled(module: nn.Module, x: Tensor, rule: Rule, rng: Stream) -> Tensor | None:
    """The gradient under ``rule``; None where there is none."""
    with torch.enable_grad(), rng.child("gradient").active(), acting(rule):
        image = x.detach().clone().requires_grad_()
        try:
            (gradient,) = torch.autograd.grad(logits_of(module(image.clone())).sum(), image, allow_unused=True)
        except Exception:  # as above: a rule of spike trains is refused by a network without time, too
            return None
    return gradient


def _differentiable(module: nn.Module, x: Tensor, rng: Stream) -> tuple[bool, bool]:
    """Whether a gradient that is not zero everywhere reaches the image; whether asking for one fails."""
    with torch.enable_grad(), rng.child("gradient").active():
        image = x.detach().clone().requires_grad_()
        try:
            logits = logits_of(module(image.clone()))
            if not logits.requires_grad:
                return False, False
            (gradient,) = torch.autograd.grad(logits.square().sum(), image, allow_unused=True)
        except Exception:  # as above: NumPy inside, or a kernel without a backward pass
            return False, True
    return gradient is not None and bool((gradient != 0).any()), False


def _quiets(model: Classifier, x: Tensor, rng: Stream) -> bool:
    """Whether the noise can be switched off: two passes then agree."""
    h, passes = model.prefix(x), []
    for i in range(2):
        with rng.child("quiet", i).active():
            try:
                passes.append(model.quiet(h))
            except CannotQuiet:
                return False
    return torch.equal(*passes)


@torch.no_grad()
def changing(module: nn.Module, x: Tensor) -> list[str]:
    """Names of the attributes, buffers and generators of a module that a pass over ``x`` (B, C, H, W) changes."""
    before = _state(module)
    _logits(module, x.to(precision(module)), Stream(("probe", "changing")))
    after = _state(module)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _state(module: nn.Module) -> dict[str, object]:
    """What of a module can be compared, by name: plain attributes, tensors and random generators."""
    found: dict[str, object] = {}
    for path, child in module.named_modules():
        for name, value in (*vars(child).items(), *child._parameters.items(), *child._buffers.items()):
            held = value.get_state() if isinstance(value, torch.Generator) else value
            if isinstance(held, Tensor):
                raw = held.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                held = hashlib.blake2b(raw.tobytes(), digest_size=12).hexdigest()
            if held is None or isinstance(held, (bool, int, float, str, tuple, list)):
                found[f"{path}.{name}".lstrip(".")] = repr(held)
    return found
