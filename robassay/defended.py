"""Cells of defences that are put around a trained model, or take several trainings."""

from __future__ import annotations

import dataclasses

import torch

from robassay.cell import Arrays, Cell, Context, Model, Source, cell
from robassay.classifier import Classifier, Net
from robassay.data import pixels
from robassay.defences.autoencoders import AutoEncoder, restore_encoder, train_encoder
from robassay.defences.distillation import Distillation
from robassay.defences.magnet import Guard, MagNet, threshold
from robassay.defences.region import Region
from robassay.errors import UsageError
from robassay.models import Train
from robassay.recipe import Recipe
from robassay.rng import Stream

VAL_BATCH = 250
"""Validation images scored together."""


@cell
class Regional(Model):
    """A model that decides by votes around the image; see :class:`~robassay.defences.region.Region`.

    Args:
        of: the model; Quieted(model) where its own noise should be off.
        region: the cube and the number of votes; they are cast when the cell is judged with ``region.policy``.
    """

    runs_network = False

    of: Model
    region: Region = Region()

    def compute(self, ctx: Context) -> Arrays:
        return {"region": torch.tensor(self.region.radius)}

    def open(self, ctx: Context) -> Classifier:
        return self.region.around(ctx.open(self.of))


@cell
class Encoder(Cell):
    """An auto-encoder trained on a data set's training images.

    Args:
        net: which, and how: see :class:`~robassay.defences.autoencoders.AutoEncoder`.
        data: the data set.
        seed: names the streams of weights, noise and order.
        limit: use only the first so many training images; None for all.
    """

    net: AutoEncoder
    data: Source
    seed: int = 0
    limit: int | None = None

    def compute(self, ctx: Context) -> Arrays:
        images = self.data.split("train").x[: self.limit]
        rng = Stream(("encoder", self.key))
        return train_encoder(self.net, self.data.shape, images, rng, ctx.scratch, ctx.progress, ctx.device)

    def restore(self, ctx: Context) -> torch.nn.Module:
        """The trained auto-encoder, frozen, on the device."""
        arrays = {name: torch.from_numpy(a) for name, a in ctx.load(self).items()}
        return restore_encoder(self.net, self.data.shape, arrays).to(ctx.device)


@cell
class Guarded(Model):
    """A model behind MagNet; :func:`guard` makes it with its auto-encoders.

    Args:
        of: the model; in the papers trained with dropout.
        magnet: how it is guarded.
        reformer: the trained auto-encoder in front.
        encoders: those of the detectors, in their order.
        data: its "val" images set the thresholds.
    """

    of: Model
    magnet: MagNet
    reformer: Encoder
    encoders: tuple[Encoder, ...]
    data: Source

    def __post_init__(self) -> None:
        described = (self.magnet.reformer, *(d.encoder for d in self.magnet.detectors))
        if described != (self.reformer.net, *(e.net for e in self.encoders)):
            raise UsageError("the auto-encoders are not those that magnet describes. Write guard(model, data, magnet).")

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        guard, images = self._around(ctx, torch.zeros(len(self.encoders))), self.data.split("val").x
        scores = torch.cat([guard.scores(pixels(x).to(ctx.device)).cpu() for x in images.split(VAL_BATCH)])
        return {"thresholds": torch.tensor([threshold(column, self.magnet.fpr).item() for column in scores.T])}

    def open(self, ctx: Context) -> Classifier:
        return self._around(ctx, torch.from_numpy(ctx.load(self)["thresholds"]))

    def _around(self, ctx: Context, thresholds: torch.Tensor) -> Guard:
        encoders = [encoder.restore(ctx) for encoder in self.encoders]
        return self.magnet.around(ctx.open(self.of), self.reformer.restore(ctx), encoders, thresholds).to(ctx.device)


def guard(of: Model, data: Source, magnet: MagNet | None = None, seed: int = 0, limit: int | None = None) -> Guarded:
    """``of`` behind MagNet, with an auto-encoder for each role, trained and adjusted on ``data``.

    Args:
        of: a model trained on ``data``.
        data: its training images teach the auto-encoders, its validation images set the thresholds.
        magnet: how; None for the MNIST settings.
        seed: of all auto-encoders; their roles tell them apart.
        limit: training images of the auto-encoders; None for all.
    """
    magnet = MagNet() if magnet is None else magnet
    roles = (magnet.reformer, *(d.encoder for d in magnet.detectors))
    reformer, *encoders = (Encoder(net, data, len(roles) * seed + i, limit) for i, net in enumerate(roles))
    return Guarded(of, magnet, reformer, tuple(encoders), data)


def distil(
    net: Net,
    data: Source,
    recipe: Recipe,
    distillation: Distillation | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Train:
    """The student of a defensive distillation; its teacher and the weights that both begin with are in its fields.

    Args:
        net: of teacher and student; in the papers the dropout one.
        data: what both learn from.
        recipe: of both; ``temperature`` is the distillation's to set.
        distillation: how; None for the settings of the papers.
        seed: of all three trainings.
        limit: training images; None for all.

    Raises:
        UsageError: the recipe has a temperature of its own.
    """
    distillation = Distillation() if distillation is None else distillation
    if recipe.temperature != 1:
        raise UsageError(
            f"the recipe has temperature={recipe.temperature}, which distillation sets itself. "
            f"Write Distillation(temperature={recipe.temperature}) and leave it out of the recipe."
        )
    first = dataclasses.replace(recipe, epochs=distillation.first, keep="last", adversary=None)
    hot = dataclasses.replace(recipe, temperature=distillation.temperature)
    begin = Train(net, data, first, seed, limit)
    teacher = Train(net, data, hot, seed, limit, begin=begin)
    return Train(net, data, hot, seed, limit, begin=begin, teacher=teacher)
