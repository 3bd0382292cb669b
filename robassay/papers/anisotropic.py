"""Learned anisotropic noise on MNIST: what its own attack says, and what is left under others (Eustratiadis et al.)."""

from __future__ import annotations

from pathlib import Path

from robassay.cells import Examples
from robassay.data import find
from robassay.folds import WorstCase
from robassay.papers.aligned import MNIST_EPS
from robassay.papers.assailed import CLEAN, WORST, Assailed
from robassay.papers.subjects import mnist_subjects
from robassay.study import Measure, Study, Table

IMAGES = 200
COLUMNS = ("clean", "PGD-10, EoT-50", "worst of all")


def anisotropic(scale: str, data_dir: Path | None) -> Study:
    """Clean, the paper's attack, and the worst of four losses, for the ablation m1 to m5 and a net without noise.

    The paper has Fashion-MNIST and colour images, so nothing is published for MNIST.
    """
    data = find("mnist", data_dir)
    subjects = {n: s for n, s in mnist_subjects(data, scale).items() if "seed" in n}
    nets = Assailed({n: (s.model,) for n, s in subjects.items()}, Examples(data, "test", 0, IMAGES), MNIST_EPS)
    entries: dict[tuple[str, str], Measure] = {}
    for name in subjects:
        entries[name, COLUMNS[0]] = nets.accuracy(name, CLEAN)
        entries[name, COLUMNS[1]] = nets.accuracy(name, "PGD")
        ((group, _),) = nets.left(name, WORST).items()
        entries[name, COLUMNS[2]] = Measure(group, WorstCase())
    note = next(iter(subjects.values())).note
    caption = f"Robust accuracy at L∞ eps {MNIST_EPS}, {IMAGES} MNIST images; m1–m5 as in Table 5"
    table = Table("ablation", caption + f" ({note})" * bool(note), tuple(subjects), COLUMNS, entries)
    return Study("anisotropic", f"Learned anisotropic noise on MNIST ({scale})", (table,), scale=scale)
