"""Cells that turn a trained network of ReLU into a spiking one, and run a spiking network for another time."""

from __future__ import annotations

from dataclasses import replace

import torch

from robassay.cell import Arrays, Context, Model, Source, cell
from robassay.classifier import Classifier, Net
from robassay.data import pixels
from robassay.errors import UsageError
from robassay.models import Train
from robassay.nets.backbone import Backbone, Plain
from robassay.nets.conversion import Method, convert
from robassay.nets.published import Published
from robassay.nets.spikes import Spikes
from robassay.nets.spiking import Spiking, SpikingClassifier
from robassay.rng import Stream
from robassay.training import WEIGHT, copied, restore


@cell
class Convert(Model):
    """A trained network of ReLU as a spiking one; see :func:`robassay.nets.conversion.convert`.

    It may be the ``begin`` of a :class:`Train` of the spiking network: hybrid training, Rathi et al. 2020.

    Args:
        of: the training of a chain of layers, such as VGG5(spikes=None).
        spikes: how it spikes.
        steps: time steps that set the thresholds.
        method: "threshold" or "weight".
        percentile: of the input sums that becomes the threshold; 100 is the maximum, 99.9 resists single images.
        images: the first so many training images set the thresholds.

    Raises:
        UsageError: ``of`` trains no chain of layers, or already a spiking network.
    """

    of: Train
    spikes: Spikes = Spikes(steps=2000)
    steps: int = 2000
    method: Method = "threshold"
    percentile: float = 100.0
    images: int = 128

    def __post_init__(self) -> None:
        if self.method not in ("threshold", "weight"):
            raise UsageError(f"method={self.method!r} is not known. Write method='threshold' or method='weight'.")
        if self.steps < 1 or self.images < 1 or not 0 < self.percentile <= 100:
            raise UsageError("Convert needs steps ≥ 1, images ≥ 1 and 0 < percentile ≤ 100, such as percentile=99.9.")
        _ = self.net

    @property
    def data(self) -> Source:
        """The data set that the network was trained on."""
        return self.of.data

    @property
    def net(self) -> Net:
        """The spiking network."""
        given = self.of.net
        if isinstance(given, Published) and given.spikes is None:
            return replace(given, spikes=self.spikes)  # type: ignore[type-var]
        if isinstance(given, Backbone):
            return Spiking(given, self.spikes)
        what = "already spikes" if isinstance(given, (Published, Spiking)) else "is no chain of layers"
        raise UsageError(
            f"{type(given).__name__} {what}, so that it cannot be converted. Convert the training of its network of "
            "ReLU, such as Train(VGG5(spikes=None), …) or Train(VGG(5), …)."
        )

    def compute(self, ctx: Context) -> Arrays:
        plain = ctx.open(self.of)
        assert isinstance(plain, Plain)
        x = pixels(self.data.split("train").x[: self.images]).to(ctx.device)
        rng = Stream(("convert", self.key))
        model = convert(plain, self.spikes, self.data.shape, x, self.steps, rng, self.method, self.percentile)
        return {WEIGHT + name: tensor for name, tensor in copied(model).items()}

    def open(self, ctx: Context) -> Classifier:
        arrays = {name: torch.from_numpy(a) for name, a in ctx.load(self).items()}
        return restore(self.net, self.data.shape, self.data.classes, arrays)


@cell
class Timed(Model):
    """A spiking network that runs for another number of time steps.

    Args:
        of: a spiking network, trained or converted.
        steps: time steps of a pass.
    """

    runs_network = False

    of: Model
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"steps={self.steps}: a pass has one time step at least. Write steps=100.")

    def compute(self, ctx: Context) -> Arrays:
        return {"steps": torch.tensor(self.steps)}

    def open(self, ctx: Context) -> Classifier:
        model = ctx.open(self.of)
        if not isinstance(model, SpikingClassifier):
            raise UsageError(f"{type(model).__name__} has no time steps. Give Timed a spiking network, such as VGG5().")
        return model.lasting(self.steps)
