"""The exam of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from robassay.classifier import CannotQuiet, Classifier, Quiet, check_finite
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.testing.exam import RNG, Result, examine, need
from robassay.threat import Goal

PASSES, COPIES = 32, 16
CLOSE = 1e-4
SIGMAS = 7.0
"""Standard deviations of the permuted statistic from which a dependence counts: about one false alarm in a million."""


def check_classifier(model: Classifier, x: Tensor) -> list[Result]:
    """Examine a classifier on images ``x`` (B, C, H, W) in [0,1], B ≥ 2; at most 8 are used, in some 2,000 rows.

    Raises:
        ContractError: broken promises, all of them.
        UsageError: ``model`` is no Classifier.
    """
    if not isinstance(model, Classifier):
        raise UsageError(
            f"check_classifier examines a Classifier, this is a {type(model).__name__}. "
            "Write Wrapped(module, classes=10, stochastic=False)."
        )
    if len(x) < 2:
        raise UsageError("check_classifier needs at least two images, to see whether they influence each other.")
    checks = (
        ("returns finite logits (B, classes)", _answers),
        ("same stream, same bits", _same_bits),
        ("stochastic says whether passes differ", _stochastic_claim),
        ("forward is draw after prefix, and prefix is deterministic", _prefix_splits),
        ("leaves its inputs as they are", _inputs_kept),
        ("rows says whether rows get noise of their own", _rows_claim),
        ("coupled says whether batch mates matter", _coupled_claim),
        ("quiet is deterministic", _quiet_claim),
        ("the gradient reaches the image", _gradient_reaches),
        ("its detectors refuse an image always or never", _alarms_claim),
    )
    return examine(type(model).__name__, [(promise, partial(check, model, x[:8])) for promise, check in checks])


def _pass(model: nn.Module, x: Tensor, *key: str | int) -> Tensor:
    with torch.no_grad(), RNG.child(*key).active():
        return model(x.clone())  # a model that works in place spoils nothing for the next check


def _answers(model: Classifier, x: Tensor) -> None:
    logits = _pass(model, x, "first")
    expected = (len(x), model.classes)
    need(tuple(logits.shape) == expected, f"logits have shape {tuple(logits.shape)}, expected {expected}.")
    check_finite(logits)


def _same_bits(model: Classifier, x: Tensor) -> None:
    held = {name: value.clone() for name, value in model.state_dict().items()}
    first = _pass(model, x, "bits", 0)
    _pass(model, 1 - x.flip(0), "bits", 1)
    again = _pass(model, x, "bits", 0)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, held[name])]
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    why = f" {norms[0]} is a batch norm in training mode: call eval()." if norms else ""
    need(not changed, f"a pass changed the buffers {', '.join(changed[:3])}: draws would depend on their order.{why}")
    need(
        torch.equal(first, again),
        "two passes from one seed differ. Reset every state (a membrane) at the start of draw, and take random numbers "
        "from torch's global generator, not from one of the module's own.",
    )


def _stochastic_claim(model: Classifier, x: Tensor) -> None:
    draws = torch.stack([_pass(model, x, "claim", i) for i in range(PASSES)])
    differ = bool((draws != draws[0]).any())
    need(model.stochastic or not differ, "passes differ, but stochastic is False. Set stochastic = True.")
    need(
        differ or not model.stochastic,
        f"{PASSES} passes are equal to the bit, but stochastic is True. Keep the noise on in eval mode, or set False.",
    )


def _prefix_splits(model: Classifier, x: Tensor) -> None:
    with torch.no_grad():
        with RNG.child("prefix", 0).active():
            h = model.prefix(x.clone())
        with RNG.child("prefix", 1).active():
            again = model.prefix(x.clone())
        with RNG.child("split").active():
            logits = model.draw(h.clone())
    need(torch.equal(h, again), "prefix is random. It is computed once for all draws: move the noise into draw.")
    need(torch.equal(logits, _pass(model, x, "split")), "forward(x) is not draw(prefix(x)). Do not override forward.")


def _inputs_kept(model: Classifier, x: Tensor) -> None:
    images = x.clone()
    with torch.no_grad(), RNG.child("kept").active():
        model(images)
        h = model.prefix(x.clone())
        kept = h.clone()
        model.draw(kept)
    need(torch.equal(images, x), "forward changes the images in place. Write x = x + noise, not x += noise.")
    need(torch.equal(kept, h), "draw changes the features in place, and the next draw sees the change. Copy first.")


def _rows_claim(model: Classifier, x: Tensor) -> str | None:
    if not model.stochastic:
        return None
    draws = torch.stack([_pass(model, x[:1].expand(COPIES, *x.shape[1:]), "rows", i) for i in range(PASSES)]).cpu()
    alike = bool((draws == draws[:, :1]).all())
    logits, squares = _dependence(draws)
    if model.rows == "shared":
        free = not alike and max(abs(logits), abs(squares)) < 3 and not model.coupled
        return "rows look independent: rows = 'independent' would put many draws into one pass." if free else None
    mend = "Draw noise in the shape of the batch, or set rows = 'shared'."
    need(not alike, f"copies of one image in a batch get equal logits: they share the noise. {mend}")
    for what, sigmas in (("logits", logits), ("squared logits", squares)):
        need(
            -SIGMAS / 2 < sigmas < SIGMAS,
            f"the noise of batch mates is not independent: the spread of the passes' mean {what} is {sigmas:.0f} "
            f"standard deviations from that of independent rows. {mend}",
        )
    return None


def _dependence(draws: Tensor) -> tuple[float, float]:
    """Excess spread of the passes' means of (passes, copies, C), in standard deviations of the permuted draws.

    Once for the logits and once for their squares, since noise may share a scale while its mean is free.
    """
    passes, copies, classes = draws.shape

    def spread(values: Tensor) -> Tensor:
        return values.reshape(passes, copies, classes).mean(1).var(0).sum()

    flat = draws.double().flatten(0, 1)
    return _sigmas(flat, spread), _sigmas((flat - flat.mean(0)).square(), spread)


def _sigmas(values: Tensor, statistic: Callable[[Tensor], Tensor]) -> float:
    """How far the statistic of (N, C) values lies from that of the same rows in random order; 0 without any noise."""
    centred, scale = values - values.mean(0), values.std(0)
    unit = torch.where(scale > 1e-9, centred / scale.clamp_min(1e-9), 0.0)
    generator = RNG.child("permute").generator()
    null = torch.stack([statistic(unit[torch.randperm(len(unit), generator=generator)]) for _ in range(200)])
    return float((statistic(unit) - null.mean()) / null.std().clamp_min(1e-12))


def _coupled_claim(model: Classifier, x: Tensor) -> None:
    if model.coupled:
        return
    mend = "Set coupled = True, or normalise each image alone. Batch norm belongs in eval mode."
    black, white = torch.zeros_like(x[:1]).expand(3, *x.shape[1:]), torch.ones_like(x[:1]).expand(3, *x.shape[1:])
    if model.stochastic:
        alone, *mated = (
            torch.cat([_pass(model, torch.cat([x[:1], mates]), "mates", k, i)[:1] for i in range(6 * PASSES)]).cpu()
            for k, mates in enumerate((x[:0], black, white))
        )
        n = len(alone)
        for draws in mated:
            both = torch.cat([alone, draws]).double()
            for values in (both, (both - both.mean(0)).square()):
                apart = _sigmas(values, lambda v: (v[:n].mean(0) - v[n:].mean(0)).norm())
                need(apart < SIGMAS, f"the distribution of an image's logits changes with its batch mates. {mend}")
        return
    single = torch.cat([_pass(model, one, "mates") for one in x.split(1)])
    batches = (x, torch.cat([x, black]), torch.cat([x, white]))
    gap = max((_pass(model, batch, "mates")[: len(x)] - single).abs().max().item() for batch in batches)
    allowed = CLOSE * max(1.0, single.abs().max().item())
    need(gap <= allowed, f"an image's logits change by {gap:.2g} with its batch mates. {mend}")


def _quiet_claim(model: Classifier, x: Tensor) -> str | None:
    quiet = Quiet(model)
    try:
        first, again = _pass(quiet, x, "quiet", 0), _pass(quiet, x, "quiet", 1)
    except CannotQuiet:
        return "it cannot be quieted: checks that need the noise off are left out."
    need(first.shape == (len(x), model.classes), f"quiet returns shape {tuple(first.shape)}.")
    need(torch.equal(first, again), "quiet is random. Switch every noise off in it, or raise CannotQuiet.")
    return None


def _gradient_reaches(model: Classifier, x: Tensor) -> str | None:
    goal = Goal(_pass(model, x, "labels").argmax(-1))
    found = Backprop(4)(model, x.clone(), goal.margin, RNG.child("gradient"))
    need(found.gradient.isfinite().all(), "the gradient is NaN or infinite. Look for sqrt(0), log(0) or 0/0.")
    need(all(p.grad is None for p in model.parameters()), "an attack's gradient was left in the parameters.")
    if not found.gradient.any():
        return "no gradient reaches the image: gradient attacks are blind, and prove nothing here."
    return None


def _alarms_claim(model: Classifier, x: Tensor) -> None:
    with torch.no_grad():
        with RNG.child("alarms", 0).active():
            first = model.alarms(x.clone())
        with RNG.child("alarms", 1).active():
            again = model.alarms(x.clone())
    shape = tuple(first.shape)
    need(len(shape) == 2 and shape[0] == len(x), f"alarms have shape {shape}, expected ({len(x)}, detectors).")
    need(torch.equal(first, again), "alarms are random or NaN. Switch the noise off in them, and look for 0/0.")
