"""The cells of an experiment: which images, what an attack makes of them, what a model decides about them."""

from __future__ import annotations

import dataclasses
import json
import warnings
from typing import ClassVar

import torch
from torch import Tensor

from robassay.access import Access, Attack, GradientAccess, White, check_match
from robassay.cell import Arrays, Cell, Context, Model, Source, cell, describe
from robassay.classifier import Classifier
from robassay.data import Images, pixels
from robassay.errors import AttackWarning, RobassayError, UsageError
from robassay.goals import Aim, Untargeted
from robassay.policy import Once, Policy
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import REJECT, Goal, Norm, Threat, per_example

NORMS: tuple[Norm, ...] = ("linf", "l2", "l0")
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


class Attacked(Cell):
    """Attacked images: ``x_adv`` float32, ``x`` uint8 (N, C, H, W); targets and counts of questions int64 (N,)."""

    on: Examples
    """The clean ones."""


@cell
class Craft(Attacked):
    """Images that an attack makes.

    Args:
        sources: the models the attacker works on; several are attacked jointly.
        on: which images.
        attack, threat, access, aim: what is done, within what, with what knowledge, to what end.
        seed: names the attacker's streams.
        batch: images attacked together; part of identity, since noise may be shared within a batch.
        start: images of another attack on the same examples, from which attacks that can will begin.
        after: what was decided about the images of another attack within the same threat: those that every draw got
            wrong stay as that attack has left them. The rate is then that of both attacks, the second one's questions
            are those about what the first has left.

    Raises:
        UsageError: when it is made, for an attack that asks what ``access`` does not offer, for sources of other
            images, or for another attack on other examples or to another end; when it is computed, for images that
            are no pixels.
        RobassayError: when it is computed, for an attack that left the ball or the box, or returned other shapes.
    """

    sources: tuple[Model, ...]
    on: Examples
    attack: Attack
    threat: Threat
    access: Access | None = White()
    aim: Aim = Untargeted()
    seed: int = 0
    batch: int = 250
    start: Attacked | None = None
    after: Score | None = None

    def __post_init__(self) -> None:
        check_match(self.attack, self.access)
        first = self.after.on if self.after is not None else self
        if not isinstance(first, Craft) or (first.on, first.threat, first.aim) != (self.on, self.threat, self.aim):
            raise UsageError(
                "a Craft can only come after a Score of an attack with the same examples, threat and aim: give both "
                "the same `on`, `threat` and `aim`."
            )
        if self.after is not None and self.aim != Untargeted():
            raise UsageError("after=… keeps images that are decided wrongly, and a target asks for more. Leave it out.")
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
        x_adv, rows = self._left(ctx, images)
        told = {n: torch.zeros(len(images.y), dtype=torch.int64) for n in ("targets", "queries", "draws", "gradients")}
        told["targets"] -= 1
        begun = torch.from_numpy(ctx.load(self.start)["x_adv"]) if self.start is not None else None
        parts = rows.split(self.batch) if len(rows) else ()
        for i, at in enumerate(parts):
            rng = Stream(("craft", self.key, "batch", i))
            x, labels = pixels(images.x[at]).to(ctx.device), images.y[at].to(ctx.device)
            opened = self.access.open(models, len(x)) if self.access is not None else None
            if opened is not None and begun is not None:
                opened.start = begun[at].to(ctx.device)
            goal = self.aim.goal(labels, models[0].classes, opened, x, rng.child("aim"))
            made = self.attack(opened, x, goal, self.threat, rng.child("attack")).detach()
            _check(self.attack, self.threat, made, x)
            if isinstance(opened, GradientAccess):
                _tell_of_broken(opened)
            x_adv[at] = made.cpu()
            if goal.targeted:
                told["targets"][at] = goal.labels.cpu()
            if opened is not None:
                for name in ("queries", "draws", "gradients"):
                    told[name][at] = getattr(opened.spent, name)
            ctx.progress(i + 1, len(parts))
        return {"x_adv": x_adv, "x": images.x.clone(), **told}

    def _left(self, ctx: Context, images: Images) -> tuple[Tensor, Tensor]:
        """The images (N, C, H, W) as ``after`` has left them, and the rows that are to be attacked."""
        if self.after is None:
            return pixels(images.x), torch.arange(len(images.y))
        assert isinstance(self.after.on, Craft)
        decisions = torch.from_numpy(ctx.load(self.after)["decisions"]).long()
        wrong = ((decisions != images.y) & (decisions != REJECT)).all(0)
        made = torch.from_numpy(ctx.load(self.after.on)["x_adv"])
        return torch.where(per_example(wrong, made), made, pixels(images.x)), (~wrong).nonzero().flatten()


def _check(attack: Attack, threat: Threat, x_adv: Tensor, x: Tensor) -> None:
    """An attack is not trusted to keep the threat."""
    if x_adv.shape != x.shape:
        raise RobassayError(f"{attack} returned shape {tuple(x_adv.shape)} for {tuple(x.shape)}.")
    broken = (~threat.holds(x_adv, x)).sum().item()
    if broken:
        nan = x_adv.isnan().flatten(1).any(1).sum().item()
        what = f"NaN pixels in {nan}" if nan else f"a larger change than {threat} in {broken}"
        raise RobassayError(f"{attack} returned {what} of {len(x)} images.")


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


@part
class Disturbed:
    """Images with noise: what nobody aimed at a model. Every draw of a judge meets fresh noise.

    The noise is the same for all models that are judged, so that they can be compared image by image.

    Args:
        on: the clean images.
        by: an attack that asks nothing, such as Gaussian noise or JPEG.
        threat: how far it may go.
        seed: names the noise's streams.
    """

    kind: ClassVar[str] = "data"
    on: Examples
    by: Attack
    threat: Threat
    seed: int = 0

    def __post_init__(self) -> None:
        check_match(self.by, None)

    def draw(self, x: Tensor, batch: int, repeat: int) -> Tensor:
        """The images ``x`` (B, C, H, W) in [0,1], which are batch ``batch``, as the ``repeat``-th draw meets them.

        Raises:
            UsageError: the noise has no description from which its stream can be named.
            RobassayError: the noise left the ball or the box, or returned other shapes.
        """
        name = json.dumps(describe(self), sort_keys=True)
        rng = Stream(("disturbed", name, batch, repeat))
        noisy = self.by(None, x, Goal(torch.zeros(len(x), dtype=torch.int64)), self.threat, rng)
        _check(self.by, self.threat, noisy, x)
        return noisy


@cell
class Score(Cell):
    """The decisions of fresh draws on clean or attacked images. No accuracy is stored, only decisions.

    Args:
        target: the model that is judged.
        on: clean images, or what an attack or noise made of them.
        policy: how the defender decides.
        repeats: decisions per image; a deterministic model is asked once, but once per draw of a noise.
        seed: names the judge's streams, which no attacker ever uses.
        batch: images judged together.
        rounded: judge attacked images as 8-bit pixels, as a file would hold them; sizes are of the rounded change.
    """

    target: Model
    on: Examples | Attacked | Disturbed
    policy: Policy = Once()
    repeats: int = 20
    seed: int = 0
    batch: int = 250
    rounded: bool = False

    @property
    def examples(self) -> Examples:
        """The clean images behind ``on``."""
        return self.on if isinstance(self.on, Examples) else self.on.on

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        model = ctx.open(self.target)
        images = self.examples.load()
        clean = pixels(images.x)
        check_labels(images.y, model.classes, self.examples.data.name)
        stored = ctx.load(self.on) if isinstance(self.on, Attacked) else {}
        judged = torch.from_numpy(stored["x_adv"]) if stored else clean
        decided, sizes = [], []
        starts = range(0, len(clean), self.batch)
        for i, start in enumerate(starts):
            part = slice(start, start + self.batch)
            decisions, size = self._judge(model, judged[part], clean[part], i, ctx.device)
            decided.append(decisions.cpu())
            sizes.append(size)
            ctx.progress(i + 1, len(starts))
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
            **{norm: torch.cat([size[norm] for size in sizes]) for norm in NORMS},
            **counts,
        }

    def _judge(
        self, model: Classifier, judged: Tensor, clean: Tensor, batch: int, device: torch.device
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Decisions (repeats, B) and sizes (B,) of the change in every norm, the mean over the draws of a noise."""
        rng = Stream(("score", self.key, "batch", batch))
        if not isinstance(self.on, Disturbed):
            seen = (judged * 255).round() / 255 if self.rounded else judged
            return self._decide(model, seen.to(device), rng, self.repeats), _sizes(seen, clean)
        decisions, sizes = [], []
        for repeat in range(self.repeats):
            noisy = self.on.draw(clean, batch, repeat)
            seen = (noisy * 255).round() / 255 if self.rounded else noisy
            decisions.append(self._decide(model, seen.to(device), rng.child("noise", repeat), 1))
            sizes.append(_sizes(seen, clean))
        return torch.cat(decisions), {n: torch.stack([size[n] for size in sizes]).mean(0) for n in NORMS}

    def _decide(self, model: Classifier, x: Tensor, rng: Stream, repeats: int) -> Tensor:
        """Decisions int64 (repeats, B); (1, B) of a deterministic model. What its detectors refuse is REJECT."""
        h, refused = model.features(x), model.rejects(x)
        repeats = repeats if model.stochastic else 1
        decisions = []
        for start in range(0, repeats, REPEATS_AT_ONCE):
            n = min(REPEATS_AT_ONCE, repeats - start)
            logits = model.sample(h, n * self.policy.draws, rng.child("repeat", start))
            grouped = logits.reshape(n, self.policy.draws, len(x), model.classes)
            decisions += [torch.where(refused, REJECT, self.policy.decide(one)) for one in grouped]
        return torch.stack(decisions)


def _sizes(seen: Tensor, clean: Tensor) -> dict[str, Tensor]:
    return {norm: Threat(norm).size(seen, clean) for norm in NORMS}


def check_labels(labels: Tensor, classes: int, name: str) -> None:
    """Raise UsageError when a label (N,) of the data set ``name`` has no logit among ``classes``."""
    if labels.max() >= classes:
        raise UsageError(
            f"{name} has label {int(labels.max())}, the model has {classes} logits (labels 0 to {classes - 1}). "
            "Give the data set the model was trained for, or a model with more outputs."
        )
