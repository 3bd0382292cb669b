"""Units of work: immutable values that name everything they depend on, and so their own result.

A cell contains the cells it needs: the graph of work is the value. Its key is a hash of its type, its version and its
non-default fields; device and number of workers are no fields, so they cannot change a result's name.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

import numpy as np
import torch
from torch import Tensor

from robassay.access import Access, Attack, GradientAccess, White, check_match
from robassay.classifier import Classifier, Mixture, Net, Quiet
from robassay.data import Images, pixels
from robassay.errors import AttackWarning, RobassayError, UsageError
from robassay.goals import Aim, Untargeted
from robassay.policy import Once, Policy
from robassay.recipe import Recipe
from robassay.registry import USER_PREFIX, enlist, part, source_digest
from robassay.rng import Stream
from robassay.threat import REJECT, Threat
from robassay.training import restore, train

Arrays = dict[str, Tensor]
T = TypeVar("T", bound=type)

REPEATS_AT_ONCE = 25
"""Repeats whose logits are held at once while scoring; a constant, because it decides which bits a draw gets."""


class Context(Protocol):
    """What a computing cell may use."""

    device: torch.device
    scratch: Path

    def load(self, cell: Cell) -> dict[str, np.ndarray]:
        """The stored arrays of a cell."""

    def open(self, model: Model) -> Classifier:
        """The classifier of a model cell, in eval mode and frozen, on the device."""

    def progress(self, done: int, total: int) -> None:
        """Report how far the cell is."""


class Source(Protocol):
    """A data set: see :class:`robassay.data.Data`; identity is its name and checksum."""

    @property
    def name(self) -> str: ...
    @property
    def checksum(self) -> str: ...
    @property
    def classes(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def note(self) -> str: ...
    def split(self, name: Any) -> Images: ...


@dataclass_transform(frozen_default=True, eq_default=False)
def cell(cls: T) -> T:
    """Make a class a cell: a frozen dataclass, compared and hashed by its key."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    return made


class Cell(abc.ABC):
    """A pure computation with a name of its own."""

    version: ClassVar[int] = 1
    """Raised whenever the same fields would give another result."""

    @abc.abstractmethod
    def compute(self, ctx: Context) -> Arrays:
        """The result. Random numbers come from streams under :attr:`key` only."""

    @cached_property
    def key(self) -> str:
        """16 hex digits that name the result."""
        text = json.dumps(describe(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def needs(self) -> tuple[Cell, ...]:
        """The cells directly contained in the fields, without repeats."""
        found: dict[str, Cell] = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            for child in _cells_in(getattr(self, field.name)):
                found[child.key] = child
        return tuple(found.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _cells_in(value: object) -> list[Cell]:
    if isinstance(value, Cell):
        return [value]
    if isinstance(value, tuple):
        return [c for v in value for c in _cells_in(v)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [c for f in dataclasses.fields(value) for c in _cells_in(getattr(value, f.name))]
    return []


def describe(value: object, top: bool = True) -> Any:
    """A JSON value that identifies a part or cell: type, version and non-default fields; contained cells by key.

    Raises:
        UsageError: a field holds something that has no stable identity (a tensor, a function, a list).
    """
    if isinstance(value, Cell) and not top:
        return {"cell": value.key}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple):
        return [describe(v, False) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named: dict[str, Any] = {"type": _type_name(type(value))}
        version = getattr(type(value), "version", 1)
        if version != 1:
            named["version"] = version
        for f in dataclasses.fields(value):
            held = getattr(value, f.name)
            if f.metadata.get("key", True) and not _is_default(f, held):
                named[f.name] = describe(held, False)
        return named
    raise UsageError(
        f"{value!r} cannot be part of an experiment's name: a field holds a {type(value).__name__}. "
        "Use numbers, text, None, tuples of them, or other parts."
    )


def _is_default(field: dataclasses.Field[Any], held: object) -> bool:
    if field.default is not dataclasses.MISSING:
        return type(held) is type(field.default) and held == field.default
    return field.default_factory is not dataclasses.MISSING and held == field.default_factory()


def _type_name(cls: type) -> str:
    """Own classes by name; a user's class also by the content of its file, since nobody versions that."""
    module = cls.__module__
    if module.startswith("robassay."):
        return cls.__name__
    if module.startswith(USER_PREFIX):
        return f"{cls.__name__}@{module.removeprefix(USER_PREFIX)}"
    file = getattr(__import__("sys").modules.get(module), "__file__", None)
    return f"{cls.__name__}@{source_digest(file) if file else module}"


# ------------------------------------------------------------------------------------------------------------ models


class Model(Cell):
    """A cell that stands for a classifier."""

    @abc.abstractmethod
    def open(self, ctx: Context) -> Classifier:
        """The classifier, built from what the context has stored. The context freezes it and sets eval mode."""


@cell
class Train(Model):
    """A network trained on a data set.

    Args:
        net: the network.
        data: the data set; "train" is learnt, "val" chooses the epoch.
        recipe: how.
        seed: names the streams of weights, order and noise.
        limit: use only the first so many training images; None for all.
        begin: a model of the same net; its weights are the initial ones.
        teacher: its softmax(logits / recipe.temperature) on the unchanged training images, its noise off, are the
            labels that are learnt.

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

    def __post_init__(self) -> None:
        # Known now, long before the other training ends and its weights or logits would not fit.
        for role, other in (("begin", self.begin), ("teacher", self.teacher)):
            theirs, ours = (other.data if isinstance(other, Train) else self.data), self.data
            if (theirs.shape, theirs.classes) != (ours.shape, ours.classes):
                raise UsageError(
                    f"{role} was trained for images {theirs.shape} of {theirs.classes} classes ({theirs.name}), "
                    f"{ours.name} has {ours.shape} and {ours.classes}. Give one that was trained for such images."
                )

    def compute(self, ctx: Context) -> Arrays:
        images = self.data.split("train")
        if self.limit is not None:
            images = Images(images.x[: self.limit], images.y[: self.limit])
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


@cell
class Mixed(Model):
    """A stochastic mixture: each inference of each image draws one of several models, uniformly.

    Args:
        members: one model at least, each trained by itself; see :class:`~robassay.classifier.Mixture`.
    """

    members: tuple[Model, ...]

    def compute(self, ctx: Context) -> Arrays:
        return {"members": torch.tensor(len(self.members))}

    def open(self, ctx: Context) -> Classifier:
        return Mixture([ctx.open(member) for member in self.members])


# A cell, not a part: what is mixed are trained models, not the descriptions of nets.
enlist("defences", "mixture", Mixed, "Tan et al. 2020, §V")


@cell
class Quieted(Model):
    """A model with its noise off; see :class:`~robassay.classifier.Quiet`."""

    of: Model

    def compute(self, ctx: Context) -> Arrays:
        return {"quiet": torch.tensor(1)}

    def open(self, ctx: Context) -> Classifier:
        return Quiet(ctx.open(self.of))


# ---------------------------------------------------------------------------------------------------------- examples


@part
class Examples:
    """Consecutive images of a split: identity is the data's checksum and the range.

    Args:
        data: the data set.
        split: "train", "val" or "test".
        start, stop: range of positions in the split.
    """

    kind: ClassVar[str] = "data"
    data: Source
    split: str = "test"
    start: int = 0
    stop: int = 1000

    def load(self) -> Images:
        """The images (uint8) and labels.

        Raises:
            UsageError: the split has fewer images.
        """
        images = self.data.split(self.split)
        if not 0 <= self.start < self.stop <= len(images.y):
            raise UsageError(
                f"images {self.start}–{self.stop} of {self.data.name} {self.split} are not there: "
                f"the split has {len(images.y)}. Ask for --examples {len(images.y)} at most."
            )
        return Images(images.x[self.start : self.stop], images.y[self.start : self.stop])

    def slices(self, size: int) -> tuple[Examples, ...]:
        """The same range in pieces of at most ``size``, so that several workers can share it."""
        starts = range(self.start, self.stop, size)
        return tuple(dataclasses.replace(self, start=s, stop=min(s + size, self.stop)) for s in starts)


# ------------------------------------------------------------------------------------------------- attack and judge


@cell
class Craft(Cell):
    """Images that an attack makes.

    Args:
        sources: the models the attacker works on; several are attacked jointly.
        on: which images.
        attack, threat, access, aim: what is done, within what, with what knowledge, to what end.
        seed: names the attacker's streams.
        batch: images attacked together; part of identity, since noise may be shared within a batch.
        start: images of another attack on the same examples, from which attacks that can will begin.
    """

    sources: tuple[Model, ...]
    on: Examples
    attack: Attack
    threat: Threat
    access: Access | None = White()
    aim: Aim = Untargeted()
    seed: int = 0
    batch: int = 250
    start: Craft | None = None

    def __post_init__(self) -> None:
        check_match(self.attack, self.access)
        if self.start is not None and self.start.on != self.on:
            raise UsageError("a Craft can only start from images of the same examples: give both the same `on`.")

    def compute(self, ctx: Context) -> Arrays:
        models = [ctx.open(source) for source in self.sources]
        images = self.on.load()
        made: list[Tensor] = []
        spent: dict[str, list[Tensor]] = {"queries": [], "draws": [], "gradients": []}
        begun = torch.from_numpy(ctx.load(self.start)["x_adv"]) if self.start is not None else None
        starts = range(0, len(images.y), self.batch)
        for i, start in enumerate(starts):
            rng = Stream(("craft", self.key, "batch", i))
            x = pixels(images.x[start : start + self.batch]).to(ctx.device)
            labels = images.y[start : start + self.batch].to(ctx.device)
            opened = self.access.open(models, len(x)) if self.access is not None else None
            if opened is not None and begun is not None:
                opened.start = begun[start : start + self.batch].to(ctx.device)
            goal = self.aim.goal(labels, models[0].classes, opened, x, rng.child("aim"))
            x_adv = self.attack(opened, x, goal, self.threat, rng.child("attack")).detach()
            self._check(x_adv, x)
            if isinstance(opened, GradientAccess):
                _tell_of_broken(opened)
            made.append(x_adv.cpu())
            for name, counts in spent.items():
                counts.append(getattr(opened.spent, name) if opened else torch.zeros(len(x), dtype=torch.int64))
            ctx.progress(i + 1, len(starts))
        return {"x_adv": torch.cat(made), "x": images.x.clone(), **{n: torch.cat(c) for n, c in spent.items()}}

    def _check(self, x_adv: Tensor, x: Tensor) -> None:
        """An attack is not trusted to keep the threat."""
        if x_adv.shape != x.shape:
            raise RobassayError(f"{self.attack} returned shape {tuple(x_adv.shape)} for {tuple(x.shape)}.")
        broken = (~self.threat.holds(x_adv, x)).sum().item()
        if broken:
            nan = x_adv.isnan().flatten(1).any(1).sum().item()
            what = f"NaN pixels in {nan}" if nan else f"a larger change than {self.threat} in {broken}"
            raise RobassayError(f"{self.attack} returned {what} of {len(x)} images.")


def _tell_of_broken(opened: GradientAccess) -> None:
    """Warn of images whose gradient was not a number: where it was not, the attack stood still."""
    broken, steps = int((opened.broken > 0).sum()), int(opened.broken.sum())
    if broken:
        warnings.warn(
            f"the gradient was NaN or infinite for {broken} of {len(opened.broken)} images, in {steps} steps; there "
            "they did not move. Look for a square root of 0, a log of 0 or an overflow in the forward.",
            AttackWarning,
            stacklevel=2,
        )


@cell
class Score(Cell):
    """The decisions of fresh draws on clean or attacked images. No accuracy is stored, only decisions.

    Args:
        target: the model that is judged.
        on: clean images, or what an attack made of them.
        policy: how the defender decides.
        repeats: decisions per image; a deterministic model is asked once.
        seed: names the judge's streams, which no attacker ever uses.
        batch: images judged together.
    """

    target: Model
    on: Examples | Craft
    policy: Policy = Once()
    repeats: int = 20
    seed: int = 0
    batch: int = 250

    @property
    def examples(self) -> Examples:
        """The clean images behind ``on``."""
        return self.on.on if isinstance(self.on, Craft) else self.on

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        model = ctx.open(self.target)
        images = self.examples.load()
        clean = pixels(images.x)
        check_labels(images.y, model.classes, self.examples.data.name)
        stored = ctx.load(self.on) if isinstance(self.on, Craft) else {}
        judged = torch.from_numpy(stored["x_adv"]) if stored else clean
        decided = []
        starts = range(0, len(clean), self.batch)
        for i, start in enumerate(starts):
            rng = Stream(("score", self.key, "batch", i))
            decided.append(self._decide(model, judged[start : start + self.batch].to(ctx.device), rng).cpu())
            ctx.progress(i + 1, len(starts))
        sizes = {n: Threat(n).size(judged, clean) for n in ("linf", "l2", "l0")}
        counts = {n: torch.from_numpy(stored[n]) for n in ("queries", "draws", "gradients") if stored}
        blocks = torch.arange(len(clean)) // self.batch
        shared = torch.tensor(int(model.stochastic and model.rows == "shared"), dtype=torch.uint8)
        index = torch.arange(self.examples.start, self.examples.stop)
        return {
            "decisions": torch.cat(decided, 1).to(torch.int16),
            "labels": images.y.clone(),
            "index": index,
            "block": blocks,
            "shared": shared,
            **sizes,
            **counts,
        }

    def _decide(self, model: Classifier, x: Tensor, rng: Stream) -> Tensor:
        """Decisions int64 (repeats, B); (1, B) of a deterministic model. What its detectors refuse is REJECT."""
        h, refused = model.prefix(x), model.rejects(x)
        repeats = self.repeats if model.stochastic else 1
        decisions = []
        for start in range(0, repeats, REPEATS_AT_ONCE):
            n = min(REPEATS_AT_ONCE, repeats - start)
            logits = model.sample(h, n * self.policy.draws, rng.child("repeat", start))
            grouped = logits.reshape(n, self.policy.draws, len(x), model.classes)
            decisions += [torch.where(refused, REJECT, self.policy.decide(one)) for one in grouped]
        return torch.stack(decisions)


def check_labels(labels: Tensor, classes: int, name: str) -> None:
    """Raise UsageError when a label (N,) of the data set ``name`` has no logit among ``classes``."""
    if labels.max() >= classes:
        raise UsageError(
            f"{name} has label {int(labels.max())}, the model has {classes} logits (labels 0 to {classes - 1}). "
            "Give the data set the model was trained for, or a model with more outputs."
        )


def with_needs(cells: list[Cell]) -> list[Cell]:
    """The cells and everything they contain, each once, what is needed first."""
    ordered: dict[str, Cell] = {}

    def visit(one: Cell) -> None:
        if one.key in ordered:
            return
        for need in one.needs:
            visit(need)
        ordered[one.key] = one

    for one in cells:
        visit(one)
    return list(ordered.values())
