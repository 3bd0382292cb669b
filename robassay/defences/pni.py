"""Parametric noise injection: noise on weights or activations, its size learnt with the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.nets.noisy import Noise, NoisyNet, fill, layered
from robassay.registry import part

Detail = Literal["layer", "channel", "element"]
INITIAL = 0.25


@final
class WeightNoise(Noise):
    """A layer with weight W + α η, η normal with the standard deviation of W's entries; its bias has no noise.

    One η serves a whole batch. The standard deviation is unbiased and a constant to the gradient.

    Args:
        layer: a convolution or a linear layer with two weights or more.
        detail: one α for the layer, for each output channel, or for each weight.
    """

    rows = "shared"

    def __init__(self, layer: nn.Conv2d | nn.Linear, detail: Detail) -> None:
        super().__init__()
        weight = layer.weight
        if weight.numel() < 2:
            raise UsageError(
                "pni needs two weights in every layer: one alone has no standard deviation. Widen the net."
            )
        self.layer = layer
        self.alpha = nn.Parameter(torch.full(_alphas(weight.shape, detail), INITIAL))

    def noisy(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        eta = weight.detach().std() * torch.randn_like(weight)
        y: Tensor = functional_call(self.layer, {"weight": weight + self.alpha * eta}, (x,))
        return y

    def silent(self, x: Tensor) -> Tensor:
        """The layer with the mean weights."""
        y: Tensor = self.layer(x)
        return y

    def scales(self) -> Iterable[nn.Parameter]:
        return (self.alpha,)


@final
class ActivationNoise(Noise):
    """A layer with output y + α η, η normal with the standard deviation of that image's own y.

    The published noise takes the standard deviation over the batch; an image's own is the same for a batch of one,
    and keeps images from influencing each other.

    Args:
        layer: a convolution.
        shape: of its output (C, H, W).
        detail: one α for the layer, for each channel, or for each entry of the map.
    """

    def __init__(self, layer: nn.Module, shape: torch.Size, detail: Detail) -> None:
        super().__init__()
        if shape.numel() < 2:
            raise UsageError("pni needs maps of two entries: one alone has no standard deviation. Use larger images.")
        self.layer = layer
        sizes = {"layer": (), "channel": (shape[0], 1, 1), "element": tuple(shape)}
        self.alpha = nn.Parameter(torch.full(sizes[detail], INITIAL))

    def noisy(self, x: Tensor) -> Tensor:
        y = self.silent(x)
        return y + self.alpha * (y.detach().std((1, 2, 3), keepdim=True) * torch.randn_like(y))

    def silent(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y

    def scales(self) -> Iterable[nn.Parameter]:
        return (self.alpha,)


@part(name="pni", source="He et al. 2019, eqs 1–4")
class PNI(Net):
    """Noise on the weights of all convolutions and of the last layer, or on the outputs of all convolutions.

    Its size is α times the spread of what it is added to; α starts at 0.25, is learnt, and does not decay. The noise
    stays on in evaluation. The authors train on clean and adversarial images in equal shares, the adversary aiming
    away from the net's own prediction, after five clean epochs: without adversarial images α shrinks.

    Args:
        backbone: the network; it needs a convolution.
        place: "weights", one noise for a batch; or "activations", a noise for every image.
        detail: one α per "layer", per output "channel" or per "element".
    """

    kind: ClassVar[str] = "defences"
    backbone: Backbone = SmallCNN()
    place: Literal["weights", "activations"] = "weights"
    detail: Detail = "layer"

    def __post_init__(self) -> None:
        if self.place not in ("weights", "activations"):
            raise UsageError(f"place={self.place!r} is not known. Write 'weights' or 'activations'.")
        if self.detail not in ("layer", "channel", "element"):
            raise UsageError(f"detail={self.detail!r} is not known. Write 'layer', 'channel' or 'element'.")

    def build(self, shape: Shape, classes: int) -> Classifier:
        trunk = layered(self.backbone.trunk(shape, self.backbone.features))
        head: nn.Module = nn.Linear(self.backbone.features, classes)
        if self.place == "weights":
            found = fill(trunk, _convolution, lambda _, m: WeightNoise(m, self.detail))  # type: ignore[arg-type]
            head = WeightNoise(head, self.detail)  # type: ignore[arg-type]
        else:
            sizes = map_shapes(trunk, shape, [m for m in trunk.modules() if _convolution(m)])
            found = fill(trunk, _convolution, lambda i, m: ActivationNoise(m, sizes[i], self.detail))
        if not found:
            raise UsageError(
                f"pni puts noise on convolutions, {type(self.backbone).__name__} has none. "
                "Use small-cnn: PNI(SmallCNN())."
            )
        return NoisyNet(trunk, head, classes)


def _convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


def _alphas(weight: torch.Size, detail: Detail) -> tuple[int, ...]:
    if detail == "layer":
        return ()
    return (weight[0], *[1] * (len(weight) - 1)) if detail == "channel" else tuple(weight)


@torch.no_grad()
def map_shapes(trunk: nn.Module, shape: Shape, layers: list[nn.Module]) -> list[torch.Size]:
    """Shapes (C, H, W) of what ``layers`` of a trunk return for images of ``shape``; a normalisation notices nothing.

    Layers that keep their input's shape, such as activations, tell it by what they return.
    """
    found: dict[int, torch.Size] = {}

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        found[id(module)] = output.shape[1:]

    handles = [layer.register_forward_hook(note) for layer in layers]
    training = trunk.training
    trunk.eval()(torch.zeros(1, *shape))
    trunk.train(training)
    for handle in handles:
        handle.remove()
    return [found[id(layer)] for layer in layers]
