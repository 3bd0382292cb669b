"""What an adapter knows of a framework: its neurons, how they are reset, how their surrogate is exchanged."""

from __future__ import annotations

import abc
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from robassay.analogue import Activation
from robassay.errors import UsageError
from robassay.nets.ops import spike
from robassay.rules import BackwardRule

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
    def ruled(self, module: nn.Module, rule: BackwardRule, called: set[str]) -> Any:
        """A context in which every layer's spike is differentiated by ``rule``; ``called`` collects who has fired."""

    @abc.abstractmethod
    def stood_in(self, neuron: nn.Module, act: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        """A ``forward`` for ``neuron`` that returns ``act`` of its current in the neuron's own form."""

    @contextmanager
    def analogue(self, module: nn.Module, activation: Activation, output: str | None) -> Iterator[None]:
        """A context in which ``activation`` replaces every layer, and the layer ``output`` shows its plain current."""
        layers = self.neurons(module)
        for name, neuron in layers.items():
            act: Callable[[Tensor], Tensor] = _plain if name == output else activation
            neuron.__dict__["forward"] = self.stood_in(neuron, act)
        try:
            yield
        finally:
            for neuron in layers.values():
                neuron.__dict__.pop("forward", None)


def _plain(current: Tensor) -> Tensor:
    return current


def stepped(x: Tensor, threshold: Tensor | float, rule: BackwardRule, at: bool) -> Tensor:
    """1 where ``x`` = potential − threshold is positive, or 0 with ``at``; differentiated by ``rule`` at x/threshold."""
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
            f"framework='{name}' cannot be imported ({error}). Install it where robassay is installed: pip install {name}"
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
