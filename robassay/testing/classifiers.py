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
    )
    return examine(type(model).__name__, [(promise, partial(check, model, x[:8])) for promise, check in checks])


def _pass(model: nn.Module, x: Tensor, *key: str | int) -> Tensor:
    with torch.no_grad(), RNG.child(*key).active():
        return model(x)


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
            h = model.prefix(x)
        with RNG.child("prefix", 1).active():
            again = model.prefix(x)
        with RNG.child("split").active():
            logits = model.draw(h)
    need(torch.equal(h, again), "prefix is random. It is computed once for all draws: move the noise into draw.")
    need(torch.equal(logits, _pass(model, x, "split")), "forward(x) is not draw(prefix(x)). Do not override forward.")


def _inputs_kept(model: Classifier, x: Tensor) -> None:
    images, h = x.clone(), model.prefix(x).detach().clone()
    _pass(model, images, "kept")
    kept = h.clone()
    with torch.no_grad(), RNG.child("kept").active():
        model.draw(kept)
    need(torch.equal(images, x), "forward changes the images in place. Write x = x + noise, not x += noise.")
    need(torch.equal(kept, h), "draw changes the features in place, and the next draw sees the change. Copy first.")


def _rows_claim(model: Classifier, x: Tensor) -> str | None:
    if not model.stochastic:
        return None
    draws = _copies(model, x[:1], x[:0], "rows")
    alike = bool((draws == draws[:, :1]).all())
    together = _dependence(draws)
    if model.rows == "shared":
        free = not alike and abs(together) < 3 and not model.coupled
        return "rows look independent: rows = 'independent' would put many draws into one pass." if free else None
    mend = "Draw noise in the shape of the batch, or set rows = 'shared'."
    need(not alike, f"copies of one image in a batch get equal logits: they share the noise. {mend}")
    need(
        -SIGMAS / 2 < together < SIGMAS,
        f"the noise of batch mates is not independent: the spread of pass means is {together:.0f} standard deviations "
        f"from that of independent rows. {mend}",
    )
    return None


def _copies(model: Classifier, image: Tensor, mates: Tensor, key: str) -> Tensor:
    """Logits (PASSES, COPIES, C) of copies of an image (1, C, H, W) beside mates (M, C, H, W)."""
    batch = torch.cat([image.expand(COPIES, *image.shape[1:]), mates])
    return torch.stack([_pass(model, batch, key, i)[:COPIES] for i in range(PASSES)])


def _features(draws: Tensor) -> Tensor:
    """Standardised logits and their squares (N, 2C): noise may share a scale while its mean is free."""
    z = draws.double() - draws.double().mean(0)
    both = torch.cat([z, z.square() - z.square().mean(0)], 1)
    scale = both.std(0)
    return torch.where(scale > 1e-9, both / scale.clamp_min(1e-9), 0.0)


def _sigmas(draws: Tensor, statistic: Callable[[Tensor], Tensor]) -> float:
    """How far the statistic of (N, C) draws lies from that of the same draws in random order; 0 without any noise."""
    features, generator = _features(draws), RNG.child("permute").generator()
    shuffled = [features[torch.randperm(len(features), generator=generator)] for _ in range(200)]
    null = torch.stack([statistic(one) for one in shuffled])
    return float((statistic(features) - null.mean()) / null.std().clamp_min(1e-12))


def _dependence(draws: Tensor) -> float:
    """Excess spread of the passes' means of (passes, copies, C), in standard deviations of the permuted draws."""
    passes, copies, classes = draws.shape
    return _sigmas(
        draws.reshape(-1, classes).cpu(), lambda f: f.reshape(passes, copies, 2 * classes).mean(1).var(0).sum()
    )


def _coupled_claim(model: Classifier, x: Tensor) -> None:
    if model.coupled:
        return
    mend = "Set coupled = True, or normalise each image alone. Batch norm belongs in eval mode."
    extremes = torch.cat([torch.zeros_like(x[:1]), torch.ones_like(x[:1]), x[1:]])
    if model.stochastic:
        # Rows that share noise are no sample: one copy per pass counts, and there are more passes.
        counted, rounds = (COPIES, 1) if model.rows == "independent" else (1, 6)
        alone, mated = (
            torch.cat([_copies(model, x[:1], m, f"{n}-{r}")[:, :counted] for r in range(rounds)]).flatten(0, 1).cpu()
            for n, m in (("alone", x[:0]), ("mates", extremes))
        )
        n = len(alone)
        apart = _sigmas(torch.cat([alone, mated]), lambda f: (f[:n].mean(0) - f[n:].mean(0)).norm())
        need(apart < SIGMAS, f"the distribution of an image's logits changes with its batch mates. {mend}")
        return
    together = _pass(model, x, "mates")
    extreme = _pass(model, torch.cat([x[:1], extremes]), "mates")[:1]
    single = torch.cat([_pass(model, one, "mates") for one in x.split(1)])
    gap = max((together - single).abs().max().item(), (extreme - single[:1]).abs().max().item())
    scale = max(1.0, single.abs().max().item())
    need(gap <= CLOSE * scale, f"an image's logits change by {gap:.2g} with its batch mates. {mend}")


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
    found = Backprop(4)(model, x, goal.margin, RNG.child("gradient"))
    need(found.gradient.isfinite().all(), "the gradient is NaN or infinite. Look for sqrt(0), log(0) or 0/0.")
    need(all(p.grad is None for p in model.parameters()), "an attack's gradient was left in the parameters.")
    if not found.gradient.any():
        return "no gradient reaches the image: gradient attacks are blind, and prove nothing here."
    return None
