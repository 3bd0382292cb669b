"""snnTorch: neurons keep their potential between calls, whether or not a caller passes one.

``snntorch.utils.reset`` looks at direct children only and resets every neuron of the process, so neurons are reset
one by one here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from robassay.adapters.framework import Constants, Framework, Layout, Neuron, Shown, number, shown, stepped, tensors
from robassay.errors import UsageError
from robassay.rules import BackwardRule


@final
class SnnTorch(Framework):
    """Semantics measured with snnTorch 1.0: fires above the threshold; by default the reset comes one step late."""

    name = package = "snntorch"

    def neurons(self, module: nn.Module) -> dict[str, nn.Module]:
        # Parallel layers are no SpikingNeuron, but fire through the same attribute.
        mine = {n: m for n, m in module.named_modules() if type(m).__module__.startswith("snntorch") or _derived(m)}
        return {n: m for n, m in mine.items() if hasattr(m, "spike_grad")}

    def reset(self, module: nn.Module) -> None:
        for neuron in module.modules():
            forget = getattr(neuron, "reset_mem", None)
            if callable(forget):
                forget()

    def layout(self, module: nn.Module) -> Layout | None:
        parallel = [hasattr(m, "rnn") for m in self.neurons(module).values()]
        if any(parallel) and not all(parallel):
            raise UsageError(
                "the network mixes layers that take one step with parallel ones that take a sequence. Run the former "
                "in a loop of the network's own, return logits, and write steps=None."
            )
        return "time-first" if any(parallel) else "step"

    def call(self, module: nn.Module, x: Tensor, state: Any) -> Shown:
        output = module(x)
        found = tensors(output)
        # (spikes, …, membrane): every neuron class returns its potential last.
        return Shown(shown(output), found[-1] if len(found) > 1 else None, None)

    def described(self, name: str, neuron: nn.Module) -> Neuron:
        held: Any = neuron
        kind = getattr(held, "_reset_mechanism", "none")
        late = bool(getattr(held, "reset_delay", True)) and kind != "none"
        surrogate = getattr(held.spike_grad, "__qualname__", type(held.spike_grad).__name__).split(".")[0]
        leak = next((number(getattr(held, n)) for n in ("beta", "alpha") if hasattr(held, n)), "none")
        reset = {"subtract": "by subtraction", "zero": "to zero"}.get(kind, "none") + ", one step late" * late
        return Neuron(name, type(neuron).__name__, leak, number(held.threshold), reset, "above", surrogate)

    @contextmanager
    def pointwise(self, module: nn.Module, rule: BackwardRule, called: set[str]) -> Iterator[None]:
        held = {name: (neuron, neuron.__dict__["spike_grad"]) for name, neuron in self._patchable(module).items()}
        for name, (neuron, _) in held.items():
            neuron.__dict__["spike_grad"] = _substitute(name, neuron, rule, called)
        try:
            yield
        finally:
            for neuron, own in held.values():
                neuron.__dict__["spike_grad"] = own

    def _patchable(self, module: nn.Module) -> dict[str, nn.Module]:
        return {name: neuron for name, neuron in self.neurons(module).items() if "spike_grad" in neuron.__dict__}

    def constants(self, neuron: nn.Module) -> Constants:
        held: Any = neuron
        return Constants(held.threshold.detach(), 1.0, float(getattr(held, "beta", torch.ones(())).mean()))

    def form(self, neuron: nn.Module, activity: Tensor, current: Tensor) -> Any:
        held: Any = neuron
        alone = getattr(held, "init_hidden", True) and not getattr(held, "output", False)
        activity = activity * getattr(held, "graded_spikes_factor", 1.0)
        return activity if alone or not hasattr(held, "reset_mem") else (activity, *[current for _ in _states(held)])


def _states(neuron: Any) -> tuple[Any, ...]:
    found = neuron.reset_mem()
    return found if isinstance(found, tuple) else (found,)


def _derived(module: nn.Module) -> bool:
    return any(c.__module__.startswith("snntorch") for c in type(module).__mro__)


def _substitute(name: str, neuron: Any, rule: BackwardRule, called: set[str]) -> Callable[[Tensor], Tensor]:
    def fire(x: Tensor) -> Tensor:
        called.add(name)
        return stepped(x, neuron.threshold, rule, at=False)

    return fire
