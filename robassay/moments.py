"""A margin in units of its own noise, where no closed form of the logits is known."""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.estimators import Cost, Directed, Estimator
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import Goal, GoalLoss, Loss


@part(source="Eustratiadis et al. 2021, eq. 1, with mean and variance estimated from draws")
class Moments(Estimator):
    """Margin over its standard deviation, both estimated from draws: how sure an error is.

    Unlike the mean margin it is not ruled by the class whose logit has the widest noise, and unlike cross-entropy it
    does not saturate. The gradient is that of the estimate, of its deviation, too. A deterministic classifier has no
    deviation: its margin itself is differentiated. Only for the loss "margin".

    Args:
        draws: passes, each made twice: without a graph, and with one.
    """

    draws: int = 20

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise UsageError(f"draws={self.draws}: a deviation needs two draws at least. Write Moments(draws=20).")

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        if not (isinstance(loss, GoalLoss) and loss.name == "margin"):
            raise UsageError("Moments differentiates the margin: write loss='margin', as in PGD(loss='margin').")
        with torch.no_grad():
            h = model.features(x)
            logits = model.drawn(h, self.draws, rng)
        value, weights = _ratio(logits, loss.goal)
        with torch.enable_grad():
            image = x.detach().requires_grad_()
            features = model.features(image)
            leaf = features if features is image else features.detach().requires_grad_()
            gradient = self._gradient(model, leaf, weights, rng)
            if leaf is not image:
                (gradient,) = torch.autograd.grad(features, image, gradient, allow_unused=True, materialize_grads=True)
        return Directed(value, gradient, logits, Cost(2 * len(logits), len(logits)))

    def _gradient(self, model: Classifier, leaf: Tensor, weights: Tensor, rng: Stream) -> Tensor:
        """Of Σ weights · logits over the same draws, one pass's graph alive at a time."""
        total, start = torch.zeros_like(leaf), 0
        for i, k in enumerate(model.groups(leaf, self.draws)):
            with rng.child(i).active():
                height = (model.fold(leaf, k) * weights[start : start + k]).sum()
                if height.requires_grad:
                    found = torch.autograd.grad(height, leaf, allow_unused=True, materialize_grads=True)
                    total = total + found[0]
            start += k
        return total


def _ratio(logits: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """The ratio (B,) of logits (n, B, C), and its derivative by every logit (n, B, C)."""
    with torch.enable_grad():
        leaf = logits.detach().double().requires_grad_()  # double: a small deviation of large logits cancels
        value = goal.drawn_deviations(leaf)
        (weights,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach().to(logits.dtype), weights.to(logits.dtype)
