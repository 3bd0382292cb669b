"""A2SNN: anisotropic Gaussian noise on the features, its covariance learnt with the weights.

Source: Eustratiadis et al. 2021 ("Weight-covariance alignment"). Its published code differs from the paper, and from
itself between September 2020 and 2021; with S = L Lᵀ:

==========  =====================  ==========================================  ====================
term        paper                  code2020                                    code2021
==========  =====================  ==========================================  ====================
alignment   λ2 Σ_i ln(w_iᵀ S w_i)  λ2 ln Σ_i w_iᵀ S w_i                        ln Σ_i w_iᵀ S w_i
entropy     λ1 H                   λ1 H                                        ln H
after step  rows of W to length 1  all of W to Frobenius norm 1, if λ2 > 0     nothing
diagonal    S = diag(softplus²)    in the alignment S = diag(s), s itself      as code2020
==========  =====================  ==========================================  ====================
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import RobassayError, UsageError
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
        variant: whose loss and projection, see the table above. For code2021, λ1 and λ2 only say whether a term is on.
        independent: the epoch, from 0, from which the noise is trained alone (Table 6, "independent noise"): before it
            the net trains without noise, from it on all but the noise is frozen, normalisation included, and W is
            never projected. A recipe needs more epochs than that and keep="last". None trains both together.
    """

    kind: ClassVar[str] = "defences"
    backbone: Backbone = SmallCNN()
    dim: int = 32
    covariance: Literal["full", "diagonal"] = "full"
    entropy: float = 0.1
    wca: float = 0.5
    per_example: bool = True
    variant: Literal["paper", "code2020", "code2021"] = "paper"
    independent: int | None = None

    def __post_init__(self) -> None:
        if self.dim < 1 or not (0 <= self.entropy < math.inf and 0 <= self.wca < math.inf):
            raise UsageError("a2snn needs dim ≥ 1, entropy ≥ 0 and wca ≥ 0, such as A2SNN(entropy=0.1, wca=0.5).")
        if self.variant not in ("paper", "code2020", "code2021"):
            raise UsageError(f"variant={self.variant!r} is not known. Write 'paper', 'code2020' or 'code2021'.")
        if self.independent is not None and self.independent < 1:
            raise UsageError(
                f"independent={self.independent}: the net needs an epoch before its noise. Write 1 or more."
            )
        if self.covariance not in ("full", "diagonal"):
            raise UsageError(f"covariance={self.covariance!r} is not known. Write 'full' or 'diagonal'.")

    @property
    def begins(self) -> int:
        return self.independent or 0

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

    epoch: Tensor | None

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
        # Only where it matters: nets without it keep the state they were stored with.
        self.register_buffer("epoch", None if net.independent is None else torch.zeros((), dtype=torch.int64))

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether training, or what was loaded, has reached the noise."""
        return self.epoch is None or int(self.epoch) >= (self.net.independent or 0)

    @property
    def factor(self) -> Tensor:
        """L (D, D), lower triangular: the noise has the covariance L Lᵀ."""
        return self.scale.tril() if self.net.covariance == "full" else F.softplus(self.scale).diag()

    def prefix(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → features (B, D)."""
        features: Tensor = self.trunk(x)
        return features

    def draw(self, h: Tensor) -> Tensor:
        if not self.stochastic:
            return self.quiet(h)
        rows = h.shape[0] if self.rows == "independent" else 1
        normal = torch.randn(rows, self.net.dim, device=h.device, dtype=h.dtype)
        logits: Tensor = self.head(h + normal @ self.factor.T)
        return logits

    def quiet(self, h: Tensor) -> Tensor:
        """The mean of the noise, 0; the logits are then the mean of the draws'."""
        logits: Tensor = self.head(h)
        return logits

    def gaussian(self, h: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean W h + b (B, classes), and W L (classes, D): the logits' covariance is W L (W L)ᵀ. None without noise."""
        return (self.quiet(h), self.head.weight @ self.factor) if self.stochastic else None

    def entropy(self) -> Tensor:
        """Differential entropy of the noise in nats: D/2 · ln(2πe) + Σ ln|L_jj|.

        From L itself: the determinant of L Lᵀ is off by nats in float32.
        """
        return self.net.dim / 2 * math.log(2 * math.pi * math.e) + self.factor.diagonal().abs().log().sum()

    def alignment(self) -> Tensor:
        """The paper's Σ_i ln(w_iᵀ Σ w_i), the sum over classes of the logits' log-variances; or the code's ln Σ_i."""
        if self.net.variant == "paper":
            return (self.head.weight @ self.factor).square().sum(1).log().sum()
        if self.net.covariance == "diagonal":
            return (self.head.weight.square() @ self.scale).sum().log()
        return (self.head.weight @ self.factor).square().sum().log()

    def regularizer(self, images: int) -> Tensor | None:
        """The entropy and alignment terms, with their signs and weights.

        Raises:
            RobassayError: the covariance has become singular or infinite, or a term is the log of no positive number.
        """
        if not self.stochastic:
            return None
        # A weight of 0 leaves its term out: 0 · ln 0 would be NaN.
        late, terms = self.net.variant == "code2021", []
        if self.net.entropy:
            terms.append(-self.entropy().log() if late else -self.net.entropy * self.entropy())
        if self.net.wca:
            terms.append(-self.alignment() if late else -self.net.wca * self.alignment())
        if not terms:
            return None
        total = torch.stack(terms).sum()
        if not total.isfinite():
            raise RobassayError(self._fault())
        return total

    def _fault(self) -> str:
        diagonal = self.factor.diagonal()
        gone, over = int((diagonal == 0).sum()), int((~self.factor.isfinite()).sum())
        if over:
            what = f"the noise of a2snn overflowed in training: {over} entries of its factor L are not finite"
        elif gone:
            what = (
                f"the covariance of a2snn became singular in training: L_jj is 0 for {gone} of {len(diagonal)} features"
            )
        else:
            what = "a term of a2snn's loss became infinite or the log of a negative number in training"
            if self.net.variant != "paper":
                what += f", which the published code ({self.net.variant}) does not exclude; the paper's variant does"
        return what + ". Try a smaller learning rate, or smaller weights entropy and wca."

    def begin_epoch(self, epoch: int) -> None:
        """With independent noise: which of the two, net or noise, learns in this epoch."""
        if self.epoch is None:
            return
        self.epoch.fill_(epoch)
        for parameter in self.parameters():
            parameter.requires_grad_((parameter is self.scale) == self.stochastic)

    def train(self, mode: bool = True) -> NoiseHead:
        """A frozen trunk stays as in evaluation: its normalisation must not move."""
        super().train(mode)
        if self.epoch is not None and self.stochastic:
            self.trunk.eval()
        return self

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """The variant's projection of W, or the alignment term would grow with W. The paper's: unit rows."""
        if self.epoch is not None or self.net.variant == "code2021":
            return
        weight = self.head.weight
        if self.net.variant == "paper":
            weight.copy_(F.normalize(weight, dim=1))
        elif self.net.wca:
            weight.div_(weight.norm())
