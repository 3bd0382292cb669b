"""What an adapted network is asked before it is audited: does it forget, does it keep rows apart, does a rule act?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robassay.adapters.adapted import Adapted
from robassay.adapters.readouts import FirstSpike, Membrane
from robassay.errors import UsageError
from robassay.rng import Stream
from robassay.rules import Exponential

Shape = tuple[int, int, int]
BATCH = 8
CLOSE = 1e-4
RNG = Stream(("adapt",))
SIDES = (8, 28, 32, 64, 96, 224)
FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)


def examine(net: Adapted, shape: Shape | None) -> None:
    """Find out what ``net`` is, and set its attributes.

    Raises:
        UsageError: it keeps state between passes, its axes are not what was said, or it cannot be run.
    """
    shape = _fitting(net, shape)
    x = images(BATCH, shape)
    _axes(net, x[:2])
    fired = _fired(net, x)
    with _held(net):
        logits = _pass(net, x)
    net.classes = logits.shape[-1]
    _forgets(net, x, logits)
    net.random = not torch.equal(_pass(net, x, quiet=True), _pass(net, x, "other", quiet=True))
    net.stochastic = net.random or net.encoder.stochastic
    net.rows = "shared" if net.random else "independent"
    net.coupled = not net.random and _coupled(net, shape)
    net.unruled = tuple(sorted(_unruled(net, x, fired, logits)))


def images(count: int, shape: Shape, key: str = "images") -> Tensor:
    """Random images (count, C, H, W) in [0,1]."""
    return torch.rand(count, *shape, generator=RNG.child(key).generator())


@torch.no_grad()
def _pass(net: Adapted, x: Tensor, key: str = "pass", quiet: bool = False) -> Tensor:
    with RNG.child(key).active():
        return net.plain(x, quiet)


@contextmanager
def _held(net: Adapted) -> Iterator[None]:
    """A pass whose failure is explained."""
    try:
        yield
    except FAILURES as error:
        raise UsageError(
            f"the network cannot be run as {net.framework.name} for {net.steps} steps, layout '{net.layout}': "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. {HOW}"
        ) from error


HOW = (
    "Write layout='step' for a network that takes one step (B, …), 'time-first' or 'batch-first' for one that takes a "
    "sequence, steps=None for one that takes images and runs time itself, and shape=(C, H, W) for its image size."
)


def _fitting(net: Adapted, shape: Shape | None) -> Shape:
    """The shape that was given, or the first that the network can take."""
    if shape is not None:
        return shape
    for tried in _candidates(net.module):
        try:
            _pass(net, images(2, tried))
        except FAILURES:
            continue
        return tried
    with _held(net):
        _pass(net, images(2, next(iter(_candidates(net.module)))))
    raise UsageError(f"no image size was found that the network can take. {HOW}")


def _candidates(module: nn.Module) -> list[Shape]:
    first: Any = next((m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), None)
    if isinstance(first, nn.Linear):
        found = [(c, s, s) for c in (1, 3) for s in SIDES if c * s * s == first.in_features]
        return [*found, (1, 1, first.in_features)]
    channels = first.in_channels if first is not None else 1
    return [(channels, side, side) for side in SIDES]


def _axes(net: Adapted, x: Tensor) -> None:
    """Three steps of two images must give (3, 2, classes): a wrong axis would be averaged without a word."""
    short = net if net.steps is None else net.lasting(3)
    with _held(net), torch.no_grad(), RNG.child("axes").active():
        outputs, membrane = short.sequence(short.pixels(x), short.encoder)
    shape = tuple(outputs.shape)
    if net.steps is None and outputs.dim() == 2 and shape[0] == 2:
        _not_one_step(net, x)
        return
    if net.steps is None:
        good = outputs.dim() == 3 and shape[1] == 2
        _need(good, f"images give outputs of shape {shape}, expected (2, classes) or (steps, 2, classes). {HOW}")
    else:
        swapped = " They look batch first." if shape[:2] == (2, 3) else ""
        alone = " It runs time itself, it seems: write steps=None." if outputs.dim() == 4 else ""
        flat = " Begin the network with a Flatten layer." if outputs.dim() > 4 else ""
        good = outputs.dim() == 3 and shape[:2] == (3, 2)
        _need(good, f"3 steps of 2 images give {shape}, expected (3, 2, classes).{swapped}{alone}{flat} {HOW}")
    net.output = _output(short, x, outputs)
    fires = net.output is not None
    if isinstance(net.readout, FirstSpike):
        binary = bool(((outputs == 0) | (outputs == 1)).all())
        _need(binary, "readout FirstSpike needs output spikes, these are not 0 and 1. Write readout='membrane'.")
    if isinstance(net.readout, Membrane) and fires and membrane is None:
        raise UsageError(
            "readout Membrane: the last layer fires and does not show its potential. Return (spikes, potential) as "
            "snnTorch's output=True does, set store_v_seq=True on SpikingJelly's last neuron, or write readout='rate'."
        )


def _not_one_step(net: Adapted, x: Tensor) -> None:
    calls = _calls(net, x)
    single = net.framework.layout(net.module) in ("step", None)
    _need(
        not single or max(calls.values(), default=0) > 1,
        "each neuron saw one time step: the network is made for one step of many. Say how many: adapt(…, steps=8).",
    )


def _calls(net: Adapted, x: Tensor) -> dict[str, int]:
    """How often every layer of neurons was called in one pass."""
    count: dict[str, int] = {}

    def noted(name: str) -> Callable[..., None]:
        return lambda *_: count.update({name: count.get(name, 0) + 1})

    with _hooked(net, noted):
        _pass(net, x)
    return count


@contextmanager
def _hooked(net: Adapted, make: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
    handles = [m.register_forward_hook(make(n)) for n, m in net.framework.neurons(net.module).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fired(net: Adapted, x: Tensor) -> set[str]:
    """The layers of neurons that a pass uses."""
    with _held(net):
        return set(_calls(net, x))


def _output(net: Adapted, x: Tensor, outputs: Tensor) -> str | None:
    """The layer of neurons whose spikes are the network's outputs; None when the last layer does not fire."""
    seen: dict[str, list[Tensor]] = {}

    def noted(name: str) -> Callable[..., None]:
        return lambda m, given, out: seen.setdefault(name, []).append(out[0] if isinstance(out, tuple) else out)

    with torch.no_grad(), RNG.child("axes").active(), _hooked(net, noted):
        net.sequence(net.pixels(x), net.encoder)
    for name, found in seen.items():
        spikes = found[0] if len(found) == 1 and found[0].dim() == 3 else torch.stack(found)
        if net.layout == "batch-first":
            spikes = spikes.transpose(0, 1)
        if spikes.shape == outputs.shape and torch.equal(spikes, outputs):
            return name
    return None


def _forgets(net: Adapted, x: Tensor, first: Tensor) -> None:
    net.framework.reset(net.module)
    before = _states(net.module)
    again = _pass(net, x)
    net.framework.reset(net.module)
    _pass(net, x[:3])
    after = _pass(net, x)
    if torch.equal(first, again) and torch.equal(first, after):
        return
    own = set(net.framework.neurons(net.module))
    found = [
        n for n, v in _states(net.module).items() if not _same(v, before.get(n)) and n.rsplit(".", 1)[0] not in own
    ]
    where = f" What changed: {', '.join(sorted(found)[:4])}." if found else ""
    raise UsageError(
        f"two equal passes differ: the network keeps state that {net.framework.name} does not reset, or draws random "
        f"numbers of its own.{where} Set it to its initial value at the start of forward, or make it a state of a "
        "neuron of the framework."
    )


def _states(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a module holds and that is no parameter, by name."""
    found: dict[str, Tensor] = {}
    for name, part in module.named_modules():
        held = {**vars(part), **dict(part.named_buffers(recurse=False))}
        for key, value in held.items():
            if key.startswith("_"):
                continue
            for i, one in enumerate(value if isinstance(value, (list, tuple)) else [value]):
                if isinstance(one, Tensor) and not isinstance(one, nn.Parameter):
                    place = f"{name}.{key}" if name else key
                    found[f"{place}[{i}]" if isinstance(value, (list, tuple)) else place] = one.detach().clone()
                elif isinstance(one, (int, float)) and not isinstance(one, bool):
                    found[f"{name}.{key}" if name else key] = torch.tensor(float(one))
    return found


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one, other)


def _coupled(net: Adapted, shape: Shape) -> bool:
    """Whether rows influence each other. On two sets of images: a spike on the edge may flip with the batch's size."""
    return all(_rows_differ(net, images(BATCH, shape, key)) for key in ("first", "second"))


def _rows_differ(net: Adapted, x: Tensor) -> bool:
    whole = _pass(net, x, quiet=True)
    order = torch.arange(BATCH).flip(0)
    single = torch.cat([_pass(net, one, quiet=True) for one in x.split(1)])
    turned = _pass(net, x[order], quiet=True)[order]
    allowed = CLOSE * max(1.0, whole.abs().max().item())
    return max((single - whole).abs().max().item(), (turned - whole).abs().max().item()) > allowed


def _unruled(net: Adapted, x: Tensor, fired: set[str], logits: Tensor) -> set[str]:
    """The layers on which a rule has no effect; all when the forward pass is not the same to the bit."""
    called: set[str] = set()
    found = []
    for height in (1.0, 0.5):
        image = x.clone().requires_grad_()
        with torch.enable_grad(), RNG.child("pass").active():
            with net.framework.ruled(net.module, Exponential(0.0, height), called):
                ruled = net.plain(image)
            gradient = torch.autograd.grad(ruled.sum(), image, allow_unused=True)[0] if ruled.requires_grad else None
        if not torch.equal(ruled.detach(), logits):
            return fired
        found.append(torch.zeros_like(x) if gradient is None else gradient)
    if torch.equal(found[0], found[1]):
        return fired
    return fired - called


def _need(good: bool, fault: str) -> None:
    if not good:
        raise UsageError(fault)
