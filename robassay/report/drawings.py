"""Points of a plane as inline SVG, with ellipses and arrows, and decisions on one. No script needed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from robassay.report.charts import PALETTE
from robassay.report.pictures import picture

SIDE, EDGE, MARGIN = 360.0, 42.0, 12.0
"""Of the square that is drawn in, what is left of it and below for the axes' names, and what above and to the right."""
COLOURS = (*PALETTE, "#5546c2", "#8c564b")
"""Of the labels; further ones begin anew, with squares for discs."""
DEVIATIONS = 2.0
ARROW = 0.4
"""Length of the longest arrow, as a share of the square."""
FITTING = 40
"""Rounds in which the picture grows around its arrows; what is lacking is less by an eighth after each."""


def scatter_map(drawing: dict[str, Any]) -> Markup:
    """A scatter of the document: points by label, ellipses of two standard deviations, arrows from the origin.

    Args:
        drawing: see :class:`robassay.drawn.Scatter`.
    """
    view = View(drawing)
    parts = [view.axes(), *(_ellipse(view, *one) for one in _ellipses(drawing))]
    parts += [_point(view, at, label) for at, label in zip(drawing["xy"], drawing["labels"], strict=True)]
    parts += _arrows(view, drawing.get("arrows", []))
    parts += _names(view, drawing)
    label = escape(f"{drawing['caption']}: {drawing['xlabel']} and {drawing['ylabel']} of {drawing['n']} points")
    names = Markup(
        '<text x="{}" y="{}" text-anchor="middle">{}</text><text transform="translate(14 {}) rotate(-90)" '
        'text-anchor="middle">{}</text>'
    ).format(EDGE + SIDE / 2, SIDE + 2 * EDGE - 8, drawing["xlabel"], EDGE + SIDE / 2, drawing["ylabel"])
    view_box = f"0 {EDGE - MARGIN:g} {SIDE + EDGE + MARGIN:g} {SIDE + EDGE + MARGIN:g}"
    return Markup('<svg class="scatter" viewBox="{}" role="img" aria-label="{}">{}{}</svg>').format(
        view_box, label, Markup("").join(parts), names
    )


def decision_map(drawing: dict[str, Any]) -> Markup:
    """A plane of decisions: a colour per class, paler where draws disagree, and the three images as dots.

    Args:
        drawing: see :class:`robassay.drawn.Plane`.
    """
    decision, variance = (np.asarray(drawing[name])[::-1] for name in ("decision", "variance"))  # from the top
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS], np.uint8)
    alpha = np.round(255 * (1 - variance).clip(0, 1)).astype(np.uint8)
    uri = picture(np.concatenate([np.moveaxis(colours[decision % len(COLOURS)], -1, 0), alpha[None]]))
    step = drawing["at"][1] - drawing["at"][0]
    low, wide = drawing["at"][0] - step / 2, len(drawing["at"]) * step
    dots = [
        Markup('<circle cx="{0}" cy="{1}" r="4" class="seen"><title>class {2}</title></circle>').format(x, y, label)
        + _name(x, y - 13, label)
        for (x, y), label in zip(
            [
                (round(SIDE * (x - low) / wide, 1), round(SIDE * (1 - (y - low) / wide), 1))
                for x, y in drawing["points"]
            ],
            drawing["labels"],
            strict=True,
        )
    ]
    label = escape(f"{drawing['caption']}: decisions on the plane through three images")
    return Markup(
        '<svg class="scatter" viewBox="0 0 {0:g} {0:g}" role="img" aria-label="{1}"><image href="{2}" width="{0:g}" '
        'height="{0:g}" preserveAspectRatio="none"/>{3}</svg>'
    ).format(SIDE, label, uri, Markup("").join(dots))


def key_of(drawing: dict[str, Any]) -> list[tuple[int, Markup]]:
    """Labels that occur, each with its mark, for a legend; of a plane those that are decided."""
    every = [label for line in drawing.get("decision", []) for label in line] + drawing["labels"]
    return [
        (label, Markup('<svg class="mark" viewBox="2 2 6 6" aria-hidden="true">{}</svg>').format(_mark(5, 5, label)))
        for label in sorted(set(every))
    ]


class View:
    """From the plane to the picture: one scale for both axes, y upwards.

    Args:
        drawing: what has to fit in: all points and ellipses, and the origin where there are arrows.
    """

    def __init__(self, drawing: dict[str, Any]) -> None:
        corners = [np.asarray(drawing["xy"], np.float64).reshape(-1, 2)]
        for _, centre, half, _ in _ellipses(drawing):
            corners += [centre[None] - half.max(), centre[None] + half.max()]
        arrows = np.asarray(drawing.get("arrows", []), np.float64).reshape(-1, 2)
        if len(arrows) or not any(len(c) for c in corners):
            corners.append(np.zeros((1, 2)))
        every = np.concatenate(corners)
        low, high = every.min(0), every.max(0)
        # Arrows have a length in the picture, so what they need of the plane grows with it: until they fit.
        longest = max(float(np.linalg.norm(arrows, axis=1).max(initial=0.0)), 1e-12)
        for _ in range(FITTING):
            tips = ARROW * float(max(*(high - low), 1e-9)) * 1.08 * arrows / longest
            low, high = (f(np.concatenate([every, tips]), 0) for f in (np.min, np.max))
        self.middle = (low + high) / 2
        self.reach = float(max(*(high - low), 1e-9)) * 1.08
        self.scale = SIDE / self.reach

    def __call__(self, at: Any) -> tuple[float, float]:
        x, y = (np.asarray(at, np.float64) - self.middle) * self.scale
        return round(EDGE + SIDE / 2 + float(x), 1), round(EDGE + SIDE / 2 - float(y), 1)

    def axes(self) -> Markup:
        """The frame, and both ends of both axes in numbers."""
        frame = Markup('<rect class="frame" x="{0}" y="{0}" width="{1}" height="{1}"/>').format(EDGE, SIDE)
        low, high = self.middle - self.reach / 2, self.middle + self.reach / 2
        words = [(EDGE, SIDE + EDGE + 14, "start", low[0]), (SIDE + EDGE, SIDE + EDGE + 14, "end", high[0])]
        words += [(EDGE - 4, SIDE + EDGE, "end", low[1]), (EDGE - 4, EDGE + 10, "end", high[1])]
        word = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
        texts = [word.format(x, y, anchor, _short(value)) for x, y, anchor, value in words]
        return frame + Markup("").join(texts)


def _ellipses(drawing: dict[str, Any]) -> list[tuple[int, np.ndarray, np.ndarray, float]]:
    """Label, centre, half axes (larger first) and the angle of the larger one in degrees, against the clock."""
    found = []
    pairs = zip(drawing.get("centres", []), drawing.get("covariances", []), strict=True)
    for label, (centre, covariance) in enumerate(pairs):
        values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
        half = DEVIATIONS * np.sqrt(values.clip(0))[::-1]
        angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
        found.append((label, np.asarray(centre, np.float64), half, angle))
    return found


def _ellipse(view: View, label: int, centre: np.ndarray, half: np.ndarray, angle: float) -> Markup:
    x, y = view(centre)
    along, across = (f"{h * view.scale:.1f}" for h in half)
    return Markup('<ellipse rx="{}" ry="{}" transform="translate({} {}) rotate({})" stroke="{}"/>').format(
        along, across, x, y, f"{-angle:.1f}", COLOURS[label % len(COLOURS)]
    )


def _short(value: float) -> str:
    return (f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}").replace("-", "−")


def _names(view: View, drawing: dict[str, Any]) -> list[Markup]:
    """Each label in the middle of its points, so that no colour need be looked up."""
    places: dict[int, list[list[float]]] = {}
    for at, label in zip(drawing["xy"], drawing["labels"], strict=True):
        places.setdefault(label, []).append(at)
    return [_name(*view(np.median(held, axis=0)), label) for label, held in sorted(places.items())]


def _name(x: float, y: float, label: int) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="middle" class="name">{}</text>').format(
        round(x, 1), round(y + 4, 1), label
    )


def _point(view: View, at: list[float], label: int) -> Markup:
    return _mark(*view(at), label)


def _mark(x: float, y: float, label: int) -> Markup:
    """A disc; a square for labels that share their colour with an earlier one."""
    colour = COLOURS[label % len(COLOURS)]
    if label < len(COLOURS):
        return Markup('<circle cx="{}" cy="{}" r="2.6" fill="{}"/>').format(x, y, colour)
    box = '<rect x="{}" y="{}" width="4.8" height="4.8" fill="{}"/>'
    return Markup(box).format(round(x - 2.4, 1), round(y - 2.4, 1), colour)


def _arrows(view: View, arrows: list[list[float]]) -> list[Markup]:
    """Lines from the origin with a head; lengths in proportion to each other."""
    lengths = np.linalg.norm(np.asarray(arrows, np.float64).reshape(-1, 2), axis=1)
    longest = max(float(lengths.max(initial=0.0)), 1e-12)
    x, y = view((0.0, 0.0))
    found = []
    for label, (arrow, length) in enumerate(zip(arrows, lengths, strict=True)):
        if length == 0:
            continue
        right, up = (ARROW * SIDE * a / longest for a in arrow)
        colour = COLOURS[label % len(COLOURS)]
        turned = f"translate({x + right:.1f} {y - up:.1f}) rotate({-math.degrees(math.atan2(up, right)):.1f})"
        line = '<path class="arrow" d="M{} {}L{} {}" stroke="{}"/><path d="M0 0L-9 -4V4Z" transform="{}" fill="{}"/>'
        found.append(Markup(line).format(x, y, f"{x + right:.1f}", f"{y - up:.1f}", colour, turned, colour))
    return found
