"""When a minimum-distance attack takes an image for successful: an explicit choice on random classifiers.

One stochastic evaluation that happens to be wrong selects flukes: the closest of a thousand iterates is then the
luckiest, not the best. On a deterministic classifier all rules agree.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

from torch import Tensor

from robassay.errors import UsageError
from robassay.threat import Goal


class Acceptance(abc.ABC):
    """A rule over the draws of one model; with several models each of them must accept.

    Attributes:
        fresh: draws to take for the decision alone; 0 judges by the draws that the gradient came from.
    """

    fresh: int

    @abc.abstractmethod
    def accepts(self, goal: Goal, logits: Tensor) -> Tensor:
        """Whether each image is successful: logits (n, B, C) → bool (B,)."""

    @abc.abstractmethod
    def votes(self) -> tuple[int, int]:
        """(k, n) for an attack that sees decisions only: k of n must reach the goal.

        Raises:
            UsageError: the rule needs logits.
        """


@dataclass(frozen=True)
class Single(Acceptance):
    """As published: the one evaluation that the gradient came from, its mean logits when it had several draws."""

    fresh = 0

    def accepts(self, goal: Goal, logits: Tensor) -> Tensor:
        return confident(goal, logits.mean(0))

    def votes(self) -> tuple[int, int]:
        return 1, 1


@dataclass(frozen=True)
class KOfN(Acceptance):
    """At least ``k`` of ``n`` fresh draws reach the goal, each with the goal's confidence.

    Raises:
        UsageError: k is not in 1 … n.
    """

    k: int = 8
    n: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise UsageError(f"KOfN(k={self.k}, n={self.n}) can never be met or always is. Write KOfN(k=8, n=10).")

    @property
    def fresh(self) -> int:  # type: ignore[override]
        return self.n

    def accepts(self, goal: Goal, logits: Tensor) -> Tensor:
        # A deterministic classifier answers once, whatever was asked.
        return confident(goal, logits).sum(0) >= min(self.k, len(logits))

    def votes(self) -> tuple[int, int]:
        return self.k, self.n


@dataclass(frozen=True)
class MeanOfDraws(Acceptance):
    """The mean logits of ``n`` fresh draws reach the goal with its confidence.

    Raises:
        UsageError: n < 1.
    """

    n: int = 10

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"MeanOfDraws(n={self.n}): a mean needs at least one draw. Write MeanOfDraws(10).")

    @property
    def fresh(self) -> int:  # type: ignore[override]
        return self.n

    def accepts(self, goal: Goal, logits: Tensor) -> Tensor:
        return confident(goal, logits.mean(0))

    def votes(self) -> tuple[int, int]:
        raise UsageError(f"{self} averages logits, but this attack sees decisions only. Write KOfN(8, 10).")


def confident(goal: Goal, logits: Tensor) -> Tensor:
    """Whether the arg-max reaches the goal and the margin its kappa: logits (…, B, C) → bool (…, B)."""
    return goal.reached(logits.argmax(-1)) & (goal.margin(logits) >= goal.kappa)
