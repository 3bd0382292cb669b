"""Learn2Perturb: Gaussian noise in front of activations, its size learnt for every entry of every map."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.defences.pni import map_shapes
from robassay.errors import RobassayError, UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.nets.noisy import ACTIVATIONS, Junction, Noise, NoisyNet, fill, layered
from robassay.registry import part

INITIAL, LEAST = 0.25, 0.01


@final
class LearntNoise(Noise):
    """y = x + σ ⊙ n, n standard normal; σ (C, H, W) is learnt.

    Args:
        shape: of the map (C, H, W).
        per_example: a noise for each row; otherwise one for the batch.
    """

    def __init__(self, shape: torch.Size, per_example: bool) -> None:
        super().__init__()
        self.sigma = nn.Parameter(torch.full(tuple(shape), INITIAL))
        self.rows: Literal["shared", "independent"] = "independent" if per_example else "shared"

    def noisy(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x if self.rows == "independent" else x[:1])

    def scales(self) -> Iterable[nn.Parameter]:
        return (self.sigma,)


@part(name="l2p", source="Jeddi et al. 2020, eqs 3–9")
class L2P(Net):
    """Learn2Perturb: noise of learnt size in front of activations, kept from vanishing by a regulariser.

    The places are the trunk's junctions (behind the stem's normalisation and behind residual sums); a trunk without
    any gets noise in front of every activation that follows a convolution.

    After every step of the weights σ takes a plain gradient step of its own on −(γ/H)·Σ√σ, H the harmonic number of
    the epochs with noise so far, this one included; then it is raised to 0.01 where it is less. Before epoch
    ``delay`` the net is deterministic, so a recipe needs more epochs than that, and keep="last": the best epoch can
    be one without noise. The authors train on clean and adversarial images in equal shares, the adversary (aiming
    away from the net's own prediction) from epoch 20 on, and noise from epoch 10 of 350.

    Args:
        backbone: the network.
        gamma: γ ≥ 0, weight of the regulariser.
        delay: epochs, from 0, before the noise acts.
        per_example: noise of its own for each image; otherwise one noise for a whole batch, as published.
    """

    kind: ClassVar[str] = "defences"
    backbone: Backbone = SmallCNN()
    gamma: float = 1e-4
    delay: int = 0
    per_example: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.gamma < math.inf and self.delay >= 0):
            raise UsageError(
                f"l2p was given gamma={self.gamma}, delay={self.delay}; both are finite and not negative, such as "
                "L2P(gamma=1e-4, delay=10)."
            )

    @property
    def begins(self) -> int:
        return self.delay

    def build(self, shape: Shape, classes: int) -> Classifier:
        trunk = layered(self.backbone.trunk(shape, self.backbone.features))
        places = sites(trunk)
        if not places:
            raise UsageError(
                "l2p puts noise in front of activations that follow a convolution, "
                f"{type(self.backbone).__name__} has none. Use small-cnn: L2P(SmallCNN())."
            )
        sizes, chosen = map_shapes(trunk, shape, places), {id(m) for m in places}
        fill(
            trunk,
            lambda m: id(m) in chosen,
            lambda i, m: nn.Sequential(LearntNoise(sizes[i], self.per_example), m),
        )
        return Perturbed(NoisyNet(trunk, nn.Linear(self.backbone.features, classes), classes), self)


@final
class Perturbed(Classifier):
    """A net with learnt noise, deterministic until training has reached the epoch at which the noise begins.

    Args:
        inner: the net with its :class:`LearntNoise` layers.
        net: the description.
    """

    epoch: Tensor

    def __init__(self, inner: NoisyNet, net: L2P) -> None:
        super().__init__()
        self.inner = inner
        self.net = net
        self.classes, self.rows = inner.classes, inner.rows
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether training, or what was loaded, has reached the noise."""
        return int(self.epoch) >= self.net.delay

    def prefix(self, x: Tensor) -> Tensor:
        """The layers in front of the first noise."""
        return self.inner.prefix(x)

    def draw(self, h: Tensor) -> Tensor:
        return self.inner.draw(h) if self.stochastic else self.inner.quiet(h)

    def quiet(self, h: Tensor) -> Tensor:
        """Without noise: n = 0."""
        return self.inner.quiet(h)

    def undecayed(self) -> Iterable[nn.Parameter]:
        return self.inner.undecayed()

    def begin_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """σ up the slope of its regulariser, γ/H / (2√σ), then not below 0.01.

        Raises:
            RobassayError: a σ is no longer finite.
        """
        harmonic = sum(1 / k for k in range(1, int(self.epoch) - self.net.delay + 2))
        for sigma in self.inner.undecayed():
            sigma.clamp_(min=LEAST)  # the step on the loss may have made it negative, which has no root
            if self.stochastic:
                sigma.add_(rate * self.net.gamma / harmonic / (2 * sigma.sqrt()))
            if not sigma.isfinite().all():
                raise RobassayError(
                    "a noise scale of l2p overflowed in training. Try a smaller learning rate, or a smaller gamma "
                    f"than {self.net.gamma:g}."
                )


def sites(trunk: nn.Module) -> list[nn.Module]:
    """Where the noise goes: in front of these modules, in order of definition."""
    modules = list(trunk.modules())
    junctions: list[nn.Module] = [m for m in modules if isinstance(m, Junction)]
    if junctions:
        return junctions
    found: list[nn.Module] = []
    convolved = False
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            convolved = isinstance(module, nn.Conv2d)
        elif isinstance(module, ACTIVATIONS) and convolved:
            found.append(module)
            convolved = False
    return found
