"""Norse: states are passed, so a call without one begins afresh; spikes come from a function that its layers share.

Norse 1.1.0 ignores ``alpha`` of the method "super": its backward pass is 1/(1 + |u|)² for every value. The function is
exchanged for ours, so that a rule means what it says.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from robassay.adapters.framework import Constants, Framework, Layout, Neuron, Shown, number, shown, stepped
from robassay.errors import UsageError
from robassay.rules import BackwardRule

FUNCTIONS = "norse.torch.functional."


@final
class Norse(Framework):
    """Semantics measured with Norse 1.1: fires above the threshold; an input is scaled by the time constant."""

    name = package = "norse"

    def neurons(self, module: nn.Module) -> dict[str, nn.Module]:
        found = {
            n: m for n, m in module.named_modules() if callable(getattr(m, "activation", None)) and hasattr(m, "p")
        }
        return {name: m for name, m in found.items() if _threshold(m.p) is not None}

    def reset(self, module: nn.Module) -> None:
        """Nothing is kept."""

    def layout(self, module: nn.Module) -> Layout | None:
        stateful = [m for m in module.modules() if callable(getattr(m, "activation", None)) and hasattr(m, "p")]
        cells = {type(m).__name__ for m in stateful if _is_cell(m)}
        layers = {type(m).__name__ for m in stateful} - cells
        if cells and layers:
            raise UsageError(
                f"{min(cells)} takes one step, {min(layers)} takes a sequence. Use cells only ({min(layers)}Cell), or "
                "no cells."
            )
        return "time-first" if layers else "step" if cells else None

    def call(self, module: nn.Module, x: Tensor, state: Any) -> Shown:
        output = module(x) if state is None else module(x, state)
        following = output[1] if isinstance(output, tuple) and len(output) == 2 else None
        return Shown(shown(output), None, following)

    def described(self, name: str, neuron: nn.Module) -> Neuron:
        held: Any = neuron
        p = _own(held.p)
        tau = getattr(p, "tau_mem_inv", None)
        leak = "1" if tau is None else number(1 - held.dt * tau)
        leak += ", through a synaptic current" * hasattr(p, "tau_syn_inv")
        v_reset = getattr(p, "v_reset", None)
        how = getattr(getattr(p, "reset_method", None), "__name__", "reset_value")
        reset = "by subtraction" if how == "reset_subtract" else "to " + ("0" if v_reset is None else number(v_reset))
        method = f"{p.method}({number(p.alpha)})" if _alpha_acts(p.method) else f"{p.method} (its alpha is ignored)"
        return Neuron(name, type(neuron).__name__, leak, number(_threshold(held.p)), reset, "above", method)

    @contextmanager
    def pointwise(self, module: nn.Module, rule: BackwardRule, called: set[str]) -> Iterator[None]:
        firing: list[tuple[str, Any]] = []

        def fire(x: Tensor, method: str, alpha: Any) -> Tensor:
            name, level = firing[-1]
            called.add(name)
            return stepped(x, level, rule, at=False)

        layers = self.neurons(module)
        acting: dict[str, Any] = {name: neuron.activation for name, neuron in layers.items()}
        users = [m for n, m in sys.modules.items() if n.startswith(FUNCTIONS) and "threshold" in vars(m)]
        own = {m: vars(m)["threshold"] for m in users if callable(vars(m)["threshold"])}
        for name, neuron in layers.items():
            vars(neuron)["activation"] = _telling(acting[name], (name, _threshold(neuron.p)), firing)
        for functions in own:
            functions.threshold = fire  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for functions, function in own.items():
                functions.threshold = function  # type: ignore[attr-defined]
            for name, neuron in layers.items():
                vars(neuron)["activation"] = acting[name]

    def constants(self, neuron: nn.Module) -> Constants:
        held: Any = neuron
        tau = getattr(_own(held.p), "tau_mem_inv", None)
        gain = 1.0 if tau is None else held.dt * tau
        return Constants(_threshold(held.p), gain, 1.0 if tau is None else float(1 - torch.as_tensor(gain).mean()))

    def form(self, neuron: nn.Module, activity: Tensor, current: Tensor) -> Any:
        return activity, None


def _own(p: Any) -> Any:
    """The parameters that hold the method: those of a refractory neuron lie one level deeper."""
    return next((q for q in (getattr(p, n, None) for n in ("lif", "lif_adex")) if q is not None), p)


def _threshold(p: Any) -> Any:
    own = _own(p)
    return next((getattr(own, n) for n in ("v_th", "v_thresh") if hasattr(own, n)), None)


@functools.cache
def _alpha_acts(method: str) -> bool:
    """Whether the installed version's backward pass of a method depends on its alpha."""
    try:
        function = importlib.import_module(FUNCTIONS + "threshold").threshold
        slopes: list[Tensor] = []
        for alpha in (1.0, 100.0):
            with torch.enable_grad():
                u = torch.tensor(0.25, requires_grad=True)
                slopes += torch.autograd.grad(function(u, method, alpha), u)
    except (ValueError, RuntimeError):
        return False
    return bool(slopes[0] != slopes[1])


def _is_cell(module: nn.Module) -> bool:
    return any(c.__name__ in ("SNNCell", "SNNRecurrentCell") for c in type(module).__mro__)


def _telling(function: Callable[..., Any], who: tuple[str, Any], firing: list[tuple[str, Any]]) -> Callable[..., Any]:
    """``function``, which leaves word of whose spikes are being computed."""

    def told(*arguments: Any) -> Any:
        firing.append(who)
        try:
            return function(*arguments)
        finally:
            firing.pop()

    return told
