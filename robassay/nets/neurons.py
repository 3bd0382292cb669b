"""Leaky integrate-and-fire neurons: all steps in one node of the graph, with a replaceable backward pass.

Without delay: h = leak · v + current; a spike where h reaches the threshold; then the reset, soft v = h − threshold ·
spike or hard v = h · (1 − spike). With delay a step emits from the potential that earlier steps left behind:
a spike where h reaches the threshold, then h ← leak · h + current − threshold · spike (soft: the reset itself does not
leak) or h ← leak · h · (1 − spike) + current (hard). Source of the delay: Sharmin et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from robassay.analogue import stand_in
from robassay.errors import UsageError
from robassay.registry import part_name
from robassay.rules import Rule, SpikeTrain, WindowRule, in_force

Reset = Literal["soft", "hard"]

BLOCK = 2**17
"""Neurons that go through all steps before the next ones do. A constant, not a setting: smaller blocks spend their time
between the operations, larger ones outgrow the processor's cache."""


class Firing(NamedTuple):
    """What a layer of neurons did over some steps of a pass."""

    potentials: Callable[[], Tensor]
    """Gives the potentials (steps, B, …) that were held against the threshold, before any reset."""
    spikes: Tensor
    threshold: float
    begins: bool
    """Whether these are the first steps of the pass."""


_watcher: ContextVar[Callable[[Firing], None] | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(told: Callable[[Firing], None]) -> Iterator[None]:
    """A context in which every layer of neurons of this package tells what it did, in the order in which they act."""
    token = _watcher.set(told)
    try:
        yield
    finally:
        _watcher.reset(token)


class _Dynamics(NamedTuple):
    leak: float
    threshold: float
    reset: Reset
    delay: bool
    strict: bool
    attached: bool

    @property
    def drop(self) -> float:
        """What a soft reset subtracts before the leak; with delay the reset itself does not leak."""
        return self.threshold / self.leak if self.delay else self.threshold

    def fires(self, h: Tensor, out: Tensor) -> Tensor:
        """1 where potentials ``h`` reach the threshold, into ``out``."""
        return torch.gt(h, self.threshold, out=out) if self.strict else torch.ge(h, self.threshold, out=out)


class _Neurons(torch.autograd.Function):
    """Spikes (steps, N) and the state behind them (N,).

    Keeps its input and nothing else: the potentials are computed again on the way back, a block at a time, which costs
    less than writing them to memory and reading them.
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor, state: Tensor | None, how: _Dynamics, rule: Rule) -> tuple[Tensor, Tensor]:
        spikes = current.new_empty(current.shape)
        end = current.new_zeros(current.shape[1]) if state is None else state.clone()
        spare = current.new_empty(min(BLOCK, current.shape[1]))
        for cut in _blocks(current.shape[1]):
            h = spare[: len(end[cut])].expand(len(current), -1)
            _forward(current[:, cut], h, spikes[:, cut], end[cut], how)
        ctx.save_for_backward(current, state)
        ctx.set_materialize_grads(False)
        ctx.settings = how, rule
        return spikes, end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor | None, None, None]:
        current, state = ctx.saved_tensors
        how, rule = ctx.settings
        upon, end = grads
        found = current.new_empty(current.shape)
        begin = torch.zeros_like(found[0]) if end is None else end.clone()
        for cut in _blocks(current.shape[1]):
            v = torch.zeros_like(begin[cut]) if state is None else state[cut].clone()
            h, spikes = current.new_empty(len(current), len(v)), current.new_empty(len(current), len(v))
            _forward(current[:, cut], h, spikes, v, how)
            slope = _slope(current[:, cut], h, spikes, how, rule)
            _backward(h, spikes, slope, None if upon is None else upon[:, cut], found[:, cut], begin[cut], how, rule)
        return found, None if state is None else begin, None, None


def _blocks(neurons: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, neurons, BLOCK)]


def _forward(current: Tensor, potentials: Tensor, spikes: Tensor, v: Tensor, how: _Dynamics) -> None:
    """Fill ``potentials``, before the reset, and ``spikes``; ``v`` is the state before and, in place, after."""
    for arriving, h, fired in zip(current, potentials, spikes, strict=True):
        if how.delay:
            h.copy_(v)
        else:
            torch.add(arriving, v, alpha=how.leak, out=h)
        how.fires(h, fired)
        if how.reset == "soft":
            torch.sub(h, fired, alpha=how.drop, out=v)
        else:
            torch.addcmul(h, h, fired, value=-1, out=v)
        if how.delay:
            v.mul_(how.leak).add_(arriving)


@torch.no_grad()
def _potentials(current: Tensor, state: Tensor | None, how: _Dynamics) -> Tensor:
    """Potentials (steps, N) before the reset."""
    h, v = torch.empty_like(current), torch.zeros_like(current[0]) if state is None else state.clone()
    _forward(current, h, torch.empty_like(current), v, how)
    return h


def _slope(current: Tensor, potentials: Tensor, spikes: Tensor, how: _Dynamics, rule: Rule) -> Callable[[int], Tensor]:
    """Derivative (N,) of the spikes of a step by the rule; of all steps where one factor holds for all."""
    if isinstance(rule, WindowRule):
        factor = rule(SpikeTrain(spikes, current.mean(0) / how.threshold, how.leak)) / how.threshold
        return lambda t: factor
    if how.threshold == 1:
        return lambda t: rule(potentials[t] - 1)
    return lambda t: rule(potentials[t] / how.threshold - 1) / how.threshold


def _backward(
    potentials: Tensor,
    spikes: Tensor,
    slope: Callable[[int], Tensor],
    upon: Tensor | None,
    found: Tensor,
    carried: Tensor,
    how: _Dynamics,
    rule: Rule,
) -> None:
    """Fill ``found``, the gradient at the current; ``carried`` is that at the state after and, in place, before."""
    window = isinstance(rule, WindowRule)
    leak = 1.0 if window else how.leak
    forgets = isinstance(rule, WindowRule) and not rule.history
    for t in reversed(range(len(potentials))):
        if how.delay:
            found[t] = carried
            carried.mul_(leak)
        direct = torch.zeros_like(carried) if upon is None else upon[t]
        if how.attached and not window:
            direct = direct - carried * (how.drop if how.reset == "soft" else potentials[t])
        if forgets:
            carried.zero_()
        elif how.reset == "hard":
            carried.addcmul_(carried, spikes[t], value=-1)
        if how.delay:
            carried.addcmul_(slope(t), direct)
        else:
            at = torch.addcmul(carried, slope(t), direct, out=found[t])
            torch.mul(at, leak, out=carried)


def neurons(
    current: Tensor,
    leak: float,
    threshold: float,
    reset: Reset,
    rule: Rule,
    *,
    delay: bool = False,
    strict: bool = False,
    attached: bool = False,
) -> Tensor:
    """Spikes of leaky integrate-and-fire neurons, both (steps, …); leak = 1 integrates without loss.

    Backward: through time, with the rule in force (by default ``rule``) at h/threshold − 1 for the step. The membrane
    is 0 before the first step. Source: Neftci et al. 2019.

    Args:
        current: input (steps, …), floating point.
        leak: factor on the membrane from step to step, in (0, 1].
        threshold: positive.
        reset: "soft" subtracts the threshold, "hard" sets the membrane to 0.
        rule: of single potentials or of whole spike trains.
        delay: emit from the potential before this step's current; the first step is silent.
        strict: fire above the threshold only, not at it.
        attached: differentiate the reset, too. A rule of whole spike trains holds it constant in any case.
    """
    return neurons_from(None, current, leak, threshold, reset, rule, delay=delay, strict=strict, attached=attached)[0]


def neurons_from(
    state: Tensor | None,
    current: Tensor,
    leak: float,
    threshold: float,
    reset: Reset,
    rule: Rule,
    *,
    delay: bool = False,
    strict: bool = False,
    attached: bool = False,
) -> tuple[Tensor, Tensor]:
    """As :func:`neurons`, from the state that earlier steps left: spikes (steps, …) and the new state (…).

    Raises:
        UsageError: the rule in force is one of whole spike trains, these steps are a part of one, and the gradient is
            wanted.
    """
    rule = in_force(rule)
    differentiated = torch.is_grad_enabled() and state is not None and (state.requires_grad or current.requires_grad)
    if differentiated and isinstance(rule, WindowRule):
        raise UsageError(
            f"The rule {part_name(type(rule))} needs all steps of a spike train at once, and these are its steps after "
            "the first part. Run all steps in one part, or take a rule of single potentials, such as Triangle(0.5)."
        )
    activation = stand_in()
    if activation is not None:  # the analogue twin has no membrane
        return activation(current / threshold), torch.zeros_like(current[0])
    how = _Dynamics(float(leak), float(threshold), reset, delay, strict, attached)
    flat = None if state is None else state.reshape(-1)
    spikes, end = _Neurons.apply(current.reshape(len(current), -1), flat, how, rule)
    if (told := _watcher.get()) is not None:
        held = lambda: _potentials(current.reshape(len(current), -1), flat, how).reshape(current.shape)
        told(Firing(held, spikes.reshape(current.shape), how.threshold, state is None))
    return spikes.reshape(current.shape), end.reshape(current.shape[1:])
