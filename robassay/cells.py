"""The cells of an experiment: which images, what an attack makes of them, what a model decides about them."""

from __future__ import annotations

import dataclasses
import warnings
from typing import ClassVar

import torch
from torch import Tensor

from robassay.access import Access, Attack, GradientAccess, White, check_match
from robassay.cell import Arrays, Cell, Context, Model, Source, cell
from robassay.classifier import Classifier
from robassay.data import Images, pixels
from robassay.errors import AttackWarning, RobassayError, UsageError
from robassay.goals import Aim, Untargeted
from robassay.models import Extra
from robassay.policy import Once, Policy
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import REJECT, Threat, euclidean

REPEATS_AT_ONCE = 25
"""Repeats whose logits are held at once while scoring; a constant, because it decides which bits a draw gets."""


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
        for source in self.sources:  # known now, long before a source is trained
            data = getattr(source, "data", self.on.data)
            if data.shape != self.on.data.shape:
                raise UsageError(
                    f"a source was trained for images {data.shape} ({data.name}), {self.on.data.name} has "
                    f"{self.on.data.shape}. Attack with models that take the same images."
                )

    def compute(self, ctx: Context) -> Arrays:
        models = [ctx.open(source) for source in self.sources]
        images = self.on.load()
        made: list[Tensor] = []
        wanted: list[Tensor] = []
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
            wanted.append(goal.labels.cpu() if goal.targeted else torch.full((len(x),), -1))
            for name, counts in spent.items():
                counts.append(getattr(opened.spent, name) if opened else torch.zeros(len(x), dtype=torch.int64))
            ctx.progress(i + 1, len(starts))
        told = {"targets": wanted, **spent}
        return {"x_adv": torch.cat(made), "x": images.x.clone(), **{n: torch.cat(c) for n, c in told.items()}}

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
        rounded: judge attacked images as 8-bit pixels, as a file would hold them; sizes are of the rounded change.
    """

    target: Model
    on: Examples | Craft
    policy: Policy = Once()
    repeats: int = 20
    seed: int = 0
    batch: int = 250
    rounded: bool = False

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
        if self.rounded:
            judged = (judged * 255).round() / 255
        decided = []
        starts = range(0, len(clean), self.batch)
        for i, start in enumerate(starts):
            rng = Stream(("score", self.key, "batch", i))
            decided.append(self._decide(model, judged[start : start + self.batch].to(ctx.device), rng).cpu())
            ctx.progress(i + 1, len(starts))
        sizes = {n: Threat(n).size(judged, clean) for n in ("linf", "l2", "l0")}
        told: tuple[str, ...] = ("queries", "draws", "gradients", "targets")
        counts = {n: torch.from_numpy(stored[n]) for n in told if n in stored}
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


@part
class Offline(Extra):
    """Images that attacks have made once, before a training, appended to its images with their true labels.

    Only changed images count: a minimum-distance attack returns an image unchanged where it finds nothing. Of those the
    ``keep`` nearest in L2 are taken and rounded to 8 bits.

    Source: Ge et al. 2020, §5.1.1: 12,000 targeted CW images of the training split, the first 10,000 kept.

    Args:
        crafts: attacks on images of the "train" split.
        keep: how many.
    """

    crafts: tuple[Craft, ...]
    keep: int = 10_000

    def __post_init__(self) -> None:
        if len({craft.on.data.checksum for craft in self.crafts}) > 1:
            raise UsageError("the attacks of one Offline are on images of several data sets. Give crafts of one.")
        for craft in self.crafts:
            if craft.on.split != "train":
                raise UsageError(
                    f"images of the split '{craft.on.split}' cannot be learnt from. Write Examples(data, 'train', …)."
                )
        if not self.crafts or self.keep < 1:
            raise UsageError("Offline needs one Craft at least and keep ≥ 1, such as Offline((craft,), keep=10_000).")

    @property
    def data(self) -> Source:
        return self.crafts[0].on.data

    def images(self, ctx: Context) -> Images:
        """The kept images (uint8, nearest first) and their true labels.

        Raises:
            RobassayError: the attacks have changed fewer images than are to be kept.
        """
        stored = [ctx.load(craft) for craft in self.crafts]
        x_adv, x = (torch.cat([torch.from_numpy(s[n]) for s in stored]) for n in ("x_adv", "x"))
        labels = torch.cat([craft.on.load().y for craft in self.crafts])
        distance = euclidean(x_adv - pixels(x))
        order = distance.argsort(stable=True)
        order = order[distance[order] > 0]
        if len(order) < self.keep:
            raise RobassayError(
                f"keep={self.keep}, but the attacks have changed {len(order)} of {len(x)} images only. Attack more "
                "images, give the attack more steps, or keep fewer."
            )
        kept = order[: self.keep]
        return Images((x_adv[kept] * 255).round().clamp(0, 255).to(torch.uint8), labels[kept])


def check_labels(labels: Tensor, classes: int, name: str) -> None:
    """Raise UsageError when a label (N,) of the data set ``name`` has no logit among ``classes``."""
    if labels.max() >= classes:
        raise UsageError(
            f"{name} has label {int(labels.max())}, the model has {classes} logits (labels 0 to {classes - 1}). "
            "Give the data set the model was trained for, or a model with more outputs."
        )
