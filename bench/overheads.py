"""What a cell costs besides its computation, and a report: against joblib.Memory and matplotlib.

A cell of ours is a folder with arrays, a digest and a log, renamed into place; joblib.Memory keeps a pickle and its
metadata. Both are asked for 300 results of 50 images each, first computed (by nothing), then read again.

A report is the whole page of a study with one table, written from its store; pandas' Styler has the table alone, read
from the same store and folded by the same code: rates with intervals, coloured by their value.

Run:   python bench/overheads.py
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import joblib
import matplotlib
import numpy as np
import pandas
import torch
from harness import Figures, Rivals, compare, save
from matplotlib.figure import Figure
from scale import IMAGES, study

import robassay as ra
from robassay.attacks.gradient import PGD
from robassay.document import Document, study_in
from robassay.nets.mlp import MLP
from robassay.plan import plan
from robassay.recipe import Recipe
from robassay.report.figures import small_curves
from robassay.report.write import write_report
from robassay.store import Store

CELLS = 300
CURVES, POINTS = 8, 20
ROWS, COLS = 25, 20
ABOUT = {"robassay": "0", "torch": "2", "machine": "cpu", "finished": "2026-01-01T00:00:00Z", "seconds": 0.1}


def outcome() -> dict[str, np.ndarray]:
    """What the evaluation of 50 images keeps."""
    sizes = {name: np.zeros(IMAGES, np.float32) for name in ("linf", "l2", "l0")}
    return {"decisions": np.zeros((1, IMAGES), np.int16), "labels": np.zeros(IMAGES, np.int64), **sizes}


def store_rows(place: Path) -> list[dict[str, Any]]:
    keys = [cell.key for cell in plan(study(2 * CELLS).needs(), None).order][:CELLS]

    def compute(key: str) -> dict[str, np.ndarray]:
        return outcome()

    def ours(folder: Path, fresh: bool) -> Figures:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
            store = Store(folder)
            for key in keys:
                store.write(key, {**ABOUT, "cell": {"type": "Score"}}, outcome(), "")
            return {}
        store = Store(folder)
        assert sum(len(store.read(key)["decisions"]) for key in keys) == CELLS
        return {}

    def theirs(folder: Path, fresh: bool) -> Figures:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        kept = joblib.Memory(folder, verbose=0).cache(compute)
        assert sum(len(kept(key)["decisions"]) for key in keys) == CELLS
        return {}

    rivals, rows = Rivals("ours", ("joblib.Memory",)), []
    for name, fresh in (("written", True), ("read", False)):
        ways = {
            "ours": lambda fresh=fresh: ours(place / "ours", fresh),
            "joblib.Memory": lambda fresh=fresh: theirs(place / "theirs", fresh),
        }
        rows.append(compare(f"{CELLS} cells {name}", ways, 5, rivals))
    return rows


def rate(value: float, spread: float) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread, "n": 200}


def chart_row() -> dict[str, Any]:
    """A figure of eight curves with bands as SVG."""
    spread = np.random.default_rng(0).random((CURVES, POINTS)) * 0.1
    xs = np.linspace(0, 0.3, POINTS)
    lines = np.sort(0.05 + 0.8 * np.random.default_rng(1).random((CURVES, POINTS)), axis=1)[:, ::-1]

    def ours() -> Figures:
        series = [
            {"name": f"curve {i}", "dash": False, "points": [rate(v, s) for v, s in zip(line, band, strict=True)]}
            for i, (line, band) in enumerate(zip(lines, spread, strict=True))
        ]
        chart = {"x": xs.tolist(), "xlabel": "eps", "ylabel": "accuracy", "caption": "curves", "series": series}
        return {"bytes": float(len(small_curves(chart)))}

    def theirs() -> Figures:
        figure = Figure()
        axes = figure.subplots()
        for i, (line, band) in enumerate(zip(lines, spread, strict=True)):
            axes.plot(xs, line, label=f"curve {i}")
            axes.fill_between(xs, line - band, line + band, alpha=0.2)
        axes.set(xlabel="eps", ylabel="accuracy")
        axes.legend()
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg")
        return {"bytes": float(len(drawn.getvalue()))}

    return compare(
        "a chart of eight curves, as SVG", {"ours": ours, "matplotlib": theirs}, 7, Rivals("ours", ("matplotlib",))
    )


def report_row(place: Path) -> dict[str, Any]:
    """The page of a study of 500 evaluations, from its store."""
    data = ra.find("digits")
    model, on = ra.Train(MLP(), data, Recipe(epochs=2)), ra.Examples(data, "test", 0, IMAGES)
    rows, cols = tuple(f"eps {i}" for i in range(ROWS)), tuple(f"seed {j}" for j in range(COLS))

    def score(i: int, j: int) -> ra.Score:
        threat = ra.Threat("linf", 0.3 * (1 + i) / ROWS)
        return ra.Score(model, ra.Craft((model,), on, PGD(steps=5), threat, seed=j), repeats=1)

    scores = {(r, c): score(i, j) for i, r in enumerate(rows) for j, c in enumerate(cols)}
    entries = {at: ra.Measure(((one,),), ra.Accuracy()) for at, one in scores.items()}
    store = Store(place)
    zeros, rng = np.zeros(IMAGES, np.int64), np.random.default_rng(0)
    told = {name: zeros for name in ("index", "block", "queries", "draws", "gradients", "targets")}
    for one in scores.values():
        wrong = {"decisions": (rng.random((1, IMAGES)) < rng.random()).astype(np.int16)}
        arrays = {**outcome(), **told, **wrong, "shared": np.uint8(0), "targets": zeros - 1}
        store.write(one.key, {**ABOUT, "cell": {"type": "Score"}}, arrays, "")
    store.save_study("many", ra.Study("many", "Many", (ra.Table("t", "Many", rows, cols, entries),)).freeze())

    def ours() -> Figures:
        return {"bytes": float(write_report("many", place).stat().st_size)}

    def theirs() -> Figures:
        (found,) = Document(study_in(store, "many"), store).whole()["tables"]
        values = np.array([[cell["value"] for cell in line] for line in found["cells"]])
        words = [["{value:.1%} [{low:.1%}, {high:.1%}]".format(**cell) for cell in line] for line in found["cells"]]
        frame = pandas.DataFrame(words, index=list(rows), columns=list(cols))
        shown = frame.style.background_gradient("viridis", vmin=0, vmax=1, axis=None, gmap=values).set_caption("Many")
        return {"bytes": float(len(shown.to_html()))}

    ways = {"ours": ours, "pandas Styler, table alone": theirs}
    return compare(f"a report of {ROWS * COLS} cells", ways, 7, Rivals("ours", ("pandas Styler, table alone",)))


def main() -> None:
    torch.set_num_threads(1)
    matplotlib.use("svg")
    with tempfile.TemporaryDirectory() as place:
        rows = [*store_rows(Path(place)), report_row(Path(place) / "report")]
    save("overheads", [*rows, chart_row()])


if __name__ == "__main__":
    main()
