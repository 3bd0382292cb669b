"""The networks of Ge et al. 2020, Table 2, on MNIST: accuracy by decision procedure, and by where spikes stand."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robassay.cell import Model
from robassay.cells import Examples, Score
from robassay.defences.random_spiking import RandomSpiking
from robassay.defences.region import PUBLISHED as REGIONS
from robassay.defended import Regional
from robassay.folds import Accuracy
from robassay.models import Quieted, Train
from robassay.papers.ge_columns import GREY, SLICE, Column, policy_of
from robassay.papers.ge_schemes import NAMES
from robassay.papers.subjects import magnet_of, mnist_subjects, spiking_positions
from robassay.policy import MeanOf, Once, Policy, VoteOf
from robassay.study import Evaluation, Measure, Table

SINGLE_NETS = ("Dropout", "Distillation", "RS-1", "RS-1-Dropout", "RS-1-Adv", "Dropout-Adv")
"""Schemes that are one random network."""


@dataclass(frozen=True)
class Trained:
    """The networks of Table 2 on MNIST, which learn all images; at "smoke" the first model of every scheme.

    Args:
        column: MNIST.
        scale: of the study.
    """

    column: Column
    scale: str

    @property
    def models(self) -> dict[str, Model]:
        """All schemes but RC."""
        if self.scale == "smoke":
            return {n: models[0] for n, models in self.column.models.items() if n != "RC"}
        subjects = mnist_subjects(self.column.kit.data, self.scale)
        made = {n: subjects[n].model for n in NAMES if n in subjects}
        return {**made, "MagNet": magnet_of(subjects["Dropout"], self.column.kit.data, self.scale == "full")}

    @property
    def images(self) -> Examples:
        """All test images."""
        return Examples(self.column.kit.data, "test", 0, 40 if self.scale == "smoke" else 10_000)

    @property
    def mean(self) -> list[Evaluation]:
        """Means of ten passes."""
        return [self._by(self.models[name], MeanOf(10)) for name in SINGLE_NETS]

    @property
    def off(self) -> list[Evaluation]:
        """The noise switched off: the paper's "Single pred."."""
        return [self._by(Quieted(self.models[name]), Once()) for name in SINGLE_NETS]

    @property
    def spiked(self) -> list[Evaluation]:
        """Mean of ten with random spiking behind one activation after the other."""
        kit = self.column.kit
        if self.scale == "smoke":
            nets = [Train(RandomSpiking(kit.net, position=i), kit.data, kit.recipe) for i in range(3)]
            return [self._by(net, MeanOf(10)) for net in nets]
        made = spiking_positions(kit.data, self.scale == "full").values()
        return [self._by(one.model, MeanOf(10), replace(self.images, stop=one.tested)) for one in made]

    def entry(self, name: str) -> Measure:
        """Accuracy as in Table 2."""
        if self.scale == "smoke":
            return self.column.accuracy(name)
        if name == "RC":
            region = REGIONS["mnist"] if self.scale == "full" else replace(REGIONS["mnist"], votes=200)
            on = replace(self.images, stop=500)
            votes = (Score(Regional(self.models["Dropout"], region), part, region.policy, 1) for part in on.slices(100))
            return Measure((tuple(votes),), Accuracy())
        return Measure((self._by(self.models[name], policy_of(name, self.column.kit)),), Accuracy())

    def procedures(self, told: str) -> Table:
        """The three decisions of §5.1, and a single random pass."""
        off, once, mean, vote = "noise off", "one pass", "mean of 10", "vote of 10"
        entries: dict[tuple[str, str], Measure] = {}
        for name, without, ten in zip(SINGLE_NETS, self.off, self.mean, strict=True):
            passes = tuple(replace(score, policy=Once(), repeats=10) for score in ten)
            shown = {off: without, once: passes, mean: ten}
            if self.scale != "small":
                shown[vote] = tuple(replace(score, policy=VoteOf(10)) for score in ten)
            entries |= {(name, col): Measure((found,), Accuracy()) for col, found in shown.items()}
        cols = (off, once, mean, vote)
        absent = {(name, vote): "full only" for name in SINGLE_NETS if (name, vote) not in entries}
        caption = (
            f"§5.1: accuracy by decision procedure on {GREY}; the paper's single prediction is the noise off{told}"
        )
        return Table("ge2020-procedures", caption, SINGLE_NETS, cols, entries, absent=absent)

    def positions(self, told: str) -> Table:
        """§4.2: where random spiking stands."""
        rows = tuple(f"behind activation {i + 1}" for i in range(len(self.spiked)))
        entries = {(r, "accuracy"): Measure((e,), Accuracy()) for r, e in zip(rows, self.spiked, strict=True)}
        caption = f"§4.2: accuracy on {GREY} with random spiking behind a later layer, mean of ten{told}"
        return Table("ge2020-positions", caption, rows, ("accuracy",), entries)

    def _by(self, model: Model, policy: Policy, on: Examples | None = None) -> Evaluation:
        return tuple(Score(model, part, policy, repeats=1) for part in (on or self.images).slices(SLICE))
