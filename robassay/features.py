"""What features with Gaussian noise tell: the bound of Theorem 1 of Eustratiadis et al. 2020, and a picture of two."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.attacks.gradient import radius
from robassay.cell import Arrays, Context, Model, cell
from robassay.cells import Attacked, Examples
from robassay.classifier import Classifier
from robassay.data import pixels
from robassay.defences.a2snn import NoiseHead
from robassay.errors import UsageError
from robassay.precise import doubled
from robassay.rng import Stream
from robassay.threat import Threat
from robassay.told import Tell, telling

BATCH = 100
VECTOR = (nn.ReLU, nn.PReLU)
"""Maps of single numbers that are linear on either side of 0; their subclasses, such as junctions, too."""


def intervals(layers: nn.Sequential, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of what a chain of layers makes of any input between ``low`` and ``high`` (B, …): interval arithmetic.

    Exact layer by layer and sound for the chain, up to rounding; ever wider with depth.

    Raises:
        UsageError: a layer other than a convolution, a linear layer, ReLU, PReLU and flattening.
    """
    for layer in layers:
        if isinstance(layer, nn.Flatten):
            low, high = layer(low), layer(high)
        elif isinstance(layer, VECTOR):
            # Linear on both sides of 0: the extremes lie at the ends, or at 0 where that is in between.
            ends = layer(low), layer(high), torch.zeros_like(low)
            inside = (low < 0) & (high > 0)
            least, most = torch.minimum(*ends[:2]), torch.maximum(*ends[:2])
            low = torch.where(inside, torch.minimum(least, ends[2]), least)
            high = torch.where(inside, torch.maximum(most, ends[2]), most)
        elif isinstance(layer, (nn.Linear, nn.Conv2d)):
            middle, half = layer((low + high) / 2), _unsigned(layer, (high - low) / 2)
            low, high = middle - half, middle + half
        else:
            raise UsageError(f"{type(layer).__name__} has no interval bound here. Give a net of convolutions and ReLU.")
    return low, high


def _unsigned(layer: nn.Linear | nn.Conv2d, half: Tensor) -> Tensor:
    """The layer with the absolute values of its weights and no bias."""
    weight = layer.weight.abs()
    if isinstance(layer, nn.Linear):
        return F.linear(half, weight)
    # "same" padding by name cannot occur: no net here has it, and F.conv2d would take it as it is.
    return F.conv2d(half, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


@cell
class GapBound(Tell):
    """Theorem 1 per image: by how much an attack can raise the probability of an error, at most Δ / √(2π wᵀΣw).

    The theorem is about two classes; here they are the true one, y, and the runner-up j of the logits without noise, so
    that w = w_y − w_j, and the error is that j's logit is larger than y's. Δ bounds the change of the noise-free
    margin within the ball. It comes from two places, and only the first makes a bound:

    * certified: from interval arithmetic through the network and w;
    * measured: the largest change that the given attacks found. It is an estimate from below, and not a bound.

    Result arrays "told/…", (N,) each:
        certifies, suggests: 1 where that is below 1.
        margin, deviation: of the two logits, without noise, and √(wᵀΣw).
        single: √(w_yᵀΣw_y), the deviation of the true logit by itself: what the alignment term of the loss rewards.
        certified, measured: the right-hand side with either Δ; above 1 it says nothing.
        found: the largest rise of the pair's error under the attacks, in closed form; 0 where all lower it.
        whole: the largest rise of any error, estimated with ``draws`` draws.
        broken: 1 where ``found`` passes the certified bound, which nothing may.
        short: 1 where ``whole`` passes the measured estimate by more than chance (three standard deviations).

    Args:
        target: an A2SNN whose trunk is a chain of layers that :func:`intervals` knows.
        on: images.
        threat: L∞ and eps.
        attacked: what attacks within that ball made of these images.
        draws: passes per image for ``whole``.

    Raises (when computed):
        UsageError: another network.
    """

    version = 2
    target: Model
    on: Examples
    threat: Threat
    attacked: tuple[Attacked, ...]
    draws: int = 2000

    def __post_init__(self) -> None:
        if self.threat.norm != "linf" or not self.attacked or any(one.on != self.on for one in self.attacked):
            raise UsageError("the bound needs an L∞ threat, and images that attacks made of the same examples.")

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        model = ctx.open(self.target)
        net = doubled(model)
        if not isinstance(net, NoiseHead) or not isinstance(net.trunk, nn.Sequential):
            raise UsageError(f"Theorem 1 is about noise on the features, {type(net).__name__} has none. Give an A2SNN.")
        images = self.on.load()
        moved = [torch.from_numpy(ctx.load(one)["x_adv"]).double() for one in self.attacked]
        found: dict[str, list[Tensor]] = {}
        for start in range(0, len(images.y), BATCH):
            part = slice(start, start + BATCH)
            x, y = pixels(images.x[part]).double().to(ctx.device), images.y[part].to(ctx.device)
            told = self._of(net, x, y, [one[part].to(ctx.device) for one in moved], Stream(("gap", self.key, start)))
            for name, values in told.items():
                found.setdefault(name, []).append(values.cpu())
            ctx.progress(min(start + BATCH, len(images.y)), len(images.y))
        return telling({name: torch.cat(values) for name, values in found.items()}, images.y)

    def _of(self, net: NoiseHead, x: Tensor, y: Tensor, moved: list[Tensor], rng: Stream) -> dict[str, Tensor]:
        quiet = net.quiet(net.trunk(x))
        others = quiet.scatter(1, y[:, None], -math.inf).argmax(1)
        w = net.head.weight[y] - net.head.weight[others]
        bias = net.head.bias[y] - net.head.bias[others]
        deviation = (w @ net.factor).norm(dim=1)

        def margin(images: Tensor) -> Tensor:
            return (net.trunk(images) * w).sum(1) + bias

        here, there = margin(x), torch.stack([margin(one) for one in moved])
        eps, (least, most) = radius(self.threat), self.threat.box
        layers, through, offset = _merged(net.trunk, w, bias)
        low, high = intervals(layers, (x - eps).clamp(least, most), (x + eps).clamp(least, most))
        middle = ((low + high) / 2 * through).sum(1) + offset
        half = ((high - low) / 2 * through.abs()).sum(1)
        unit = math.sqrt(2 * math.pi) * deviation
        certified = torch.maximum(middle + half - here, here - middle + half) / unit
        measured = (there - here).abs().amax(0) / unit
        normal = torch.special.ndtr
        rise = (normal(-there / deviation) - normal(-here / deviation)).amax(0).clamp_min(0)
        whole, spread = self._whole(net, x, y, moved, rng)
        return {
            "margin": here,
            "deviation": deviation,
            "single": (net.head.weight[y] @ net.factor).norm(dim=1),
            "certified": certified,
            "measured": measured,
            "found": rise,
            "whole": whole,
            "certifies": certified < 1,
            "suggests": measured < 1,
            "broken": rise > certified,
            "short": whole - 3 * spread > measured,
        }

    def _whole(self, net: NoiseHead, x: Tensor, y: Tensor, moved: list[Tensor], rng: Stream) -> tuple[Tensor, Tensor]:
        """Largest rise (B,) of the share of wrong draws, and its standard deviation where it is largest."""
        wrong = [self._wrong(net, one, y, rng.child(i)) for i, one in enumerate([x, *moved])]
        rises = torch.stack(wrong[1:]) - wrong[0]
        variances = torch.stack([p * (1 - p) for p in wrong])
        largest, which = rises.max(0)
        own = variances[1:].gather(0, which[None])[0]
        return largest.clamp_min(0), ((own + variances[0]) / self.draws).sqrt()

    def _wrong(self, net: Classifier, x: Tensor, y: Tensor, rng: Stream) -> Tensor:
        """Share (B,) of draws that decide otherwise than ``y``."""
        missed, total = torch.zeros(len(x), dtype=torch.float64, device=x.device), 0
        for logits in net.passes(net.prefix(x), self.draws, rng):
            missed += (logits.argmax(-1) != y).sum(0)
            total += len(logits)
        return missed / total


def _merged(trunk: nn.Module, w: Tensor, bias: Tensor) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Layers, weights (B, …) and bias (B,) of the same margins, a last linear layer taken into the weights: bounds of
    its outputs one by one would forget how they move together."""
    assert isinstance(trunk, nn.Sequential)
    last = trunk[-1]
    if not isinstance(last, nn.Linear):
        return trunk, w, bias
    return nn.Sequential(*list(trunk)[:-1]), w @ last.weight, w @ last.bias + bias


@cell
class Bottleneck(Tell):
    """Two features of images with the noise on them and the weights behind them, as a scatter plot shows them.

    Result arrays: "xy" (N, 2) the features without noise, "labels" (N,); for every class "centres" (K, 2), the mean of
    its images' features, "covariances" (K, 2, 2), the noise's, the same for all, and "arrows" (K, 2), its weights.
    Told of every image: "aligned", the largest |cosine| between its class's weights and an axis of the noise, and
    "axis", the same between its class's weights and an axis of the plane.

    Args:
        target: an A2SNN of two features.
        on: images, at least one of every class.

    Raises (when computed):
        UsageError: another network, or a class without an image.
    """

    target: Model
    on: Examples

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        net, images = ctx.open(self.target), self.on.load()
        if not isinstance(net, NoiseHead) or net.net.dim != 2:
            raise UsageError("a plane has two axes, this net other features. Give an A2SNN(dim=2).")
        y = images.y
        missing = sorted(set(range(net.classes)) - set(y.tolist()))
        if missing:
            raise UsageError(f"no image of class {missing[0]} is among {len(y)}. Give more images.")
        xy = torch.cat([net.prefix(pixels(part).to(ctx.device)).cpu() for part in images.x.split(BATCH)])
        weights, factor = net.head.weight.cpu(), net.factor.cpu()
        noise = factor @ factor.T
        rows = F.normalize(weights.double(), dim=1)
        axes = torch.linalg.eigh(noise.double()).eigenvectors
        nearest = {"aligned": (rows @ axes).abs().amax(1), "axis": rows.abs().amax(1)}
        return {
            **telling({name: values[y] for name, values in nearest.items()}, y),
            "xy": xy,
            "centres": torch.stack([xy[y == k].mean(0) for k in range(net.classes)]),
            "covariances": noise.repeat(net.classes, 1, 1),
            "arrows": weights.clone(),
        }
