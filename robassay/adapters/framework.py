"""What an adapter knows of a framework: its neurons, how they are reset, how their surrogate is exchanged."""

from __future__ import annotations

import abc
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robassay.analogue import Activation
from robassay.errors import UsageError
from robassay.nets.ops import spike
from robassay.registry import part_name
from robassay.rules import BackwardRule, Rule, SpikeTrain, WindowRule

Layout = Literal["step", "time-first", "batch-first", "images"]
"""What a network takes in one call: one step (B, …), a sequence (T, B, …) or (B, T, …), or the images themselves."""


@dataclass(frozen=True)
class Neuron:
    """What a report says of one layer of neurons."""

    name: str
    type: str
    leak: str
    threshold: str
    reset: str
    fires: str
    """"at or above" or "above" the threshold."""
    surrogate: str

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.type}, leak {self.leak}, fires {self.fires} {self.threshold}, reset {self.reset}, "
            f"surrogate {self.surrogate}"
        )


class Constants(NamedTuple):
    """Numbers of one layer of neurons."""

    threshold: Any
    """A number, or a tensor that broadcasts over the neurons."""
    gain: Any
    """Factor on the input before it reaches the membrane."""
    leak: float
    """Mean factor on the membrane from step to step."""


class Shown(NamedTuple):
    """What one call of a network shows."""

    outputs: Tensor
    membrane: Tensor | None
    state: Any
    """To be passed to the next call; None where the framework keeps it itself, or has none."""


class Framework(abc.ABC):
    """One framework. Methods take the user's network; nothing of it is changed for longer than a ``with`` block."""

    name: ClassVar[str]
    package: ClassVar[str]

    @property
    def version(self) -> str:
        """As installed."""
        return importlib.metadata.version(self.package)

    @abc.abstractmethod
    def neurons(self, module: nn.Module) -> dict[str, nn.Module]:
        """The layers that fire, by name, in the order of ``named_modules``."""

    @abc.abstractmethod
    def reset(self, module: nn.Module) -> None:
        """Forget every state and graph."""

    @abc.abstractmethod
    def layout(self, module: nn.Module) -> Layout | None:
        """What the network takes in one call; None where its layers do not tell.

        Raises:
            UsageError: layers that disagree.
        """

    @abc.abstractmethod
    def call(self, module: nn.Module, x: Tensor, state: Any) -> Shown:
        """One call; ``state`` is what the previous one of this pass has shown."""

    @abc.abstractmethod
    def described(self, name: str, neuron: nn.Module) -> Neuron:
        """What a report says of a layer."""

    @abc.abstractmethod
    def constants(self, neuron: nn.Module) -> Constants:
        """A layer's numbers, for what replaces its backward pass."""

    @abc.abstractmethod
    def form(self, neuron: nn.Module, activity: Tensor, current: Tensor) -> Any:
        """``activity`` as the layer would return it, ``current`` in place of its potential."""

    @abc.abstractmethod
    def pointwise(self, module: nn.Module, rule: BackwardRule, called: set[str]) -> AbstractContextManager[None]:
        """As :meth:`ruled`, for a rule of single potentials."""

    def ruled(
        self, module: nn.Module, rule: Rule, called: set[str], potential: str | None = None
    ) -> AbstractContextManager[None]:
        """A context in which every layer's spike is differentiated by ``rule``.

        Args:
            called: collects the layers that have fired so.
            potential: the layer whose potential is read out; a rule of whole spike trains leaves it alone.

        Raises:
            UsageError: a rule that follows the membranes' history, which are the framework's own.
        """
        if not isinstance(rule, WindowRule):
            return self.pointwise(module, rule, called)
        if rule.history:
            raise UsageError(
                f"the rule {part_name(type(rule))} goes back through the membranes, which are {self.name}'s own here. "
                "Take BPTR(), RGA(), or a rule of single potentials such as Triangle(0.5)."
            )
        kept = {n: m for n, m in self.neurons(module).items() if n != potential}
        return _replaced({m: _windowed(self, n, m, rule, called) for n, m in kept.items()})

    def analogue(self, module: nn.Module, activation: Activation, output: str | None) -> AbstractContextManager[None]:
        """A context in which ``activation`` replaces every layer, and the layer ``output`` shows its plain current."""
        layers = self.neurons(module).items()
        return _replaced({m: _standing(self, m, _plain if n == output else activation) for n, m in layers})


Forward = Callable[..., Any]


@contextmanager
def _replaced(forwards: dict[nn.Module, Forward]) -> Iterator[None]:
    for neuron, forward in forwards.items():
        neuron.__dict__["forward"] = forward
    try:
        yield
    finally:
        for neuron in forwards:
            neuron.__dict__.pop("forward", None)


def _standing(frame: Framework, neuron: nn.Module, act: Callable[[Tensor], Tensor]) -> Forward:
    def forward(current: Tensor, *state: Any) -> Any:
        threshold, gain, _ = frame.constants(neuron)
        return frame.form(neuron, act(current * gain / threshold), current)

    return forward


def _plain(current: Tensor) -> Tensor:
    return current


def _windowed(frame: Framework, name: str, neuron: nn.Module, rule: WindowRule, called: set[str]) -> Forward:
    """The layer's own forward pass; on the way back one factor per neuron, from all of its steps in this pass."""
    seen: list[tuple[Tensor, Tensor]] = []

    def forward(current: Tensor, *state: Any) -> Any:
        called.add(name)
        with torch.no_grad():
            output = type(neuron).forward(neuron, current.detach(), *state)
        spikes = _Windowed.apply(current, shown(output), seen, rule, frame.constants(neuron), sequence(neuron))
        return (spikes, *output[1:]) if isinstance(output, tuple) else spikes

    return forward


def sequence(neuron: Any) -> bool:
    """Whether one call of a layer is a whole sequence."""
    own = type(neuron).__mro__
    return getattr(neuron, "step_mode", "s") == "m" or any(c.__name__ in ("SNN", "LeakyParallel") for c in own)


class _Windowed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        spikes: Tensor,
        seen: list[tuple[Tensor, Tensor]],
        rule: WindowRule,
        constants: Constants,
        sequence: bool,
    ) -> Tensor:
        seen.append((spikes, current) if sequence else (spikes.unsqueeze(0), current.unsqueeze(0)))
        ctx.held = seen, rule, constants
        return spikes.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        seen, rule, (threshold, gain, leak) = ctx.held
        spikes, currents = (torch.cat(each) for each in zip(*seen, strict=True))
        factor = rule(SpikeTrain(spikes, currents.mean(0) * gain / threshold, leak))
        return grads[0] * factor * gain / threshold, None, None, None, None, None


def stepped(x: Tensor, threshold: Tensor | float, rule: BackwardRule, at: bool) -> Tensor:
    """1 where ``x`` = potential − threshold is positive (``at``: or 0); differentiated by ``rule`` at x/threshold."""
    scale = threshold.detach().abs().clamp_min(1e-12) if isinstance(threshold, Tensor) else max(abs(threshold), 1e-12)
    fired = spike(x / scale, rule)
    return fired + (x == 0).to(fired.dtype) if at else fired


def number(value: Any) -> str:
    """A parameter in words: one number, or the range of many."""
    if not isinstance(value, Tensor):
        return f"{value:g}" if isinstance(value, (int, float)) else str(value)
    low, high = value.min().item(), value.max().item()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def named(name: str) -> Framework:
    """The framework called "snntorch", "spikingjelly" or "norse".

    Raises:
        UsageError: another name, or one that is not installed.
    """
    modules = {"snntorch": "SnnTorch", "spikingjelly": "SpikingJelly", "norse": "Norse"}
    if name not in modules:
        raise UsageError(f"framework={name!r} is not known. Write framework='snntorch', 'spikingjelly' or 'norse'.")
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"framework='{name}' cannot be imported ({error}). Install it beside robassay: pip install {name}"
        ) from error
    made: Framework = getattr(importlib.import_module(f"robassay.adapters.{name}"), modules[name])()
    return made


def found_in(module: nn.Module) -> str | None:
    """The framework whose neurons ``module`` contains, without importing any; None for none."""
    roots = [type(m).__mro__ for m in module.modules()]
    for name in ("snntorch", "spikingjelly", "norse"):
        if any(c.__module__.split(".")[0] == name for mro in roots for c in mro):
            return name
    return None


def tensors(output: Any) -> list[Tensor]:
    """The tensors in what a call returned, not those inside a state."""
    if isinstance(output, Tensor):
        return [output]
    return [o for o in output if isinstance(o, Tensor)] if isinstance(output, (tuple, list)) else []


def shown(output: Any) -> torch.Tensor:
    """The outputs in what a call returned.

    Raises:
        UsageError: there are none.
    """
    found = tensors(output)
    if not found:
        raise UsageError(f"the network returned a {type(output).__name__} without a tensor. Return its output spikes.")
    return found[0]
