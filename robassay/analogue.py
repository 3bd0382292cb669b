"""The analogue twin of a spiking network: the same weights, each neuron replaced by an activation, the encoder by its
mean. Which activation stands in is a matter of the pass, as the backward rule is.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

from torch import Tensor

from robassay.errors import UsageError
from robassay.registry import part


class Activation(abc.ABC):
    """What stands in for a spiking neuron: a function of its input current in units of the threshold."""

    kind: ClassVar[str] = "activations"

    @abc.abstractmethod
    def __call__(self, current: Tensor) -> Tensor:
        """Activity, any shape. The rate of an integrate-and-fire neuron would be clip(current, 0, 1)."""


@part(name="relu", source="Sharmin et al. 2019, Algorithm 2")
class ReLU(Activation):
    """max(0, current)."""

    def __call__(self, current: Tensor) -> Tensor:
        return current.relu()


@part(source="Bu et al. 2022, eq. 12")
class ClipFloor(Activation):
    """clip(⌊levels · current + ½⌋ / levels, 0, 1), differentiated as the clip alone.

    Args:
        levels: steps between 0 and 1; the time steps of the network that is converted.
    """

    levels: int = 8

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise UsageError(f"levels={self.levels}: an activation needs one step at least. Write ClipFloor(8).")

    def __call__(self, current: Tensor) -> Tensor:
        clipped = current.clamp(0, 1)
        stepped = ((self.levels * current + 0.5).floor() / self.levels).clamp(0, 1)
        return clipped + (stepped - clipped).detach()


_standing: ContextVar[Activation | None] = ContextVar("robassay_analogue", default=None)


def stand_in() -> Activation | None:
    """What stands in for spiking neurons in this forward pass; None when they spike."""
    return _standing.get()


@contextmanager
def standing_in(activation: Activation | None) -> Iterator[None]:
    """Every forward pass inside is that of the analogue twin; with None, of the network itself."""
    token = _standing.set(activation)
    try:
        yield
    finally:
        _standing.reset(token)
