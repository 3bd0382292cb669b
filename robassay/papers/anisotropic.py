"""Learned anisotropic noise on MNIST: what its own attack says, and what is left under others (Eustratiadis et al.)."""

from __future__ import annotations

from pathlib import Path

from robassay.access import Access, Attack, White
from robassay.attacks.gradient import PGD
from robassay.cell import Model
from robassay.cells import Craft, Examples, Score
from robassay.data import find
from robassay.estimators import Backprop, ClosedForm
from robassay.folds import Accuracy, WorstCase
from robassay.papers.subjects import mnist_subjects
from robassay.study import Evaluation, Measure, Study, Table
from robassay.threat import Threat

EPS = 0.1
IMAGES = 200
COLUMNS = ("clean", "PGD-10, EoT-50", "worst of all")


def anisotropic(scale: str, data_dir: Path | None) -> Study:
    """Clean, the paper's attack, and the worst of four losses, for the ablation m1 to m5 and a net without noise.

    The paper has Fashion-MNIST and colour images, so nothing is published for MNIST.
    """
    data = find("mnist", data_dir)
    on = Examples(data, "test", 0, IMAGES)
    subjects = {n: s for n, s in mnist_subjects(data, scale).items() if "seed" in n}
    entries: dict[tuple[str, str], Measure] = {}
    for name, subject in subjects.items():
        noisy = name.startswith("A2SNN")
        clean, usual, others = _evaluations(subject.model, on, noisy)
        entries[name, COLUMNS[0]] = Measure((clean,), Accuracy())
        entries[name, COLUMNS[1]] = Measure((usual,), Accuracy())
        entries[name, COLUMNS[2]] = Measure((usual, *others, clean), WorstCase())
    note = next(iter(subjects.values())).note
    caption = f"Robust accuracy at L∞ eps {EPS}, {IMAGES} MNIST images; m1–m5 as in Table 5" + f" ({note})" * bool(note)
    table = Table("ablation", caption, tuple(subjects), COLUMNS, entries)
    return Study("anisotropic", f"Learned anisotropic noise on MNIST ({scale})", (table,), scale=scale)


def _evaluations(model: Model, on: Examples, noisy: bool) -> tuple[Evaluation, Evaluation, list[Evaluation]]:
    """Clean images, the paper's attack, and PGD-40 on other losses (with noise also the closed form)."""
    threat = Threat("linf", EPS)

    def under(attack: Attack, access: Access) -> Evaluation:
        return (Score(model, Craft((model,), on, attack, threat, access), repeats=100),)

    few = White(Backprop(10))
    others = [under(PGD(steps=40, loss=loss), few) for loss in ("ce", "scaled_ce", "margin")]
    if noisy:
        others.append(under(PGD(steps=40, loss="margin"), White(ClosedForm())))
    usual = under(PGD(steps=10, step=EPS / 10, keep="last"), White(Backprop(50)))
    return (Score(model, on, repeats=100),), usual, others
