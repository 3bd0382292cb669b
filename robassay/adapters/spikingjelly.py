"""SpikingJelly: neurons keep their potential between calls, and fire at the threshold.

``functional.reset_net`` remembers which modules a network had when it was first called, so modules are asked here.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor, nn

from robassay.adapters.framework import Constants, Framework, Layout, Neuron, Shown, number, shown, stepped
from robassay.errors import UsageError
from robassay.rules import BackwardRule


@final
class SpikingJelly(Framework):
    """Semantics measured with SpikingJelly 2.0: fires at or above the threshold; an input decays by default, too."""

    name = package = "spikingjelly"

    def neurons(self, module: nn.Module) -> dict[str, nn.Module]:
        return {
            n: m for n, m in module.named_modules() if isinstance(getattr(m, "surrogate_function", None), nn.Module)
        }

    def reset(self, module: nn.Module) -> None:
        for part in module.modules():
            forget = getattr(part, "reset", None)
            if callable(forget):
                forget()

    def layout(self, module: nn.Module) -> Layout | None:
        modes = {name: m.step_mode for name, m in _outside_containers(module) if hasattr(m, "step_mode")}
        single, multi = ([n for n, mode in modes.items() if mode == wanted] for wanted in "sm")
        if single and multi:
            raise UsageError(
                f"step modes are mixed: '{single[0]}' takes one step, '{multi[0]}' takes a sequence. Write "
                "functional.set_step_mode(net, 's') or 'm' before adapt()."
            )
        return "time-first" if multi else "step" if single else None

    def call(self, module: nn.Module, x: Tensor, state: Any) -> Shown:
        output = shown(module(x))
        return Shown(output, self._membrane(module, output), None)

    def _membrane(self, module: nn.Module, output: Tensor) -> Tensor | None:
        """The last layer's potential after its reset, where it is kept in the output's shape."""
        last = next(reversed([m for m in module.modules() if hasattr(m, "v")]), None)
        kept = getattr(last, "v_seq", None)
        if not isinstance(kept, Tensor) or kept.shape != output.shape:
            kept = getattr(last, "v", None)
        return kept if isinstance(kept, Tensor) and kept.shape == output.shape else None

    def described(self, name: str, neuron: nn.Module) -> Neuron:
        held: Any = neuron
        tau = getattr(held, "tau", None)
        leak = "1" if tau is None else number(1 - 1 / tau) + ", input too" * bool(getattr(held, "decay_input", False))
        v_reset = getattr(held, "v_reset", None)
        reset = "by subtraction" if v_reset is None else f"to {v_reset:g}"
        surrogate = repr(held.surrogate_function).split("(")[0]
        alpha = getattr(held.surrogate_function, "alpha", None)
        surrogate += "" if alpha is None else f"({alpha:g})"
        threshold = number(getattr(held, "v_threshold", 1.0))
        return Neuron(name, type(neuron).__name__, leak, threshold, reset, "at or above", surrogate)

    @contextmanager
    def pointwise(self, module: nn.Module, rule: BackwardRule, called: set[str]) -> Iterator[None]:
        layers: dict[str, Any] = dict(self.neurons(module))
        held = {name: (neuron, neuron.surrogate_function) for name, neuron in layers.items()}
        for name, (neuron, own) in held.items():
            neuron.surrogate_function = _Substitute(name, neuron, rule, called, own)
        try:
            yield
        finally:
            for neuron, own in held.values():
                neuron.surrogate_function = own

    def constants(self, neuron: nn.Module) -> Constants:
        held: Any = neuron
        share = 1 / getattr(held, "tau", math.inf)
        decays = share > 0 and getattr(held, "decay_input", False)
        return Constants(getattr(held, "v_threshold", 1.0), share if decays else 1.0, 1 - share)

    def form(self, neuron: nn.Module, activity: Tensor, current: Tensor) -> Any:
        return activity


class _Substitute(nn.Module):
    """A surrogate function of another backward pass. A module: SpikingJelly's attribute takes nothing else."""

    def __init__(self, name: str, neuron: nn.Module, rule: BackwardRule, called: set[str], own: nn.Module) -> None:
        super().__init__()
        # Not as submodules: the neuron would contain itself.
        self.__dict__["held"] = name, neuron, rule, called
        self.spiking = getattr(own, "spiking", True)

    def forward(self, x: Tensor) -> Tensor:
        name, neuron, rule, called = self.__dict__["held"]
        called.add(name)
        return stepped(x, getattr(neuron, "v_threshold", 1.0), rule, at=True)


def _outside_containers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Modules by name, without those inside a container that changes the layout for them."""
    container = importlib.import_module("spikingjelly.activation_based.layer.container")
    changing = tuple(c for n, c in vars(container).items() if n.endswith("Container") and isinstance(c, type))
    yield prefix.rstrip("."), module
    if isinstance(module, changing):
        return
    for name, child in module.named_children():
        yield from _outside_containers(child, f"{prefix}{name}.")
