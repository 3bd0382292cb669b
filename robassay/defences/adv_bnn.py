"""Adv-BNN: a Bayesian network whose every parameter is normal, for adversarial training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.registry import part


@part(name="adv-bnn", source="Liu et al. 2019, eqs 5–11")
class AdvBNN(Net):
    """A Bayesian network: every weight, bias, and scale and shift of a normalisation is normal, N(μ, e^{2s}).

    The loss gets α/N times the divergence from the prior N(0, σ0²), N the number of training images, summed over all
    layers. (The published VGG code counts its last layer only.) The authors train on adversarial images alone,
    PGD with 10 steps of 0.007 from the image itself, and average the softmax of several passes.

    Args:
        backbone: the network.
        prior: σ0 > 0.
        spread: e^s > 0 before training.
        alpha: α ≥ 0, weight of the divergence.
    """

    kind: ClassVar[str] = "defences"
    backbone: Backbone = SmallCNN()
    prior: float = 0.1
    spread: float = 0.1
    alpha: float = 0.02

    def __post_init__(self) -> None:
        if not (0 < self.prior < math.inf and 0 < self.spread < math.inf and 0 <= self.alpha < math.inf):
            raise UsageError(
                f"adv-bnn was given prior={self.prior}, spread={self.spread}, alpha={self.alpha}; it needs positive "
                "standard deviations and alpha ≥ 0, all finite: AdvBNN(prior=0.1, spread=0.1, alpha=0.02)."
            )

    def build(self, shape: Shape, classes: int) -> Classifier:
        return Bayesian(self.backbone.build(shape, classes), self)


@final
class Bayesian(Classifier):
    """A net whose parameters are drawn anew in every pass, one draw for a batch.

    Args:
        mean: the net; its parameters become the means μ, and are drawn anew.
        net: the description.
    """

    stochastic = True
    rows = "shared"

    def __init__(self, mean: Classifier, net: AdvBNN) -> None:
        super().__init__()
        self.mean = mean
        self.net = net
        self.classes = mean.classes
        for module in mean.modules():
            _restart(module)
        self.log_spread = nn.ParameterList(
            torch.full_like(mu, math.log(net.spread), requires_grad=True) for mu in mean.parameters()
        )

    def draw(self, h: Tensor) -> Tensor:
        drawn = {
            name: mu + s.exp() * torch.randn_like(mu)
            for (name, mu), s in zip(self.mean.named_parameters(), self.log_spread, strict=True)
        }
        logits: Tensor = functional_call(self.mean, drawn, (h,))
        return logits

    def quiet(self, h: Tensor) -> Tensor:
        """The net with the mean parameters."""
        logits: Tensor = self.mean(h)
        return logits

    def divergence(self) -> Tensor:
        """KL from the prior in nats, over all parameters: Σ ln σ0 − s + (e^{2s} + μ²) / (2σ0²) − ½."""
        prior = self.net.prior
        terms = [
            (math.log(prior) - s + ((2 * s).exp() + mu.square()) / (2 * prior**2) - 0.5).sum()
            for mu, s in zip(self.mean.parameters(), self.log_spread, strict=True)
        ]
        return torch.stack(terms).sum()

    def regularizer(self, images: int) -> Tensor | None:
        return self.net.alpha / images * self.divergence() if self.net.alpha else None

    def undecayed(self) -> Iterable[nn.Parameter]:
        """The log-spreads: decay would draw every standard deviation to 1."""
        return list(self.log_spread)


def _restart(module: nn.Module) -> None:
    """Means as published: uniform within 1/√fan_in, scales of a normalisation uniform in [0, 1], shifts 0."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        module.reset_parameters()
    elif isinstance(module, _NormBase) and module.affine:
        nn.init.uniform_(module.weight)
        nn.init.zeros_(module.bias)
