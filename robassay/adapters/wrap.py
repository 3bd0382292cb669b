"""`robassay.adapt`: a network of snnTorch, SpikingJelly or Norse as a classifier."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from robassay.adapters.adapted import Adapted
from robassay.adapters.framework import Layout, found_in, named
from robassay.adapters.readouts import FirstSpike, Membrane, Rate, Readout
from robassay.adapters.selftest import HOW, Shape, examine
from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.nets.encoders import Direct, Encoder, Latency, Poisson

P = TypeVar("P")
ENCODERS: dict[str, Encoder] = {"direct": Direct(), "poisson": Poisson(), "latency": Latency()}
READOUTS: dict[str, Readout] = {"rate": Rate(), "membrane": Membrane(), "first-spike": FirstSpike()}


def adapt(
    model: nn.Module,
    framework: str,
    steps: int | None,
    encoder: str | Encoder = "direct",
    readout: str | Readout = "rate",
    layout: Layout | None = None,
    mean: float | tuple[float, ...] = 0.0,
    std: float | tuple[float, ...] = 1.0,
    shape: Shape | None = None,
) -> Adapted:
    """A spiking network as a classifier that can be attacked and audited.

    Example:
        >>> robassay.adapt(net, framework="snntorch", steps=25, encoder="poisson")          # doctest: +SKIP

    The network is put into eval mode and examined on random images: it must forget between passes, and its axes must
    be the ones said. Whether it is random, couples rows or hides its surrogate is found out.

    Args:
        model: a network whose neurons are the framework's.
        framework: "snntorch", "spikingjelly" or "norse".
        steps: time steps of a pass; None for a network that takes images and runs time itself. It returns logits
            (B, classes), or outputs (steps, B, classes), alone or as (spikes, membrane).
        encoder: "direct", "poisson", "latency", or an encoder such as Poisson(signed=True).
        readout: "rate", "membrane", "first-spike", or a readout such as Membrane("max").
        layout: what one call takes: "step" (B, …), "time-first" (T, B, …), "batch-first" (B, T, …). None: as the
            neurons say.
        mean, std: normalisation of the pixels before the encoder, one value or one per channel.
        shape: (C, H, W) of the images it is examined on; None tries common sizes.

    Raises:
        UsageError: no neurons of that framework, a network that keeps state between passes (named), or axes that are
            not the ones said.
    """
    frame = named(framework)
    if not isinstance(model, nn.Module):
        raise UsageError(f"adapt() takes a torch.nn.Module, this is a {type(model).__name__}.")
    if isinstance(model, Adapted):
        raise UsageError("the network is adapted already. Give adapt() the framework's own network.")
    if not frame.neurons(model):
        raise UsageError(f"the network has no neurons of {framework}. Name the framework that it is made with.")
    if steps is not None and steps < 1:
        raise UsageError(f"steps={steps}: a pass has one time step at least. Write steps=8.")
    coder, reader = _chosen(encoder, ENCODERS, Encoder, "encoder"), _chosen(readout, READOUTS, Readout, "readout")
    if steps is None and not isinstance(coder, Direct):
        raise UsageError("steps=None: the network gets images and encodes them itself. Leave the encoder out.")
    taken: Layout | None = "images" if steps is None else layout or frame.layout(model)
    if taken is None or (taken == "images") != (steps is None):
        raise UsageError(f"layout={layout!r} with steps={steps} says not what one call takes. {HOW}")
    net = Adapted(model, frame, steps, taken, coder, reader, _tuple(mean), _tuple(std))
    examine(net, shape)
    return net


def recognised(module: nn.Module, shape: Shape | None = None) -> nn.Module:
    """``module`` itself; or adapted, where it is a framework's own network that maps images to logits.

    Raises:
        UsageError: a framework's own network of which it has to be said how time runs.
    """
    framework = None if isinstance(module, Classifier) else found_in(module)
    if framework is None or not named(framework).neurons(module):
        return module
    try:
        return adapt(module, framework, steps=None, shape=shape)
    except UsageError as error:
        raise UsageError(
            f"this is a network of {framework}, and how time runs through it has to be said: let build() return "
            f"robassay.adapt(net, framework='{framework}', steps=8, encoder='direct', readout='rate') with its own "
            f"steps, encoder and readout. (As it is: {error})"
        ) from error


def _tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (float(value),)


def _chosen(given: str | P, known: dict[str, P], kind: type, role: str) -> P:
    if isinstance(given, kind):
        return given  # type: ignore[return-value]
    if isinstance(given, str) and given in known:
        return known[given]
    raise UsageError(f"{role}={given!r} is not known. Write {', '.join(map(repr, known))}, or a {kind.__name__}.")
