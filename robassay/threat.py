"""What an attacker may change (Threat) and what counts as success (Goal)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robassay.errors import UsageError

REJECT = -1
"""The decision of a classifier that refuses an input."""
LEAST = 1e-6
"""The smallest deviation that a margin is divided by, in logit units."""

Norm = Literal["linf", "l2", "l0"]
LossName = Literal["ce", "scaled_ce", "margin", "dlr"]
Loss = Callable[[Tensor], Tensor]
"""Maps logits (…, B, C) to values (…, B); larger is closer to the attacker's goal."""

TOLERANCE = 1e-6
"""A perturbation may exceed eps by this much: float32 rounding of x + delta."""

TINY = 1e-12
"""Logits that differ by less are equal: there is no scale to divide by."""


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Shape (B,) to (B, 1, …, 1), so that it broadcasts over ``like`` (B, …)."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def euclidean(delta: Tensor) -> Tensor:
    """Euclidean norm (B,) of changes (B, …), float64: summed in float32, large images break the tolerance."""
    return torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64)


@dataclass(frozen=True)
class Threat:
    """A norm ball around each image, cut by the box of valid pixels.

    Args:
        norm: "linf", "l2" (Euclidean over all pixels and channels) or "l0" (number of pixel positions changed,
            all channels of a position counted once).
        eps: radius in pixel units of [0,1] ("l0": number of positions); None means: minimise the distance.
        box: smallest and largest valid pixel value.

    Raises:
        UsageError: negative or NaN eps, an empty box, an unknown norm.
    """

    norm: Norm = "linf"
    eps: float | None = None
    box: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2", "l0"):
            raise UsageError(f"norm={self.norm!r} is not known. Write norm='linf', 'l2' or 'l0'.")
        if self.eps is not None and not self.eps >= 0:
            raise UsageError(f"eps={self.eps!r} is not a radius. Write eps=0.1, or 8/255 for 8 grey levels.")
        if not self.box[0] < self.box[1]:
            raise UsageError(f"box={self.box!r} is empty. Write box=(0.0, 1.0).")

    def size(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Size (B,) of the change from ``x`` to ``x_adv``, both (B, C, H, W), in this norm."""
        delta = (x_adv - x).detach()
        if self.norm == "linf":
            return delta.abs().flatten(1).amax(1)
        if self.norm == "l2":
            return euclidean(delta).to(delta.dtype)
        return (delta != 0).any(1).flatten(1).sum(1).to(delta.dtype)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """An image inside the ball and the box, near ``x_adv`` (l0: keeps the largest changes). Shapes (B, C, H, W).

        The nearest one for "linf" and "l0". For "l2" the ball first, then the box: clipping moves every pixel towards
        x, so the ball still holds, but the nearest image of both may be another.
        """
        if self.eps is None:
            return x_adv.clamp(*self.box)
        if self.norm == "linf":
            low, high = self.corners(x)
            return torch.clamp(x_adv, low, high)
        if self.norm == "l2":
            delta = x_adv - x
            norm = euclidean(delta).clamp_min(1e-12)
            delta = delta * per_example((self.eps / norm).clamp_max(1.0), delta).to(delta.dtype)
        else:
            # The box first: a change that the box undoes must not take the place of one that stays.
            delta = x_adv.clamp(*self.box) - x
            weight = delta.abs().sum(1).flatten(1)
            kept = torch.zeros_like(weight)
            kept.scatter_(1, weight.topk(int(min(self.eps, weight.shape[1])), dim=1).indices, 1.0)
            delta = delta * kept.reshape(delta.shape[0], 1, *delta.shape[2:])
        return (x + delta).clamp(*self.box)

    def corners(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest images (B, C, H, W) of the L∞ ball around ``x``, cut to the box."""
        assert self.eps is not None
        return (x - self.eps).clamp_min_(self.box[0]), (x + self.eps).clamp_max_(self.box[1])

    def holds(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Whether each image ``x_adv`` keeps the threat around ``x``: bool (B,). NaN never does."""
        low, high = self.box
        inside = ((x_adv >= low - TOLERANCE) & (x_adv <= high + TOLERANCE)).flatten(1).all(1)
        if self.eps is None:
            return inside
        return inside & (self.size(x_adv, x) <= self.eps + TOLERANCE)


@dataclass(frozen=True, eq=False)
class Goal:
    """What the attacker wants: any wrong label, or (``targeted``) exactly ``labels``.

    Every loss has one sign convention: larger is closer to the goal, for both kinds of goal.

    Args:
        labels: int64 (B,): the true classes, or the wanted classes when targeted.
        targeted: whether ``labels`` are wanted or to be left.
        kappa: confidence margin that a minimum-distance attack must reach, in logit units.
    """

    labels: Tensor
    targeted: bool = False
    kappa: float = 0.0

    def __post_init__(self) -> None:
        if self.labels.dim() != 1 or self.labels.dtype != torch.int64:
            kind = str(self.labels.dtype).replace("torch.", "")
            raise UsageError(
                f"labels are {kind} of shape {tuple(self.labels.shape)}; a goal needs one class per image, int64 (B,). "
                "Write y.flatten().long(), or one_hot.argmax(1)."
            )

    def __getitem__(self, rows: Tensor) -> Goal:
        """The goal of some rows of the batch."""
        return Goal(self.labels[rows], self.targeted, self.kappa)

    @property
    def sign(self) -> float:
        """+1 when targeted (approach the label), −1 when not (leave it)."""
        return 1.0 if self.targeted else -1.0

    def reached(self, decisions: Tensor) -> Tensor:
        """bool, same shape as ``decisions`` (…, B). A rejected input never reaches a goal."""
        self.check(decisions.shape[-1])
        if self.targeted:
            return decisions == self.labels
        return (decisions != self.labels) & (decisions != REJECT)

    def won(self, logits: Tensor) -> Tensor:
        """Whether each draw's arg-max reaches the goal: logits (…, B, C) → bool (…, B). NaN logits never do."""
        return self.reached(logits.argmax(-1)) & (self.margin(logits) >= 0)

    def loss(self, name: LossName) -> GoalLoss:
        """The loss called ``name``.

        Raises:
            UsageError: unknown name.
        """
        return GoalLoss(self, name)

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Log-probability of the label, signed: maximising it approaches the goal. (…, B, C) → (…, B)."""
        return self.sign * self._of_label(F.log_softmax(logits, -1))

    def scaled_cross_entropy(self, logits: Tensor) -> Tensor:
        """Cross-entropy of the logits divided by their standard deviation over classes, (…, B, C) → (…, B).

        The division undoes a saturated softmax: logits of size 200 give a probability that is exactly 1 in
        float32, and with it a gradient of exactly 0. The scale is held constant in the gradient: on random
        classifiers its own gradient leads away from the goal. Equal logits (no spike at all) are left as they are, or
        that one draw would outweigh every other.
        """
        scale = logits.detach().std(-1, keepdim=True)
        return self.cross_entropy(logits / torch.where(scale > TINY, scale, 1.0))

    def margin(self, logits: Tensor) -> Tensor:
        """Best other logit minus the label's (untargeted), or the label's minus the best other (targeted).

        Positive exactly when the goal is reached by the arg-max decision. (…, B, C) → (…, B).
        """
        return self.sign * (self._of_label(logits) - self._best_other(logits))

    def dlr(self, logits: Tensor) -> Tensor:
        """Difference-of-logits ratio: the margin divided by the gap between the 1st and 3rd largest logit.

        Source: Croce and Hein 2020, eq. 6 (untargeted) and eq. 7 (targeted: the gap between the largest and the
        mean of 3rd and 4th; the margin stands for their true class's logit, which a goal does not know). Equal logits
        are as in :meth:`scaled_cross_entropy`.

        Raises:
            UsageError: fewer than 3 classes (targeted: 4).
        """
        needed = 4 if self.targeted else 3
        if logits.shape[-1] < needed:
            raise UsageError(f"loss='dlr' needs {needed} classes, the model has {logits.shape[-1]}. Use 'margin'.")
        ordered = logits.sort(-1, descending=True).values
        third = (ordered[..., 2] + ordered[..., 3]) / 2 if self.targeted else ordered[..., 2]
        span = ordered[..., 0] - third
        return self.margin(logits) / torch.where(span > TINY, span, 1.0)

    def deviations(self, mean: Tensor, factor: Tensor) -> Tensor:
        """Margin in units of its own standard deviation where logits are Gaussian, (B,).

        For each class j other than the label y, r_j = (μ_j − μ_y) / sd(z_j − z_y); the largest of them (untargeted:
        Φ(max r_j) is the chance that the likeliest rival beats the label, a lower bound on the probability of error),
        or minus it (targeted).

        Args:
            mean: μ (B, C).
            factor: F (C, D) of the covariance F Fᵀ that all images share.
        """
        gap = mean - self._of_label(mean)[:, None]
        covariance = factor.double() @ factor.double().T  # double: variances of similar rows cancel
        own = covariance.diagonal()
        variance = own + own[self.labels, None] - 2 * covariance[self.labels]  # (B, C); 0 for the label itself
        ratio = gap / variance.clamp_min(TINY**2).sqrt().to(gap.dtype)
        return -self.sign * self._best_other(ratio)

    def drawn_deviations(self, logits: Tensor) -> Tensor:
        """:meth:`deviations` with mean and deviation estimated from draws (n, B, C), (B,); of one draw its margin.

        A margin that does not vary is measured in units of :data:`LEAST` logits.
        """
        gap = logits - self._of_label(logits).unsqueeze(-1)
        sd = gap.std(0).clamp_min(LEAST) if len(gap) > 1 else 1.0
        return -self.sign * self._best_other(gap.mean(0) / sd)

    def check(self, images: int) -> None:
        """Refuse a batch of another size: a single label would silently be broadcast over it.

        Raises:
            UsageError: not as many labels as ``images``.
        """
        if images != len(self.labels):
            raise UsageError(
                f"the goal has {len(self.labels)} labels, the batch has {images} images. Give one label per image, and "
                "take rows of both with the same index: x[rows], goal[rows]."
            )

    def _of_label(self, values: Tensor) -> Tensor:
        self.check(values.shape[-2])
        index = self.labels.expand(values.shape[:-1]).unsqueeze(-1)
        return values.gather(-1, index).squeeze(-1)

    def _best_other(self, logits: Tensor) -> Tensor:
        index = self.labels.expand(logits.shape[:-1]).unsqueeze(-1)
        return logits.scatter(-1, index, float("-inf")).amax(-1)


@dataclass(frozen=True, eq=False)
class GoalLoss:
    """One of a goal's losses: logits (…, B, C) → (…, B).

    Args:
        goal: whose loss it is.
        name: "ce", "scaled_ce", "margin" or "dlr".

    Raises:
        UsageError: unknown name.
    """

    goal: Goal
    name: LossName

    def __post_init__(self) -> None:
        if self.name not in _LOSSES:
            raise UsageError(f"loss={self.name!r} is not known. Write one of {', '.join(_LOSSES)}.")

    def __call__(self, logits: Tensor) -> Tensor:
        return _LOSSES[self.name](self.goal, logits)


_LOSSES: dict[str, Callable[[Goal, Tensor], Tensor]] = {
    "ce": Goal.cross_entropy,
    "scaled_ce": Goal.scaled_cross_entropy,
    "margin": Goal.margin,
    "dlr": Goal.dlr,
}
