"""How an attack's change passes through the layers of a network, of ReLU or of spiking neurons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robassay.cell import Arrays, Cell, Context, Model, cell
from robassay.cells import Craft, Examples
from robassay.classifier import Classifier
from robassay.data import pixels
from robassay.errors import UsageError
from robassay.nets.normalise import Normalise
from robassay.nets.spikes import Neurons
from robassay.rng import Stream
from robassay.told import Tell


@cell
class Propagation(Cell):
    """Per layer and image the L2 size of a change, relative to what the layer does on the clean image.

    What a layer does is the output of a ReLU, or the spikes of a layer of neurons summed over time, in the mean over
    the encoder's noise. Of n passes, which meet the same noise on both images, the squared sizes are those of the mean
    without the part that the noise of n passes adds to it: (‖Σ d‖² − Σ ‖d‖²) / (n (n − 1)).

    Result array, float32:
        relative: (layers + 1, N); first the pixels as the network normalises them, then its layers in the order in
            which they act. 0 where the noise leaves nothing to see, NaN where the layer is silent on the clean image.

    Args:
        target: the network.
        on: attacked images.
        share: part of the change that is made, in (0, 1].
        passes: n, two at least; of a deterministic network one pass is enough and is made.

    Raises:
        UsageError: shares or passes out of range; when computed, a network without such layers.
    """

    target: Model
    on: Craft
    share: float = 1.0
    passes: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.passes < 2:
            raise UsageError("Propagation needs 0 < share ≤ 1 and passes ≥ 2, such as share=0.5, passes=10.")

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        model, stored = ctx.open(self.target), ctx.load(self.on)
        x = pixels(torch.from_numpy(stored["x"])).to(ctx.device)
        moved = x + self.share * (torch.from_numpy(stored["x_adv"]).to(ctx.device) - x)
        rng, n = Stream(("propagation", self.key)), self.passes if model.stochastic else 1
        change, before = list[_Sum](), list[_Sum]()
        for i in range(n):
            with rng.child(i).active():
                clean = activity(model, x)
            with rng.child(i).active():  # the same draws
                attacked = activity(model, moved)
            if not change:
                change, before = [_Sum() for _ in clean], [_Sum() for _ in clean]
            for k, (a, b) in enumerate(zip(clean, attacked, strict=True)):
                before[k].add(a)
                change[k].add(b - a)
            ctx.progress(i + 1, n)
        found = [_ratio(d.square(n), a.square(n)) for d, a in zip(change, before, strict=True)]
        return {"relative": torch.stack(found).float().cpu()}


class _Sum:
    """A sum of vectors (B, F) and of their squared lengths (B,)."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        flat = values.flatten(1).double()
        self.total = self.total + flat
        self.squares = self.squares + flat.square().sum(1)

    def square(self, n: int) -> Tensor:
        """Squared length (B,) of the mean, without bias where there are several."""
        assert isinstance(self.total, Tensor)
        whole = self.total.square().sum(1)
        return whole if n == 1 else (whole - self.squares) / (n * (n - 1))


def _ratio(change: Tensor, before: Tensor) -> Tensor:
    known = torch.where(before > 0, before, torch.nan)
    return (change.clamp_min(0) / known).sqrt()


def activity(model: Classifier, x: Tensor) -> list[Tensor]:
    """What one pass over images (B, C, H, W) makes the layers do: the normalised pixels, then a tensor per layer.

    Raises:
        UsageError: the network has neither ReLU nor spiking neurons.
    """
    seen, place = [x], dict[int, int]()

    def told(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(layer, Normalise):
            seen[0] = out
        elif not isinstance(layer, Neurons):
            seen.append(out)
        elif (k := place.setdefault(id(layer), len(seen))) == len(seen):
            seen.append(out.sum(0))
        else:  # a later part of the same pass
            seen[k] = seen[k] + out.sum(0)

    watched = [m for m in model.modules() if isinstance(m, (Normalise, nn.ReLU, Neurons))]
    hooks = [layer.register_forward_hook(told) for layer in watched]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) == 1:
        raise UsageError(f"{type(model).__name__} has no layer of ReLU or of spiking neurons to look at.")
    return seen


@cell
class Layer(Tell):
    """One layer of a :class:`Propagation` as an evaluation: the size of an image's change is its relative L2 size.

    Nothing is decided; every decision is the label.
    """

    of: Propagation
    layer: int

    @property
    def on(self) -> Examples:
        """The clean images."""
        return self.of.on.on

    def compute(self, ctx: Context) -> Arrays:
        relative = torch.from_numpy(ctx.load(self.of)["relative"])
        if not 0 <= self.layer < len(relative):
            raise UsageError(f"layer={self.layer}: the network has layers 0 (its pixels) to {len(relative) - 1}.")
        labels = self.on.load().y.clone()
        zeros = torch.zeros(len(labels))
        return {
            "decisions": labels[None].to(torch.int16),
            "labels": labels,
            "index": torch.arange(self.on.start, self.on.stop),
            "block": torch.zeros(len(labels), dtype=torch.int64),
            "shared": torch.tensor(0, dtype=torch.uint8),
            **{name: zeros.clone() for name in ("linf", "l0", "gradients", "queries", "draws")},
            "l2": relative[self.layer].clone(),
        }
