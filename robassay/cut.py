"""Where a user's module can be cut: everything before one submodule's output is computed once, the rest per draw.

Nothing is traced or compiled. The part after the cut is the module's own ``forward``, in which the calls before the cut
answer with zeros and the cut itself with the features, so that operations outside submodules stay where they are. A cut
counts only when it gives the logits and the gradient of the whole module; see :func:`find_cut`.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robassay.errors import RobassayError, UsageError
from robassay.outputs import logits_of
from robassay.rng import Stream

PASSES = 4
"""Passes whose outputs are compared: a random submodule gives the same in all of them only if it hardly ever acts."""
TRIED = 12
"""Cuts that are checked, the latest first: every skip connection around a submodule is one that fails."""
TOLERANCE = 1e-5
"""Of the largest value: the same operations on the same numbers, up to how a kernel meets its memory."""


class _Stop(BaseException):
    """Leaves a forward whose rest is not needed; no Exception, so that no forward can swallow it."""


class Call(NamedTuple):
    """One call of a submodule in a pass."""

    name: str
    around: tuple[int, ...]
    """The calls it happened in, outermost first, by their place in order of entry; itself last."""
    shape: tuple[int, ...] | None
    """Of its output (B, …); None where that is no float tensor with a row per image."""
    dtype: torch.dtype
    digest: str


class Cut(NamedTuple):
    """A place in a module's forward: the output of one call of one submodule."""

    name: str
    before: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
    """Calls that answer with zeros after the cut: submodule, shape of the output without the batch axis, type."""
    image: tuple[int, ...]
    """Shape of one image."""
    thin: bool
    """One row of zeros stands for all: what lies between the calls before the cut then costs next to nothing."""

    def features(self, module: nn.Module, x: Tensor) -> Tensor:
        """The output at the cut for images ``x`` (B, C, H, W) in the module's precision: (B, …).

        Raises:
            RobassayError: the forward took another way than when the cut was found.
        """
        at, within = 0, False

        def watching(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                nonlocal at, within
                if within:
                    return plain(*args, **kwargs)
                if name != self._order[at]:
                    raise self._lost()
                within = True
                try:
                    output = plain(*args, **kwargs)
                finally:
                    within = False
                at += 1
                if at == len(self._order):
                    raise _Stop(output)
                return output

            return forward

        with _replaced({m: watching(n, m.forward) for n, m in self._called(module).items()}):
            try:
                module(x)
            except _Stop as stop:
                features: Tensor = stop.args[0]
                return features
        raise self._lost()

    @property
    def _order(self) -> list[str]:
        """What is called up to the cut, leaving out what is called by that."""
        return [*(name for name, _, _ in self.before), self.name]

    def _called(self, module: nn.Module) -> dict[str, nn.Module]:
        return {name: module.get_submodule(name) for name in self._order}

    def rest(self, module: nn.Module, h: Tensor, dtype: torch.dtype) -> Any:
        """What the module returns from features ``h`` (B, …) on; ``dtype`` is that of its images.

        Raises:
            RobassayError: as :meth:`features`.
        """
        names, at, rows = self._order, 0, 1 if self.thin else len(h)

        def standing(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                nonlocal at
                if at == len(names):
                    return plain(*args, **kwargs)
                if names[at] != name:
                    raise self._lost()
                at += 1
                if at == len(names):
                    return h.clone()  # an operation in place must not reach the features of the next draw
                _, shape, kind = self.before[at - 1]
                return torch.zeros(rows, *shape, dtype=kind, device=h.device)

            return forward

        with _replaced({m: standing(n, m.forward) for n, m in self._called(module).items()}):
            output = module(torch.zeros(rows, *self.image, dtype=dtype, device=h.device))
        if at != len(names):
            raise self._lost()
        return output

    def _lost(self) -> RobassayError:
        return RobassayError(
            f"the model's forward calls other submodules for these images than for the first ones, so that it cannot "
            f"be cut at '{self.name}'. Write --split none (in Python split='none')."
        )


@contextmanager
def _replaced(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Every module's forward is the given one inside."""
    had = {m: vars(m)["forward"] for m in forwards if "forward" in vars(m)}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module in forwards:
            if module in had:
                vars(module)["forward"] = had[module]
            else:
                vars(module).pop("forward", None)


def trace(module: nn.Module, x: Tensor) -> list[Call]:
    """The calls of submodules in one pass over ``x`` (B, C, H, W), in the order in which they end."""
    calls: list[Call] = []
    within: list[int] = []
    entered = 0

    def watching(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal entered
            within.append(entered)
            entered += 1
            try:
                output = plain(*args, **kwargs)
                calls.append(_call(name, tuple(within), output, len(x)))
            finally:
                within.pop()
            return output

        return forward

    with torch.no_grad(), _replaced({m: watching(n, m.forward) for n, m in module.named_modules() if n}):
        module(x.clone())  # which the forward may write to
    return calls


def _call(name: str, around: tuple[int, ...], output: Any, batch: int) -> Call:
    if not isinstance(output, Tensor):
        return Call(name, around, None, torch.float32, "")
    fits = output.is_floating_point() and output.dim() > 1 and len(output) == batch
    raw = output.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if fits else b""
    shape = tuple(output.shape) if fits else None
    return Call(name, around, shape, output.dtype, hashlib.blake2b(raw, digest_size=12).hexdigest())


def settled(module: nn.Module, x: Tensor, rng: Stream) -> tuple[list[Call], int]:
    """The calls of one pass, and how many of them, from the first on, answer the same in several passes."""
    passes = []
    for i in range(PASSES):
        with rng.child(i).active():
            passes.append(trace(module, x))
    same = 0
    for calls in zip(*passes, strict=False):
        if len(set(calls)) > 1:
            break
        same += 1
    return passes[0], same


class Place(NamedTuple):
    """Where a module may be cut."""

    calls: int = 0
    """After so many calls of submodules, in the order in which they end; 0: nowhere."""
    thin: bool = False
    """See :class:`Cut`."""


def find_cut(module: nn.Module, x: Tensor, rng: Stream) -> Place:
    """The last place before the noise where a module can be cut.

    Calls are looked at from the latest one that answers the same in all passes. A cut has to skip weights, to give
    the logits of the whole module under equal seeds, for images it was not found on, too, and its gradient.

    Args:
        module: a random module in eval mode that equal seeds reproduce.
        x: images (B, C, H, W), in its precision.
        rng: randomness of the passes.
    """
    calls, same = settled(module, x[:2], rng.child("settled"))
    tried = 0
    for count in range(same, 0, -1):
        made = cut_at(calls, Place(count), tuple(x.shape[1:]))
        if isinstance(made, str) or not _saves(module, made):
            continue
        place = _checked(module, made, count, x, rng)
        if isinstance(place, Place):
            return place
        tried += 1
        if tried == TRIED:
            break
    return Place()


def _checked(module: nn.Module, cut: Cut, count: int, x: Tensor, rng: Stream) -> Place | str:
    """The place of a cut that is right, thin where that is right, too; or what is wrong with it."""
    for thin in (True, False):
        fault = unlike(module, cut._replace(thin=thin), x, rng.child("check"))
        if fault is None:
            return Place(count, thin)
    return fault or ""


def named_cut(module: nn.Module, name: str, x: Tensor, rng: Stream) -> Place:
    """As :func:`find_cut`, at the only call of the submodule ``name``, checked in the same way.

    Raises:
        UsageError: there is no such submodule, noise comes before its end, or not everything passes through it.
    """
    wrong = f"the module cannot be cut at split='{name}': "
    known = [n for n, _ in module.named_modules() if n]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:8]
        raise UsageError(f"{wrong}it has no submodule of that name. Write one of {', '.join(near)}, or 'none'.")
    calls, same = settled(module, x[:2], rng.child("settled"))
    places = [i for i, call in enumerate(calls) if call.name == name]
    if len(places) != 1:
        raise UsageError(f"{wrong}its forward calls it {len(places)} times. Name a submodule that is called once.")
    if places[0] >= same:
        first = f"'{calls[same].name}'" if same < len(calls) else "it"
        raise UsageError(
            f"{wrong}passes over equal images differ there: the noise is in or before {first}. Name a submodule whose "
            "output is the same in every pass."
        )
    made = cut_at(calls, Place(places[0] + 1), tuple(x.shape[1:]))
    found = made if isinstance(made, str) else _checked(module, made, places[0] + 1, x, rng)
    if isinstance(found, str):
        raise UsageError(f"{wrong}{found}. Name another submodule, or leave split out.")
    return found


def cut_at(calls: list[Call], place: Place, image: tuple[int, ...]) -> Cut | str:
    """The cut at a place in a pass with these ``calls``, or why there can be none."""
    last = calls[place.calls - 1]
    parents = {call.around[-1]: call for call in calls}
    outer = set(last.around[:-1])
    # What ends before the cut inside another call that does is not run at all; what is around the cut is run.
    before = [c for c in calls[: place.calls - 1] if last.around[-1] not in c.around and set(c.around[:-1]) <= outer]
    before.sort(key=lambda call: call.around[-1])
    for call in (*before, last):
        if call.shape is None:
            return f"'{call.name}' returns something other than a float tensor with one row per image"
    if {parents[i].name for i in outer} & {call.name for call in (*before, last)}:
        return "a submodule is called within itself"
    shapes = tuple((call.name, (call.shape or ())[1:], call.dtype) for call in before)
    return Cut(last.name, shapes, image, place.thin)


def _saves(module: nn.Module, cut: Cut) -> bool:
    names = {cut.name, *(name for name, _, _ in cut.before)}
    return any(True for name in names for _ in module.get_submodule(name).parameters())


def unlike(module: nn.Module, cut: Cut, x: Tensor, rng: Stream) -> str | None:
    """How a cut module differs from the whole one; None where logits and gradients agree.

    Both see the images ``x`` (B, C, H, W), other ones and a single one, under equal seeds; the features come from a
    pass under another seed.
    """
    other = torch.rand(x.shape, generator=rng.generator(), dtype=torch.float32).to(x)
    batches = (x, x, other, torch.cat([torch.zeros_like(x[:1]), torch.ones_like(x[:1]), x[:1]]), x[:2], other[:5])
    for i, batch in enumerate(batches):
        try:
            whole, cutted = (_passed(module, c, batch, rng.child(i)) for c in (None, cut))
        except Exception as error:
            return f"its forward cannot be entered there ({type(error).__name__}: {_line(error)})"
        if not _alike(whole[0], cutted[0]):
            return "not everything passes through it, or random numbers are drawn before it: the logits differ"
        if not _alike(whole[1], cutted[1]):
            return "the gradient differs"
    return None


def _passed(module: nn.Module, cut: Cut | None, x: Tensor, rng: Stream) -> tuple[Tensor, Tensor]:
    """Logits and their (weighted) gradient, zero where there is none, of a pass over ``x``."""
    with torch.enable_grad():
        image = x.detach().clone().requires_grad_()
        try:
            logits = _once(module, cut, image, rng)
            weights = torch.linspace(1, 2, logits.numel(), device=logits.device).view_as(logits)
            (gradient,) = torch.autograd.grad((logits.float() * weights).sum(), image)
        except RuntimeError:  # what blocks the gradient may raise when it is asked for one
            with torch.no_grad():
                logits, gradient = _once(module, cut, x, rng), torch.zeros_like(x)
    return logits.detach(), gradient


def _once(module: nn.Module, cut: Cut | None, x: Tensor, rng: Stream) -> Tensor:
    if cut is None:
        with rng.child("draw").active():
            return logits_of(module(x.clone()))
    with rng.child("features").active():
        features = cut.features(module, x.clone())
    with rng.child("draw").active():
        return logits_of(cut.rest(module, features, x.dtype))


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    limit = TOLERANCE * max(float(a.abs().max()), 1e-30)
    return bool(((a - b).abs() <= limit).all())


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else ""
