"""Cells that stand for classifiers: trained networks, mixtures, networks with their noise off."""

from __future__ import annotations

import abc
import copy
from typing import ClassVar

import torch

from robassay.cell import Arrays, Context, Model, Source, cell
from robassay.classifier import Classifier, Mixture, Net, Quiet
from robassay.data import Images
from robassay.errors import UsageError
from robassay.learner import Learner
from robassay.learning import learn
from robassay.nets.binary import Binary
from robassay.recipe import Recipe
from robassay.registry import enlist
from robassay.rng import Stream
from robassay.training import restore, train, validated


class Extra(abc.ABC):
    """Images that a training learns besides those of its data set."""

    kind: ClassVar[str] = "recipes"

    @property
    @abc.abstractmethod
    def data(self) -> Source:
        """The data set that they are of."""

    @abc.abstractmethod
    def images(self, ctx: Context) -> Images:
        """Images uint8 (N, C, H, W) and true labels int64 (N,), from what the context has stored."""


@cell
class Train(Model):
    """A network trained on a data set.

    Args:
        net: the network.
        data: the data set; "train" is learnt, "val" chooses the epoch.
        recipe: how.
        seed: names the streams of weights, order and noise.
        limit: use only the first so many training images; None for all.
        begin: a model of the same net; its weights are the initial ones. A converted network may begin the training of
            a spiking one.
        teacher: its softmax(logits / recipe.temperature) on the unchanged training images, its noise off, are the
            labels that are learnt.
        extra: adversarial images that are learnt besides.

    Raises:
        UsageError: ``begin`` or ``teacher`` was trained for images of another shape or with other classes.
    """

    net: Net
    data: Source
    recipe: Recipe
    seed: int = 0
    limit: int | None = None
    begin: Model | None = None
    teacher: Model | None = None
    extra: Extra | None = None

    def __post_init__(self) -> None:
        if self.teacher is not None and self.extra is not None:
            raise UsageError("a teacher would label the extra images, too, whose true labels are the point. Give one.")
        check_begin(self.net, self.recipe)
        if self.extra is not None and self.extra.data.checksum != self.data.checksum:
            raise UsageError(
                f"the extra images are of {self.extra.data.name}, the net learns {self.data.name}. Attack images "
                "of the same data set."
            )
        # Known now, long before the other training ends and its weights or logits would not fit.
        for role, other in (("begin", self.begin), ("teacher", self.teacher)):
            ours = self.data
            theirs = getattr(other, "data", ours)  # a training or a conversion says what it was trained on
            if (theirs.shape, theirs.classes) != (ours.shape, ours.classes):
                raise UsageError(
                    f"{role} was trained for images {theirs.shape} of {theirs.classes} classes ({theirs.name}), "
                    f"{ours.name} has {ours.shape} and {ours.classes}. Give one that was trained for such images."
                )

    @property
    def validated(self) -> int:
        """Images behind every validation accuracy of the history."""
        return validated(self.data.split("val"), self.recipe.adversary)

    def compute(self, ctx: Context) -> Arrays:
        images = self.data.split("train")
        if self.limit is not None:
            images = Images(images.x[: self.limit], images.y[: self.limit])
        if self.extra is not None:
            images = Images(*(torch.cat(both) for both in zip(images, self.extra.images(ctx), strict=True)))
        return train(
            self.net,
            self.data.shape,
            self.data.classes,
            images,
            self.data.split("val"),
            self.recipe,
            Stream(("train", self.key)),
            ctx.scratch,
            ctx.progress,
            ctx.device,
            None if self.begin is None else ctx.open(self.begin).state_dict(),
            None if self.teacher is None else ctx.open(self.teacher),
        )

    def open(self, ctx: Context) -> Classifier:
        arrays = {name: torch.from_numpy(a) for name, a in ctx.load(self).items()}
        return restore(self.net, self.data.shape, self.data.classes, arrays)


def check_begin(net: Net, recipe: Recipe) -> None:
    """Raise UsageError where the noise of ``net`` begins too late in the recipe to be learnt."""
    if net.begins and (net.begins >= recipe.epochs or recipe.keep == "best"):
        raise UsageError(
            f"the noise of this net begins in epoch {net.begins} (from 0) of {recipe.epochs}, and "
            f"keep='{recipe.keep}'. Train longer, and write keep='last': the best epoch may have no noise."
        )


@cell
class Learn(Model):
    """A network that learns by its own rule; see :class:`~robassay.learning.Learner`.

    Args:
        net: the network.
        data: the data set; "train" is presented, "val" chooses the pass.
        seed: names the streams of weights and noise.
        limit: present only the first so many images; None for all.

    Raises (when computed):
        UsageError: fewer than one pass, no image to learn from or to choose by, or one class only.
    """

    net: Learner
    data: Source
    seed: int = 0
    limit: int | None = None

    @property
    def validated(self) -> int:
        """Images behind every validation accuracy of the history."""
        return len(self.data.split("val").y)

    def compute(self, ctx: Context) -> Arrays:
        images = self.data.split("train")
        if self.limit is not None:
            images = Images(images.x[: self.limit], images.y[: self.limit])
        val, rng = self.data.split("val"), Stream(("learn", self.key))
        return learn(self.net, self.data.shape, self.data.classes, images, val, rng, ctx.scratch, ctx.progress)

    def open(self, ctx: Context) -> Classifier:
        arrays = {name: torch.from_numpy(a) for name, a in ctx.load(self).items()}
        return restore(self.net, self.data.shape, self.data.classes, arrays)


@cell
class Mixed(Model):
    """A stochastic mixture: each inference of each image draws one of several models, uniformly.

    Args:
        members: one model at least, each trained by itself; see :class:`~robassay.classifier.Mixture`.
    """

    runs_network = False

    members: tuple[Model, ...]

    def compute(self, ctx: Context) -> Arrays:
        return {"members": torch.tensor(len(self.members))}

    def open(self, ctx: Context) -> Classifier:
        return Mixture([ctx.open(member) for member in self.members])


# A cell, not a part: what is mixed are trained models, not the descriptions of nets.
enlist("defences", "mixture", Mixed, "Tan et al. 2020, §V")


@cell
class Signed(Model):
    """A binarised model whose latent weights are their own signs: what a BNN-S can begin from.

    A deterministic one computes what it did. A BNN-S with these weights draws only its activations, while from small
    latent weights, which are fair coins, no signal reaches its last layer and it does not begin to learn.
    """

    runs_network = False

    of: Model

    def compute(self, ctx: Context) -> Arrays:
        return {"signed": torch.tensor(1)}

    def open(self, ctx: Context) -> Classifier:
        model = copy.deepcopy(ctx.open(self.of))  # the context may hand out the same one again
        layers = [m for m in model.modules() if isinstance(m, Binary)]
        if not layers:
            raise UsageError(f"{type(model).__name__} has no binarised layer. Give a trained BNN-D or BNN-S.")
        for layer in layers:
            layer.weight.copy_(layer.weight.sign())
        return model


@cell
class Quieted(Model):
    """The model ``of`` with its noise off; see :class:`~robassay.classifier.Quiet`."""

    runs_network = False

    of: Model

    def compute(self, ctx: Context) -> Arrays:
        return {"quiet": torch.tensor(1)}

    def open(self, ctx: Context) -> Classifier:
        return Quiet(ctx.open(self.of))
