"""A network of three convolutional layers that learns by spike-timing-dependent plasticity (SNN_M).

Every neuron spikes at most once. Weights are never negative, so potentials only grow within a presentation: who has
spiked by the last step, and hence every decision, follows from the last step alone. Times matter for learning.

Source: Mozafari et al. 2019 and its published example; Tan et al. 2020 for colour images and attacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.classifier import Classifier
from robassay.data import Images
from robassay.errors import UsageError
from robassay.learner import Learner, Told
from robassay.nets.backbone import Shape, check_side
from robassay.nets.latency import MAPS, Gate, final_wave
from robassay.nets.ops import spike
from robassay.nets.plasticity import present_features, present_rewards
from robassay.registry import part
from robassay.rng import Stream
from robassay.rules import StraightThrough


@dataclass(frozen=True)
class Layer:
    """A convolution of an STDP network and how its winners are found.

    Args:
        kernel, padding: of the convolution.
        pool: side and stride of the pooling in front of it; 1 for none.
        threshold: potential above which a neuron spikes.
        winners: at most so many neurons learn from an image, each of another map.
        radius: positions around a winner that may not win, in all maps.
    """

    kernel: int
    padding: int
    pool: int
    threshold: float
    winners: int
    radius: int


LAYERS = (Layer(5, 2, 1, 15.0, 5, 3), Layer(3, 1, 2, 10.0, 8, 1), Layer(5, 2, 3, float("inf"), 1, 0))


@part(name="snn-m", source="Mozafari et al. 2019; Tan et al. 2020, Table VI")
class SNNM(Learner):
    """Three layers that learn one after the other: two by STDP, the last by reward; images from 6 × 6 pixels.

    A class is decided by the map of the last layer with the largest potential; each class has ``maps[2] / classes``
    of them. An image without any spike in front of the last layer is refused. Colour images are averaged to grey.

    Args:
        maps: of the three layers; published: (30, 250, 200) for MNIST, (300, 800, 500) for CIFAR-10.
        epochs: passes of the three layers over their images; published: 2, 4 and 680.
        limits: each layer's passes see so many images from the front of the set; None for all.
        drop: probability that a map of the last layer sits a presentation out.
        intended: begin the last layer's rates at .9 for rewards and .1 for punishments. The published example computes
            these factors and applies them only after the first 1,000 images.
        gate: where the filters' spikes are differentiated, see :func:`robassay.nets.latency.final_wave`.
        keep: "best" or "last" pass of the last layer.
    """

    maps: tuple[int, int, int] = (30, 250, 200)
    epochs: tuple[int, int, int] = (2, 4, 680)
    limits: tuple[int | None, int | None, int | None] = (None, None, None)
    drop: float = 0.0
    intended: bool = False
    gate: Gate = "contrast"
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        if len(self.maps) != 3 or min(self.maps) < 1 or len(self.epochs) != 3 or min(self.epochs) < 1:
            raise UsageError(
                f"snn-m was given maps={self.maps}, epochs={self.epochs}; it has three layers, each with a map and an "
                "epoch at least: maps=(30, 250, 200), epochs=(2, 4, 10)."
            )
        if not 0 <= self.drop < 1:
            raise UsageError(f"snn-m was given drop={self.drop}; it needs a probability below 1, such as drop=0.5.")
        if self.gate not in ("contrast", "hard") or self.keep not in ("best", "last"):
            raise UsageError(f"snn-m was given gate={self.gate!r}, keep={self.keep!r}; see robassay list nets.")

    @property
    def passes(self) -> int:  # type: ignore[override]
        """Times the images are presented: the epochs of all layers."""
        return sum(self.epochs)

    def build(self, shape: Shape, classes: int) -> Classifier:
        check_side("snn-m", shape, 6)
        if self.maps[2] % classes:
            more = -(-self.maps[2] // classes) * classes
            raise UsageError(
                f"snn-m cannot share {self.maps[2]} maps among {classes} classes. Write {more} for the last layer."
            )
        return STDPNetwork(self.maps, classes, self.gate)

    def layer(self, number: int) -> int:
        """Which layer, from 0, learns in the pass ``number``."""
        first, second, _ = self.epochs
        return 0 if number < first else 1 if number < first + second else 2

    def decides(self, number: int) -> bool:
        return self.layer(number) == 2

    def present(self, model: Classifier, images: Images, number: int, rng: Stream, told: Told) -> None:
        """A pass of one layer over ``images``, or over the first of them where that layer has a limit."""
        assert isinstance(model, STDPNetwork)
        layer = self.layer(number)
        limit = self.limits[layer]
        part = images if limit is None else Images(images.x[:limit], images.y[:limit])
        if layer < 2:
            present_features(model, layer, part.x, told)
        else:
            factors = (0.9, 0.1) if self.intended and number == sum(self.epochs[:2]) else None
            present_rewards(model, part, self.drop, factors, rng, told)


@final
class STDPNetwork(Classifier):
    """The network of an :class:`SNNM`; weights and adapting rates are buffers.

    Args:
        maps: of the three layers.
        classes: their number.
        gate: see :class:`SNNM`.
    """

    rates: Tensor
    """Strengthening rates of the first two layers; shares that scale reward and punishment of the last."""
    presented: Tensor
    """Presentations to each layer so far."""

    def __init__(self, maps: tuple[int, int, int], classes: int, gate: Gate) -> None:
        super().__init__()
        self.classes, self.gate = classes, gate
        before = MAPS
        self.weights = nn.ParameterList()
        for how, after in zip(LAYERS, maps, strict=True):
            initial = 0.8 + 0.05 * torch.randn(after, before, how.kernel, how.kernel)
            self.weights.append(nn.Parameter(initial, requires_grad=False))
            before = after
        self.register_buffer("rates", torch.tensor([0.004, 0.004, 1.0, 1.0]))
        self.register_buffer("presented", torch.zeros(3, dtype=torch.int64))
        self.kept: tuple[tuple[int, int], Tensor] | None = None
        """Waves in front of the last layer and which images they are of: they stay while it learns."""

    def prefix(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → the final wave (B, 6, H, W) of spikes from the filters."""
        return final_wave(x.mean(1, keepdim=True), self.gate)

    def draw(self, h: Tensor) -> Tensor:
        """Logits: the largest potential of every class's maps."""
        return self.potentials(h).amax((2, 3)).unflatten(1, (self.classes, -1)).amax(2)

    def potentials(self, wave: Tensor) -> Tensor:
        """Potentials of the last layer at the last step (B, maps, h, w), from the filters' final wave."""
        for layer in (0, 1):
            wave = spike(self.height(layer, wave) / LAYERS[layer].threshold - 1, StraightThrough())
        return self.current(2, wave)

    def height(self, layer: int, wave: Tensor) -> Tensor:
        """Potentials of layer 0 or 1, pooled as the next layer does: who is highest spikes first.

        Pooling them in front of the threshold gives the same spikes as pooling behind it, and a gradient also to a
        window in which nobody spikes.
        """
        return F.max_pool2d(self.current(layer, wave), LAYERS[layer + 1].pool)

    def current(self, layer: int, wave: Tensor) -> Tensor:
        """Convolution of a layer: pooled waves (B, maps in front, H, W) → potentials."""
        return F.conv2d(wave, self.weights[layer], padding=LAYERS[layer].padding)

    def alarms(self, x: Tensor) -> Tensor:
        """0 for an image that gives no potential at all, whose decision would be the first class by default."""
        return -self.draw(self.prefix(x)).amax(1, keepdim=True)

    def convergence(self, layer: int) -> float:
        """Mean of w · (1 − w) over a layer's weights: near 0 when all have learnt to be 0 or 1."""
        w = self.weights[layer]
        return float((w * (1 - w)).mean())
