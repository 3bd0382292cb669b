"""Spikes and membrane potentials over time as inline SVG, clean beside attacked. No script needed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from robassay.report.charts import PALETTE
from robassay.report.copies import Copies, of_words
from robassay.report.pictures import picture

WIDTH, HEIGHT, LEFT, BELOW = 300, 110, 34, 20
WHOSE = ("clean", "attacked")
COLOURS = (PALETTE[0], PALETTE[1])
"""Of what happens on the clean image, and on the attacked one."""


def spike_map(drawing: dict[str, Any], layer: int, image: int, which: int) -> Markup:
    """The raster of one layer: time to the right, a row per neuron, the most active on top.

    Args:
        drawing: a raster of the document.
        layer: among the layers that are shown.
        image: which one.
        which: 0 for the clean image, 1 for the attacked one.
    """
    shown = drawing["layers"][layer]
    trains, steps = shown["spikes"][which][image], shown["steps"]
    alpha = np.zeros((max(len(trains), 1), steps), np.uint8)
    for row, train in enumerate(trains):
        alpha[row, train] = 255
    colour = [int(COLOURS[which][i : i + 2], 16) for i in (1, 3, 5)]
    pixels = np.concatenate([np.stack([np.full_like(alpha, c) for c in colour]), alpha[None]])
    rate = drawing["rates"][which][image][shown["place"]]
    name = layer_name(drawing, shown["place"])
    label = f"{name}, image {image + 1}, {WHOSE[which]}: {_share(rate)} of steps with a spike"
    picture_ = Markup('<image href="{}" x="{}" y="4" width="{}" height="{}" preserveAspectRatio="none"/>').format(
        picture(pixels), LEFT, WIDTH - LEFT - 8, HEIGHT - BELOW - 4
    )
    side = Markup('<text transform="translate(12 {}) rotate(-90)" text-anchor="middle">{} neurons</text>').format(
        (HEIGHT - BELOW) / 2, len(trains)
    )
    return _svg(label, _frame(steps) + picture_ + side)


def potential_map(drawing: dict[str, Any], layer: int, image: int) -> Markup:
    """Potentials of the traced neurons of one layer: clean solid, attacked dashed, the threshold dotted."""
    shown = drawing["layers"][layer]
    lines = [[shown["potentials"][which][image][n] for which in (0, 1)] for n in range(len(shown["traces"]))]
    values = np.asarray(lines, np.float64)
    threshold = shown["threshold"]
    level = [threshold] if threshold is not None else []
    low, high = (f([*values[np.isfinite(values)], *level], default=0.0) for f in (min, max))
    scale = (HEIGHT - BELOW - 8) / max(high - low, 1e-9)
    across = lambda t: LEFT + (WIDTH - LEFT - 8) * (t + 0.5) / shown["steps"]
    up = lambda v: 6 + scale * (high - v)
    parts = [_frame(shown["steps"])]
    if level:
        parts.append(Markup('<path class="level" d="M{} {:.1f}H{}"/>').format(LEFT, up(threshold), WIDTH - 8))
    for number, pair in enumerate(lines):
        for which, line in enumerate(pair):
            points = "L".join(f"{across(t):.1f} {up(v):.1f}" for t, v in enumerate(line) if math.isfinite(v))
            dash = Markup(' stroke-dasharray="4 3"') if which else ""
            name = f"neuron {shown['traces'][number] + 1} of those shown, {WHOSE[which]}"
            path = Markup('<path class="line" d="M{}" stroke="{}"{}><title>{}</title></path>')
            parts.append(path.format(points, COLOURS[which], dash, name) if points else Markup(""))
    for value, y in ((high, 12), (low, HEIGHT - BELOW - 2)):
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 4, y, _number(value)))
    name = layer_name(drawing, shown["place"])
    label = f"{name}, image {image + 1}: potentials of {len(lines)} neurons, clean and attacked"
    return _svg(label, Markup("").join(parts))


def layer_name(drawing: dict[str, Any], place: int) -> str:
    """Such as "layer 2 of 5, 128 neurons"."""
    sizes = drawing["sizes"]
    return f"layer {place + 1} of {len(sizes)}, {sizes[place]:,} neurons"


def told(drawing: dict[str, Any], image: int) -> str:
    """What an image was taken for."""
    clean, attacked = (drawing["decisions"][which][image] for which in (0, 1))
    return f"class {drawing['labels'][image]}; clean taken for {clean}, attacked for {attacked}"


def rate_rows(drawing: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Heads and rows of the table of firing rates: a row per layer, two columns per image."""
    images = range(len(drawing["labels"]))
    heads = [f"image {i + 1}, {whose}" for i in images for whose in WHOSE]
    rows = []
    for place in range(len(drawing["sizes"])):
        rates = [drawing["rates"][which][i][place] for i in images for which in (0, 1)]
        rows.append({"layer": layer_name(drawing, place), **dict(zip(heads, rates, strict=True))})
    return heads, rows


def of_rates(drawing: dict[str, Any]) -> Copies:
    """The firing rates to be taken along; fractions, rounded in words only."""
    heads, rows = rate_rows(drawing)
    exact = of_words(drawing["caption"], ["Layer", *heads], rows, ["layer", *heads])
    said = [{**row, **{head: _share(row[head]) for head in heads}} for row in rows]
    return of_words(drawing["caption"], ["Layer", *heads], said, ["layer", *heads])._replace(csv=exact.csv)


def _share(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _number(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def _frame(steps: int) -> Markup:
    box = Markup('<rect class="frame" x="{}" y="4" width="{}" height="{}"/>').format(
        LEFT, WIDTH - LEFT - 8, HEIGHT - BELOW - 4
    )
    word = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    ends = ((LEFT, "start", "1"), (WIDTH - 8, "end", f"{steps} steps"))
    return box + Markup("").join(word.format(x, HEIGHT - 6, anchor, text) for x, anchor, text in ends)


def _svg(label: str, content: Markup) -> Markup:
    return Markup('<svg class="trains" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, escape(label), content
    )
