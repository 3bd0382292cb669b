"""The papers' networks on MNIST: accuracy of a single pass and of ten, beside the published figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from robassay.cell import Model, Source
from robassay.cells import Examples, Score
from robassay.data import find
from robassay.defences.region import PUBLISHED
from robassay.defended import Regional
from robassay.folds import Accuracy
from robassay.models import Learn, Train
from robassay.papers.subjects import Subject, ge_accuracy, is_full, magnet_of, mnist_subjects, spiking_positions
from robassay.policy import MeanOf, Once, Policy
from robassay.study import Evaluation, Measure, Study, Table, Trainings

SLICE = 2500
"""Test images per cell."""
SINGLE, MEAN = "single pass", "mean of 10"


def networks_tan(scale: str, data_dir: Path | None) -> Study:
    """BSN and BNN."""
    data, subjects = _subjects(scale, data_dir, ("BSN", "BNN"))
    table = table_of("tan", "Tan et al., Table I: accuracy on MNIST", data, subjects, "logits")
    items = (table, curves_of("tan-training", subjects))
    return Study("networks-tan", f"Networks of Tan et al. on MNIST ({scale})", items, scale=scale)


def networks_ge(scale: str, data_dir: Path | None) -> Study:
    """The schemes that are one network."""
    data, subjects = _subjects(scale, data_dir, ("Standard", "Dropout", "RS-", "Distillation", "WRN"))
    table = table_of("schemes", "Ge et al., Table 2: accuracy on MNIST", data, subjects, "probs")
    items = (table, curves_of("ge-training", subjects))
    return Study("networks-ge", f"Networks of Ge et al. on MNIST ({scale})", items, scale=scale)


def positions(scale: str, data_dir: Path | None) -> Study:
    """Random spiking behind the first activation, and behind later ones."""
    data = find("mnist", data_dir)
    subjects = spiking_positions(data, is_full(scale))
    table = table_of("positions", "Ge et al., §4.2: a later layer that spikes costs accuracy", data, subjects, "probs")
    return Study("positions", f"Where random spiking stands ({scale})", (table,), scale=scale)


def deciders(scale: str, data_dir: Path | None) -> Study:
    """MagNet and region-based classification."""
    data, subjects = _subjects(scale, data_dir, ("Dropout",))
    table = _deciders(data, subjects["Dropout"], is_full(scale))
    return Study("deciders", f"MagNet and region-based classification on MNIST ({scale})", (table,), scale=scale)


def networks_e(scale: str, data_dir: Path | None) -> Study:
    """A2SNN and the defences it is compared with; its ablation over seeds is the study "anisotropic"."""
    data, others = _subjects(scale, data_dir, ("RSE", "PNI", "L2P", "Adv-", "Small"))
    _, noisy = _subjects(scale, data_dir, ("A2SNN m5, seed 0", "A2SNN m5, full", "LeNet++, seed 0"))
    items = (
        table_of(
            "competitors", "Defences that Eustratiadis et al. compare with: accuracy on MNIST", data, others, "probs"
        ),
        table_of("a2snn", "A2SNN (m5) and its network without noise: accuracy on MNIST", data, noisy, "logits"),
        curves_of("e-training", others | noisy),
    )
    return Study("networks-e", f"Networks of Eustratiadis et al. on MNIST ({scale})", items, scale=scale)


def _subjects(scale: str, data_dir: Path | None, starts: tuple[str, ...]) -> tuple[Source, dict[str, Subject]]:
    data = find("mnist", data_dir)
    return data, {n: s for n, s in mnist_subjects(data, scale).items() if n.startswith(starts)}


def table_of(
    name: str, caption: str, data: Source, subjects: dict[str, Subject], of: Literal["probs", "logits"]
) -> Table:
    """A row per network: single passes, the mean of ten (probabilities or logits), the published figure beside."""
    rows = {n: f"{n} ({s.note})" if s.note else n for n, s in subjects.items()}
    entries, published = {}, {}
    for n, subject in subjects.items():
        for column, policy in ((SINGLE, Once()), (MEAN, MeanOf(10, of))):
            entries[rows[n], column] = Measure((_judged(subject, data, policy),), Accuracy())
        if subject.published is not None:
            published[rows[n], MEAN if subject.averaged else SINGLE] = subject.published
    return Table(name, caption, tuple(rows.values()), (SINGLE, MEAN), entries, published)


def curves_of(name: str, subjects: dict[str, Subject]) -> Trainings:
    """Validation accuracy of the subjects over their epochs."""
    models = {n: s.model for n, s in subjects.items() if isinstance(s.model, (Train, Learn))}
    return Trainings(name, "Validation accuracy (one pass) while training", models)


def _deciders(data: Source, dropout: Subject, full: bool) -> Table:
    """Schemes of Ge et al. that decide in their own way, around the Dropout network."""
    many = PUBLISHED["mnist"]
    few = replace(many, votes=200)
    magnet, test = magnet_of(dropout, data, full), Examples(data, "test", 0, 10_000)
    entries = {"MagNet, its refusals are errors": _by(magnet, test, MeanOf(10), SLICE)}
    published = {"MagNet, its refusals are errors": ge_accuracy("MagNet")}
    for region, images in ((few, 500), (few, 20), (many, 20)):
        row = f"region-based, {region.votes:,} votes, {images} images"
        on = replace(test, stop=images)
        entries[row] = _by(Regional(dropout.model, region), on, region.policy, 100 if region is few else 10)
        published[row] = ge_accuracy("RC")
    column = "accuracy"
    measures = {(row, column): Measure((evaluation,), Accuracy()) for row, evaluation in entries.items()}
    beside = {(row, column): value for row, value in published.items()}
    return Table(
        "ge-deciders", "Ge et al., Table 2: MagNet and RC on MNIST", tuple(entries), (column,), measures, beside
    )


def _by(model: Model, on: Examples, policy: Policy, size: int) -> Evaluation:
    return tuple(Score(model, part, policy, repeats=1) for part in on.slices(size))


def _judged(subject: Subject, data: Source, policy: Once | MeanOf) -> Evaluation:
    on = Examples(data, "test", 0, subject.tested)
    return tuple(Score(subject.model, part, policy, repeats=10 if policy == Once() else 1) for part in on.slices(SLICE))
