"""The evidence of an audit as small inline SVGs: curves with intervals, and maps of the loss. No script needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup, escape

from robassay.checklist import LAST, NOISE
from robassay.report.charts import PALETTE
from robassay.report.pictures import picture
from robassay.report.words import Rate, computed, full, radius

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 42
COLOURS = {"PGD scaled_ce": 1, "PGD margin": 2, NOISE: 6, LAST: 0}
"""So that a line looks the same in every figure of an audit; the claimed loss, the first line, has the first colour."""
MARKS = (
    "m-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0-6.8 0z",
    "m-3.2-3.2h6.4v6.4h-6.4z",
    "m0-4.6l4.6 4.6l-4.6 4.6l-4.6-4.6z",
    "m0-4.4l4.4 7.6h-8.8z",
    "m0 4.4l4.4-7.6h-8.8z",
)
"""Around a point: disc, square, diamond, triangles up and down."""
BLUE, WHITE, RED = (33, 102, 172), (247, 247, 247), (192, 57, 43)


def small_curves(chart: dict[str, Any]) -> Markup:
    """A figure of an audit's evidence: rates over evenly spaced values of its axis, with 95 % intervals as bands.

    Args:
        chart: as in a document; the points are rates, or None where they are not computed.
    """
    x = [_across(i, len(chart["x"])) for i in range(len(chart["x"]))]
    parts = [_grid(chart, x)]
    lines = list(zip(chart["series"], colours(chart), strict=True))
    parts += [_band(x, line["points"], colour) for line, colour in lines]
    parts += [_line(i, chart["x"], x, line, colour) for i, (line, colour) in enumerate(lines)]
    label = escape(f"{chart['caption']}; the numbers are in the table below")
    return Markup('<svg class="small-chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


def colours(chart: dict[str, Any]) -> list[str]:
    """A colour per line of a figure."""
    found = [COLOURS.get(line["name"], i if i == 0 else i + 2) for i, line in enumerate(chart["series"])]
    return [PALETTE[number % len(PALETTE)] for number in found]


def swatch(number: int, colour: str, dash: bool) -> Markup:
    """A stroke with its mark for a legend: that of line ``number`` of a figure."""
    dashes = Markup(' stroke-dasharray="5 4"') if dash else Markup("")
    return Markup(
        '<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true"><path d="M1 5h24" stroke="{}"{}/>{}</svg>'
    ).format(colour, dashes, _mark(number, 13, 5, colour))


def plane_map(plane: dict[str, Any], name: str) -> Markup:
    """A landscape of the evidence as a map: the gradient's direction to the right, the random one upwards.

    Args:
        plane: with "at" and the grids "margin", "entropy" and "wrong".
        name: which grid; the margin is white at 0, blue where the answer is right, red where it is wrong.
    """
    grid = np.asarray(plane[name], np.float64).T[::-1]  # rows from the top; first index: the gradient
    uri = picture(_coloured(grid, name == "margin"))
    reach = float(plane["at"][-1])
    box = 100 / reach  # half the side of the square of size eps
    ticks = [
        Markup('<text x="{}" y="216" text-anchor="{}">{}</text>').format(x, anchor, text)
        for x, anchor, text in (
            (0, "start", f"−{reach:g} eps"),
            (100, "middle", "image"),
            (200, "end", f"{reach:g} eps"),
        )
    ]
    words = {"margin": "margin", "entropy": "cross-entropy", "wrong": "share of images in error"}[name]
    label = f"{words} around the image, from {grid.min():.3g} to {grid.max():.3g}"
    return Markup(
        '<svg class="map" viewBox="-16 -2 222 236" role="img" aria-label="{}"><image href="{}" width="200" '
        'height="200" preserveAspectRatio="none"/><rect x="{}" y="{}" width="{}" height="{}"/>'
        '<circle cx="100" cy="100" r="3"/>{}<text x="100" y="231" text-anchor="middle">along the gradient →</text>'
        '<text transform="translate(-6 100) rotate(-90)" text-anchor="middle">a random direction →</text></svg>'
    ).format(label, uri, 100 - box, 100 - box, 2 * box, 2 * box, Markup("").join(ticks))


def reach(plane: dict[str, Any], name: str) -> str:
    """Smallest and largest value of a map."""
    low, high = (f(row for line in plane[name] for row in line) for f in (min, max))
    return f"{low:.3g} to {high:.3g}".replace("-", "−")


def _coloured(grid: np.ndarray, signed: bool) -> np.ndarray:
    """Colours uint8 (3, G, G): white at 0 and blue or red as far as the grid goes, or white to red."""
    most = max(float(np.abs(grid).max()), 1e-12)
    share = grid / most if signed else (grid - grid.min()) / max(float(np.ptp(grid)), 1e-12)
    ends = np.where(share[None] < 0, _column(BLUE), _column(RED))
    return np.asarray((_column(WHITE) + np.abs(share)[None] * (ends - _column(WHITE))).round(), np.uint8)


def _column(colour: tuple[int, int, int]) -> np.ndarray:
    return np.array(colour, np.float64)[:, None, None]


def _across(i: int, n: int) -> float:
    wide = WIDTH - LEFT - RIGHT
    return LEFT + wide * (i + 0.5) / max(n, 1)


def _up(value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(1.0, max(0.0, value)))


def _grid(chart: dict[str, Any], x: list[float]) -> Markup:
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            Markup('<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" text-anchor="end">{}</text>').format(
                LEFT,
                round(_up(tick), 1),
                WIDTH - RIGHT,
                LEFT - 6,
                round(_up(tick) + 4, 1),
                f"{100 * tick:.0f}" + (" %" if tick == 1 else ""),
            )
        )
    for at, place in zip(chart["x"], x, strict=True):
        word = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
        parts.append(word.format(round(place, 1), HEIGHT - BOTTOM + 18, radius(at)))
    title = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
    parts.append(title.format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, chart["xlabel"]))
    return Markup("").join(parts)


def _band(x: list[float], points: list[Rate], colour: str) -> Markup:
    """Intervals of neighbouring points as one area per unbroken stretch."""
    stretches: list[list[tuple[float, float, float]]] = [[]]
    for place, point in zip(x, points, strict=True):
        if computed(point) and point is not None and point["low"] is not None and point["high"] is not None:
            stretches[-1].append((place, point["low"], point["high"]))
        else:
            stretches.append([])
    drawn = []
    for run in stretches:
        corners = [(p, high) for p, _, high in run] + [(p, low) for p, low, _ in reversed(run)]
        outline = " ".join(f"{p:.1f},{_up(v):.1f}" for p, v in corners)
        if len(run) > 1:
            drawn.append(Markup('<polygon points="{}" fill="{}" class="band"/>').format(outline, colour))
    return Markup("").join(drawn)


def _mark(number: int, x: float, y: float, colour: str, told: str = "") -> Markup:
    """The mark of a line's points, so that lines can be told apart where colours cannot."""
    title = Markup("<title>{}</title>").format(told) if told else Markup("")
    return Markup('<path class="dot" d="M{} {}{}" fill="{}">{}</path>').format(
        f"{x:.1f}", f"{y:.1f}", MARKS[number % len(MARKS)], colour, title
    )


def _line(number: int, axis: list[float], x: list[float], line: dict[str, Any], colour: str) -> Markup:
    path, dots, pen = [], [], "M"
    for at, place, point in zip(axis, x, line["points"], strict=True):
        if not computed(point) or point is None:
            pen = "M"
            continue
        height = _up(point["value"])
        path.append(f"{pen}{place:.1f} {height:.1f}")
        pen = "L"
        told = f"{line['name']}, {radius(at)}: {full(point)}, n = {point['n']}"
        dots.append(_mark(number, place, height, colour, told))
    dashes = Markup(' stroke-dasharray="5 4"') if line["dash"] else Markup("")
    stroke = Markup('<path class="line" d="{}" stroke="{}"{}/>').format("".join(path), colour, dashes)
    return stroke + Markup("").join(dots)
