"""Frozen evidence of an audit and drawings, and the store → what the checklist is made from, what the report draws.

NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from robassay.checklist import Line, Sources, faithfulness
from robassay.errors import RobassayError
from robassay.folds import Rows
from robassay.store import Store
from robassay.verdict import Evidence

Read = Callable[[dict[str, Any] | None], Rows | None]
"""From a frozen measure to its evaluation, None where cells are missing."""
BESIDE = {"centres": (2,), "covariances": (2, 2), "arrows": (2,)}
"""What may stand beside the points, and the shape of one of them."""


def sources(evidence: Evidence, frozen: list[dict[str, Any]], eps: float, read: Read) -> Sources:
    """What the checklist is made from: the judged evaluations, and those behind curves and tables of the evidence."""
    named = {"clean": evidence.clean, "claimed": evidence.claimed, "adequate": evidence.adequate}
    curves = {
        item["id"]: {line["name"]: Line(item["x"], [read(p) for p in line["points"]]) for line in item["series"]}
        for item in frozen
        if item["kind"] == "curves"
    }
    tables = {
        item["id"]: {
            (row, col): found
            for row, line in zip(item["rows"], item["cells"], strict=True)
            for col, measure in zip(item["cols"], line, strict=True)
            if (found := read(measure)) is not None
        }
        for item in frozen
        if item["kind"] == "table"
    }
    attacks = {**named, **evidence.battery}
    return Sources(attacks, curves, tables, evidence.signals, evidence.facts, eps, evidence.after)


def slope_checks(frozen: list[dict[str, Any]], store: Store, done: set[str]) -> list[dict[str, Any]]:
    """Faithfulness of the gradient as an indicator, where it was measured."""
    keys = [key for item in frozen if item["kind"] == "faithfulness" for key in item["cells"]]
    if not keys or not done.issuperset(keys):
        return []
    return [faithfulness(np.concatenate([store.read(key, ("agreement",))["agreement"] for key in keys]))]


def plane(item: dict[str, Any], store: Store) -> dict[str, Any]:
    """A stored landscape as a JSON value: means over images on the grid, and the share of images in error there."""
    found = store.read(item["cell"])
    margin = found["margin"].astype(np.float64)
    grids = {
        "margin": margin.mean(0),
        "entropy": found["entropy"].astype(np.float64).mean(0),
        "wrong": (margin > 0).mean(0),
    }
    named = {name: item[name] for name in ("kind", "id", "caption")}
    told = {name: np.round(grid, 5).tolist() for name, grid in grids.items()}
    return {
        **named,
        "at": np.round(found["at"].astype(np.float64), 4).tolist(),
        **told,
        "n": len(margin),
        "keys": [item["cell"]],
    }


def scatter(item: dict[str, Any], store: Store) -> dict[str, Any]:
    """A frozen scatter with its points as a JSON value.

    Raises:
        RobassayError: the cell has no points, or of another shape.
    """
    held = store.read(item["cell"])
    xy, labels = held.get("xy"), held.get("labels")
    if xy is None or labels is None or xy.shape != (*labels.shape, 2) or labels.ndim != 1 or not np.isfinite(xy).all():
        shapes = ", ".join(f"{name} {array.shape}" for name, array in held.items())
        raise RobassayError(
            f"'{item['id']}' cannot be drawn: its cell has {shapes}, and a scatter needs finite 'xy' (N, 2) and "
            "'labels' (N,). Give it a cell that computes them."
        )
    beside = {name: np.asarray(held[name], np.float64) for name in BESIDE if name in held}
    for name, array in beside.items():
        if array.shape[1:] != BESIDE[name]:
            wanted = " × ".join(str(n) for n in ("K", *BESIDE[name]))
            raise RobassayError(f"'{name}' of '{item['id']}' has shape {array.shape}; a scatter needs {wanted}.")
    if ("covariances" in beside) != ("centres" in beside):
        raise RobassayError(f"'{item['id']}' has centres or covariances, and an ellipse needs both of them.")
    named = {name: item[name] for name in ("kind", "id", "caption", "xlabel", "ylabel")}
    return {
        **named,
        "xy": np.round(xy.astype(np.float64), 4).tolist(),
        "labels": labels.tolist(),
        **{name: np.round(array, 6).tolist() for name, array in beside.items()},
        "n": len(labels),
        "keys": [item["cell"]],
    }


def section(item: dict[str, Any], store: Store) -> dict[str, Any]:
    """A frozen plane of decisions as a JSON value; the rows of its grids from below."""
    held = store.read(item["cell"])
    return {
        **{name: item[name] for name in ("kind", "id", "caption")},
        "at": np.round(held["at"].astype(np.float64), 4).tolist(),
        "decision": held["decision"].tolist(),
        "variance": np.round(held["variance"].astype(np.float64), 3).tolist(),
        "points": np.round(held["points"].astype(np.float64), 4).tolist(),
        "labels": held["labels"].tolist(),
        "keys": [item["cell"]],
    }


def raster(item: dict[str, Any], store: Store) -> dict[str, Any] | None:
    """Recorded spikes and potentials as a JSON value; None where the network has no layer that told.

    In "layers", of each shown: "spikes"[clean, attacked][image][neuron] are the steps, from 0, at which a neuron
    fired, and "potentials"[clean, attacked][image][trace] the values at each step of the shown neurons "traces".
    """
    held = store.read(item["cell"])
    if not held["layers"].size:
        return None
    named = {name: item[name] for name in ("kind", "id", "caption")}
    return {
        **named,
        "labels": held["labels"].tolist(),
        "decisions": held["decisions"].tolist(),
        "rates": np.round(held["rates"].astype(np.float64), 5).tolist(),
        "sizes": held["sizes"].tolist(),
        "layers": [_layer(held, k, int(place)) for k, place in enumerate(held["layers"])],
        "keys": [item["cell"]],
    }


def _layer(held: dict[str, np.ndarray], k: int, place: int) -> dict[str, Any]:
    spikes, threshold = held[f"spikes_{k}"], float(held["thresholds"][place])
    potentials = held.get(f"potentials_{k}")
    traced = np.moveaxis(potentials.astype(np.float64), 3, 2) if potentials is not None else np.zeros((2, 0, 0, 0))
    return {
        "place": place,
        "steps": spikes.shape[2],
        "threshold": None if np.isnan(threshold) else round(threshold, 5),
        "spikes": [[[np.flatnonzero(n).tolist() for n in image.T] for image in half] for half in spikes],
        "traces": held[f"traces_{k}"].tolist() if potentials is not None else [],
        "potentials": np.round(traced, 3).tolist(),
    }
