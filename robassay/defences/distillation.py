"""Defensive distillation: a network learns what another one, of the same net, says at a high temperature."""

from __future__ import annotations

from typing import ClassVar

from robassay.errors import UsageError
from robassay.registry import part


@part(name="distillation", source="Papernot et al. 2016; settings of Ge et al. 2020")
class Distillation:
    """A student learns what a teacher of the same net says at a high temperature (defensive distillation).

    :func:`robassay.defended.distil` makes the student with its two forerunners. A first training of few epochs gives
    the weights that the other two begin with. The teacher learns the labels, the student what the teacher says of the
    unchanged images with its noise off; both with logits divided by the temperature, and cross-entropy without a factor
    of the temperature's square.

    The student is deployed at temperature 1: its logits are about ``temperature`` times as large as those of another
    network, and an attack's confidence must be read on logits / temperature. Its gradients may underflow to 0, which
    is no robustness.

    Args:
        temperature: divides the logits of teacher and student while they learn.
        first: epochs of the first training, at temperature 1, on clean images.
    """

    kind: ClassVar[str] = "defences"
    temperature: float = 100.0
    first: int = 1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"temperature={self.temperature} must be positive. Write temperature=100.0.")
        if self.first < 1:
            raise UsageError(f"first={self.first} is no number of epochs. Write first=1.")
