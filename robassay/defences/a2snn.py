"""A2SNN: anisotropic Gaussian noise on the features, its covariance learnt with the weights.

Source: Eustratiadis et al. 2021 ("Weight-covariance alignment"). The loss is the paper's, not the published code's.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.registry import part


@part(name="a2snn", source="Eustratiadis et al. 2021, eqs 1–6")
class A2SNN(Net):
    """Gaussian noise with a learnt covariance on the features: logits = W (f(x) + L ε) + b, ε standard normal.

    Training keeps the noise large, by its entropy, and aligned with W, by the variance it gives the logits.

    The paper's models: m1 diagonal with wca=0, m2 diagonal with entropy=0, m3 full with wca=0, m4 full with
    entropy=0, m5 full with both.

    Args:
        backbone: gives the features f.
        dim: number of features, D.
        covariance: "full", L lower triangular; or "diagonal", L = diag(softplus(s)).
        entropy: λ1, weight of the noise's entropy.
        wca: λ2, weight of Σ_i ln(w_iᵀ Σ w_i), the log-variances of the logits.
        per_example: noise of its own for each image; otherwise one noise for a whole batch, as published.
    """

    kind: ClassVar[str] = "defences"
    backbone: Backbone = SmallCNN()
    dim: int = 32
    covariance: Literal["full", "diagonal"] = "full"
    entropy: float = 0.1
    wca: float = 0.5
    per_example: bool = True

    def __post_init__(self) -> None:
        if self.dim < 1 or self.entropy < 0 or self.wca < 0:
            raise UsageError("a2snn needs dim ≥ 1, entropy ≥ 0 and wca ≥ 0, such as A2SNN(entropy=0.1, wca=0.5).")
        if self.covariance not in ("full", "diagonal"):
            raise UsageError(f"covariance={self.covariance!r} is not known. Write 'full' or 'diagonal'.")

    def build(self, shape: Shape, classes: int) -> Classifier:
        return NoiseHead(self.backbone.trunk(shape, self.dim), self, classes)


@final
class NoiseHead(Classifier):
    """Features, Gaussian noise, a linear layer.

    Args:
        trunk: images (B, C, H, W) → features (B, D).
        net: the description.
        classes: number of logits.
    """

    stochastic = True

    def __init__(self, trunk: nn.Module, net: A2SNN, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(net.dim, classes)
        full = net.covariance == "full"
        # Before training L is as published: the lower triangle of uniform numbers, or softplus of them.
        self.scale = nn.Parameter(torch.rand(net.dim, net.dim).tril() if full else torch.rand(net.dim))
        self.net = net
        self.classes = classes
        self.rows = "independent" if net.per_example else "shared"

    @property
    def factor(self) -> Tensor:
        """L (D, D), lower triangular: the noise has the covariance L Lᵀ."""
        return self.scale.tril() if self.net.covariance == "full" else F.softplus(self.scale).diag()

    def prefix(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → features (B, D)."""
        features: Tensor = self.trunk(x)
        return features

    def draw(self, h: Tensor) -> Tensor:
        rows = len(h) if self.rows == "independent" else 1
        normal = torch.randn(rows, self.net.dim, device=h.device, dtype=h.dtype)
        logits: Tensor = self.head(h + normal @ self.factor.T)
        return logits

    def quiet(self, h: Tensor) -> Tensor:
        """The mean of the noise, 0; the logits are then the mean of the draws'."""
        logits: Tensor = self.head(h)
        return logits

    def gaussian(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean W h + b (B, classes), and W L (classes, D): the logits' covariance is W L (W L)ᵀ."""
        return self.quiet(h), self.head.weight @ self.factor

    def entropy(self) -> Tensor:
        """Differential entropy of the noise in nats: D/2 · ln(2πe) + Σ ln|L_jj|.

        From L itself: the determinant of L Lᵀ is off by nats in float32.
        """
        return self.net.dim / 2 * math.log(2 * math.pi * math.e) + self.factor.diagonal().abs().log().sum()

    def alignment(self) -> Tensor:
        """Σ_i ln(w_iᵀ Σ w_i): the sum over classes of the log-variances of the logits."""
        return (self.head.weight @ self.factor).square().sum(1).log().sum()

    def regularizer(self, images: int) -> Tensor | None:
        # A weight of 0 leaves its term out: 0 · ln 0 would be NaN.
        terms = []
        if self.net.entropy:
            terms.append(-self.net.entropy * self.entropy())
        if self.net.wca:
            terms.append(-self.net.wca * self.alignment())
        return torch.stack(terms).sum() if terms else None

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """Every row of W back to unit length, or the alignment term would grow with W."""
        self.head.weight.copy_(F.normalize(self.head.weight, dim=1))
