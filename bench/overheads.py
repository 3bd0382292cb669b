"""What a cell costs besides its computation, and a report: against joblib.Memory and matplotlib.

A cell of ours is a folder with arrays, a digest and a log, renamed into place; joblib.Memory keeps a pickle and its
metadata. Both are asked for 300 results of 50 images each, first computed (by nothing), then read again.

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
import torch
from harness import Figures, Rivals, compare, save
from matplotlib.figure import Figure
from scale import IMAGES, study

from robassay.plan import plan
from robassay.report.figures import small_curves
from robassay.store import Store

CELLS = 300
CURVES, POINTS = 8, 20


def outcome() -> dict[str, np.ndarray]:
    """What the evaluation of 50 images keeps."""
    sizes = {name: np.zeros(IMAGES, np.float32) for name in ("linf", "l2", "l0")}
    return {"decisions": np.zeros((1, IMAGES), np.int16), "labels": np.zeros(IMAGES, np.int64), **sizes}


def store_rows(place: Path) -> list[dict[str, Any]]:
    keys = [cell.key for cell in plan(study(2 * CELLS).needs(), None).order][:CELLS]
    about = {"robassay": "0", "torch": "2", "machine": "cpu", "finished": "2026-01-01T00:00:00Z", "seconds": 0.1}

    def compute(key: str) -> dict[str, np.ndarray]:
        return outcome()

    def ours(folder: Path, fresh: bool) -> Figures:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
            store = Store(folder)
            for key in keys:
                store.write(key, {**about, "cell": {"type": "Score"}}, outcome(), "")
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


def main() -> None:
    torch.set_num_threads(1)
    matplotlib.use("svg")
    with tempfile.TemporaryDirectory() as place:
        rows = store_rows(Path(place))
    save("overheads", [*rows, chart_row()])


if __name__ == "__main__":
    main()
