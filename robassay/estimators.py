"""How an attacker gets a direction from a classifier whose forward pass is random or has no useful gradient.

An estimator is never the defender's decision procedure: averaging what one differentiates and averaging what one
decides on are different choices, and they are made by different people.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream, restored
from robassay.rules import Rule, StraightThrough, acting
from robassay.threat import GoalLoss, Loss, per_example


class Cost(NamedTuple):
    """Passes per example: stochastic forward passes and backward passes."""

    draws: int
    gradients: int


class Directed(NamedTuple):
    """What an estimator returns for images (B, …)."""

    value: Tensor
    """Estimated loss (B,)."""
    gradient: Tensor
    """Estimated gradient of the loss, shape of the images."""
    logits: Tensor
    """Draws at the images themselves (n, B, C), detached: they estimate the probability of error."""
    cost: Cost
    """What it took, per example."""


class Estimator(abc.ABC):
    """Estimates value and gradient of a loss of a random classifier. Larger loss is closer to the goal."""

    kind: ClassVar[str] = "estimators"
    draws: int
    """Stochastic passes per point at which the loss is asked."""
    evades: ClassVar[bool] = False
    """Whether an image that a detector refuses is none that this attacker would keep."""

    @abc.abstractmethod
    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        """Direction at images ``x`` (B, C, H, W); ``loss`` maps logits (…, B, C) to (…, B)."""


class Around(Estimator):
    """An estimator that asks another, ``inner``: it draws as that one does, and evades where that one does."""

    inner: Estimator

    @property
    def evades(self) -> bool:  # type: ignore[override]
        return self.inner.evades

    @property
    def draws(self) -> int:  # type: ignore[override]
        return self.inner.draws


@part(source="Athalye et al. 2018 (expectation over transformation)")
class Backprop(Estimator):
    """Back-propagation, averaged over draws (EoT).

    The three averages are different functions of the images: ``loss`` is the mean of the draws' losses, ``probs`` the
    loss of the mean probabilities, ``logits`` the loss of the mean logits. Graphs are kept for one pass at a time.
    Where a classifier blocks the gradient (a step, a detach) it is zero, as the true derivative of a step is.

    Args:
        draws: stochastic passes; a deterministic classifier is asked once.
        average: what is averaged over the draws.
    """

    draws: int = 1
    average: Literal["loss", "probs", "logits"] = "loss"

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UsageError(f"draws={self.draws}: an estimate needs at least one pass. Write draws=10.")
        if self.average not in ("loss", "probs", "logits"):
            raise UsageError(f"average={self.average!r} is not known. Write 'loss', 'probs' or 'logits'.")

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        with torch.enable_grad():
            image = x.detach().requires_grad_()
            features = model.features(image)
            # Draws are differentiated down to a leaf at the features, so that the prefix is crossed once.
            leaf = features if features is image else features.detach().requires_grad_()
            found = self._at(model, leaf, loss, rng)
            if leaf is image:
                return found
            return found._replace(gradient=_gradient(features, image, found.gradient))

    def _at(self, model: Classifier, leaf: Tensor, loss: Loss, rng: Stream) -> Directed:
        """The direction at the leaf."""
        if self.average == "loss":
            return self._summed(model, leaf, rng, loss)
        # The loss of a mean needs the mean first: a sweep without graphs gives it, and with it the loss's gradient
        # at the mean, which then weights the gradient of every draw.
        with torch.no_grad():
            mean = self._averaged(model.drawn(leaf.detach(), self.draws, rng)).mean(0)
        mean.requires_grad_()
        value = loss(mean.clamp_min(1e-30).log() if self.average == "probs" else mean)
        (weights,) = torch.autograd.grad(value.sum(), mean)
        found = self._summed(model, leaf, rng, lambda logits: (self._averaged(logits) * weights).sum(-1))
        return found._replace(value=value.detach(), cost=Cost(2 * found.cost.draws, found.cost.gradients))

    def _summed(self, model: Classifier, leaf: Tensor, rng: Stream, objective: Callable[[Tensor], Tensor]) -> Directed:
        """Mean over draws of ``objective`` (k, B) and of its gradient, one pass's graph alive at a time."""
        total: Tensor | None = None
        kept, heights = [], []
        with restored():
            for i, k in enumerate(model.groups(leaf, self.draws)):
                rng.child(i).take_over()  # for the backward pass, too: a backward rule may be random
                logits = model.fold(leaf, k)
                height = objective(logits)
                gradient = _gradient(height.sum(), leaf)
                # Not in place: autograd may hand out an expanded tensor, or one that the model holds.
                total = gradient if total is None else total + gradient
                kept.append(logits.detach())
                heights.append(height.detach())
                del logits, height
        assert total is not None
        drawn = kept[0] if len(kept) == 1 else torch.cat(kept)
        mean = total if len(drawn) == 1 else total / len(drawn)
        value = heights[0][0] if len(drawn) == 1 else torch.cat(heights).mean(0)
        return Directed(value, mean, drawn, Cost(len(drawn), len(drawn)))

    def _averaged(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1) if self.average == "probs" else logits


def _gradient(value: Tensor, leaf: Tensor, weight: Tensor | None = None) -> Tensor:
    """The gradient of ``value`` (weighted) at ``leaf``; zero where nothing connects them."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, weight, allow_unused=True, materialize_grads=True)
    return gradient


def drawn(model: Classifier, x: Tensor, draws: int, rng: Stream) -> Tensor:
    """Logits (draws, B, C) of images, without a graph; (1, B, C) of a deterministic classifier."""
    with torch.no_grad():
        return model.drawn(model.features(x), draws, rng)


@part(source="Athalye et al. 2018 (BPDA); Neftci et al. 2019 (surrogate gradients)")
class Ruled(Around):
    """``inner`` with every spike, sign and Bernoulli unit differentiated by ``rule``, whatever it was trained with.

    Raises (when used):
        UsageError: ``rule`` is one of whole spike trains, and the classifier has units without time steps.
    """

    rule: Rule = StraightThrough()
    inner: Estimator = Backprop()

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        with acting(self.rule):
            return self.inner(model, x, loss, rng)


@part(source="Eustratiadis et al. 2021, eq. 1 (logits are Gaussian given the features)")
class ClosedForm(Estimator):
    """Margin over its standard deviation where the logits are Gaussian: exact, and one pass whatever the noise.

    Only for classifiers that give :meth:`~robassay.classifier.Classifier.gaussian`, and for the loss "margin".

    Args:
        draws: draws at the images, without a graph, by which an attack judges its steps.
    """

    draws: int = 20

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UsageError(f"draws={self.draws}: steps are judged by one draw at least. Write ClosedForm(draws=20).")

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        if not (isinstance(loss, GoalLoss) and loss.name == "margin"):
            raise UsageError("ClosedForm differentiates the margin: write loss='margin', as in PGD(loss='margin').")
        with torch.enable_grad():
            image = x.detach().requires_grad_()
            features = model.features(image)
            found = model.gaussian(features)
            if found is None:
                raise UsageError(f"The logits of {type(model).__name__} have no closed form. Use Backprop(draws=20).")
            value = loss.goal.deviations(*found)
            gradient = _gradient(value.sum(), image)
        with torch.no_grad():
            logits = model.drawn(features.detach(), self.draws, rng)
        return Directed(value.detach(), gradient, logits, Cost(len(logits), 1))


@part(source="Carlini and Wagner 2017 (MagNet); Ge et al. 2020 with weight 10")
class Evading(Estimator):
    """``inner`` minus ``weight`` · Σ max(0, alarm) over the classifier's detectors, for defences that reject.

    It goes outside other estimators. The attack then takes no image for successful that a detector refuses. In CW the
    weight c multiplies the detectors' term, too, and so finds the size that it needs. Passes of the detectors are not
    counted.
    """

    evades = True
    weight: float = 10.0
    inner: Estimator = Backprop()

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise UsageError(f"weight={self.weight} would attract the alarm. Write weight=10.0.")

    @property
    def draws(self) -> int:  # type: ignore[override]
        """Passes per direction: those of ``inner``."""
        return self.inner.draws

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        found = self.inner(model, x, loss, rng)
        with torch.enable_grad():
            image = x.detach().requires_grad_()
            penalty = self.weight * model.alarms(image).clamp_min(0).sum(1)
            gradient = _gradient(penalty.sum(), image)
        return found._replace(value=found.value - penalty.detach(), gradient=found.gradient - gradient)


class Transform(abc.ABC):
    """A random, differentiable change of images, for :class:`Augmented`."""

    kind: ClassVar[str] = "transforms"

    @abc.abstractmethod
    def __call__(self, x: Tensor, rng: Stream) -> Tensor:
        """Images (B, C, H, W) → changed images, same shape."""


@part(source="Smilkov et al. 2017 (SmoothGrad)")
class InputNoise(Transform):
    """Adds Gaussian noise of standard deviation ``sd`` in pixel units of [0,1]; not clipped."""

    sd: float = 0.05

    def __call__(self, x: Tensor, rng: Stream) -> Tensor:
        noise = torch.randn(x.shape, generator=rng.generator(x.device), device=x.device, dtype=x.dtype)
        return x + self.sd * noise


@part(source="Athalye et al. 2018 (expectation over transformation of the input)")
class Augmented(Around):
    """Mean direction of ``inner`` over ``copies`` inputs, each changed at random by ``transform``."""

    transform: Transform = InputNoise()
    copies: int = 5
    inner: Estimator = Backprop()

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise UsageError(f"copies={self.copies}: at least one input is needed. Write copies=5.")

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        value, gradient = x.new_zeros(len(x)), torch.zeros_like(x)
        draws, gradients = 0, 0
        for i in range(self.copies):
            with torch.enable_grad():
                image = x.detach().requires_grad_()
                changed = self.transform(image, rng.child("transform", i))
                inner = self.inner(model, changed.detach(), loss, rng.child("model", i))
                at_image = _gradient(changed, image, inner.gradient)
            value += inner.value / self.copies
            gradient += at_image / self.copies
            draws += inner.cost.draws
            gradients += inner.cost.gradients
        logits = drawn(model, x, self.draws, rng.child("here"))
        return Directed(value, gradient, logits, Cost(draws + len(logits), gradients))


@part(source="Spall 1992 (simultaneous perturbation), Gaussian directions")
class Differences(Estimator):
    """Two-sided finite differences along Gaussian directions; needs no autograd.

    Both sides of a pair see the same draws of the classifier, so that the difference is the image's alone.

    Args:
        radius: length scale of the step per pixel, in units of [0,1].
        pairs: directions; the error falls as √(pixels / pairs).
        draws: stochastic passes per point.
    """

    radius: float = 1e-2
    pairs: int = 100
    draws: int = 1

    def __post_init__(self) -> None:
        if self.radius <= 0 or self.pairs < 1 or self.draws < 1:
            raise UsageError("Differences needs radius > 0, pairs ≥ 1 and draws ≥ 1, such as Differences(0.01, 100).")

    @torch.no_grad()
    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        gradient, value = torch.zeros_like(x), x.new_zeros(len(x))
        logits = drawn(model, x, self.draws, rng.child("here"))
        generator = rng.child("directions").generator(x.device)
        for i in range(self.pairs):
            u = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            steps = (self.radius * u, -self.radius * u)
            ahead, behind = (loss(drawn(model, x + s, self.draws, rng.child("model", i))).mean(0) for s in steps)
            gradient += per_example((ahead - behind) / (2 * self.radius), x) * u / self.pairs
            value += (ahead + behind) / (2 * self.pairs)
        return Directed(value, gradient, logits, Cost((2 * self.pairs + 1) * len(logits), 0))
