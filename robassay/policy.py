"""How a defender turns the draws of a random classifier into one decision."""

from __future__ import annotations

import abc
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robassay.errors import UsageError
from robassay.registry import part
from robassay.threat import REJECT


class Policy(abc.ABC):
    """A decision procedure over ``draws`` stochastic passes."""

    kind: ClassVar[str] = "policies"
    draws: int

    @abc.abstractmethod
    def decide(self, logits: Tensor) -> Tensor:
        """logits (draws, B, C) → labels int64 (B,); :data:`~robassay.threat.REJECT` (−1) refuses."""


@part(source="Tan et al. 2020, 'single'")
class Once(Policy):
    """One stochastic pass (``draws`` is 1), arg-max; ties to the smaller label."""

    draws: int = 1

    def __post_init__(self) -> None:
        if self.draws != 1:
            raise UsageError(f"Once takes one draw, not {self.draws}. Write MeanOf({self.draws}) or VoteOf(…).")

    def decide(self, logits: Tensor) -> Tensor:
        return logits[0].argmax(-1)


@part(source="Ge et al. 2020 (probabilities, n = 10); Tan et al. 2020 (logits, n = 10)")
class MeanOf(Policy):
    """Average over ``draws`` passes, then arg-max.

    Args:
        draws: passes per decision, at least 1.
        of: what is averaged: the softmax "probs", or the "logits".
    """

    draws: int = 10
    of: Literal["probs", "logits"] = "probs"

    def __post_init__(self) -> None:
        _positive(self.draws)
        if self.of not in ("probs", "logits"):
            raise UsageError(f"of={self.of!r} is not known. Write of='probs' or of='logits'.")

    def decide(self, logits: Tensor) -> Tensor:
        values = logits.softmax(-1) if self.of == "probs" else logits
        return values.mean(0).argmax(-1)


@part(source="Ge et al. 2020, 'voting'")
class VoteOf(Policy):
    """Majority of the labels of ``draws`` passes; ties to the smaller label."""

    draws: int = 10

    def __post_init__(self) -> None:
        _positive(self.draws)

    def decide(self, logits: Tensor) -> Tensor:
        votes = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
        return votes.argmax(-1)  # argmax returns the first of equals, here the smaller label


@part(source="Hendrycks and Gimpel 2017")
class Rejecting(Policy):
    """Refuses an input whose largest softmax probability, in the mean over draws, is too small, else asks ``inner``.

    Args:
        inner: decides about what is not refused.
        confidence: the least mean probability that is not refused, in [0,1].
    """

    inner: Policy = Once()
    confidence: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:
            raise UsageError(f"confidence={self.confidence} is not a probability. Write a value in [0,1].")

    @property
    def draws(self) -> int:  # type: ignore[override]
        """Passes per decision: those of ``inner``."""
        return self.inner.draws

    def decide(self, logits: Tensor) -> Tensor:
        sure = logits.softmax(-1).amax(-1).mean(0) >= self.confidence
        return torch.where(sure, self.inner.decide(logits), REJECT)


@part(name="untied", source="ours: what a spiking network without an output spike has not decided")
class Untied(Policy):
    """One pass (``draws`` is 1), arg-max; refuses an image whose largest logit belongs to two classes or more.

    A spiking network that stays silent gives all classes the same logit, and argmax would call that class 0.
    """

    draws: int = 1

    def __post_init__(self) -> None:
        if self.draws != 1:
            raise UsageError(f"Untied takes one draw, not {self.draws}. Write MeanOf({self.draws}) or VoteOf(…).")

    def decide(self, logits: Tensor) -> Tensor:
        tied = (logits[0] == logits[0].amax(-1, keepdim=True)).sum(-1) > 1
        return torch.where(tied, REJECT, logits[0].argmax(-1))


def _positive(draws: int) -> None:
    if draws < 1:
        raise UsageError(f"draws={draws}: a decision needs at least one pass. Write draws=10.")
