"""What an evaluator's answers about the zoo amount to: hits, false alarms, points left on the table. NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robassay.intervals import Estimate, Matrix, difference, rate
from robassay.verdict import as_json

NEAR = 0.05
"""A masked network is found by whoever comes this near to the best known accuracy."""
KNOWN = "known"
"""Name of the zoo's own measurement among those who deliver images."""
DEFINITIONS = {
    "found": "masked networks of which the tool's robust accuracy is at most 5 points above the best known",
    "alarms": "honest networks that the tool slanders: it flags a claim that stands, or (a tool without verdicts) "
    "states an accuracy whose whole interval lies below what anyone's images leave on fresh draws",
    "left": "accuracy that the tool's images leave on fresh draws, less what the best images leave, per network",
    "lucky": "accuracy that the tool's images leave on fresh draws, less what the tool states, per network",
}


@dataclass(frozen=True)
class Answer:
    """What one tool said of one network, and what its images do.

    Attributes:
        net, seed: which network of the zoo.
        masked: whether it is.
        robust: robust accuracy as the tool states it.
        right: per image (N,) the share of fresh draws that are right on the tool's images; drawn by the referee.
        flagged: whether the tool says that the claim is masked; None of a tool that gives no verdicts.
        verdict: its words; empty if there are none.
        seconds: what it took.
    """

    net: str
    seed: int
    masked: bool
    robust: Estimate
    right: tuple[float, ...]
    flagged: bool | None = None
    verdict: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """A JSON value from which :func:`from_json` makes the same answer."""
        return {**dataclasses.asdict(self), "robust": self.robust._asdict(), "right": list(self.right)}


def from_json(told: Mapping[str, Any]) -> Answer:
    """The answer that :meth:`Answer.as_json` wrote."""
    return Answer(**{**told, "robust": Estimate(**told["robust"]), "right": tuple(told["right"])})


Known = Mapping[tuple[str, int], Matrix]
"""Per network and seed the share (N,) of fresh draws that are right under the zoo's own attacker."""


def settle(answers: Mapping[str, Sequence[Answer]], known: Known) -> dict[str, Any]:
    """The referee's result as a JSON value.

    Args:
        answers: by tool; what the others delivered is part of what is possible.
        known: what the zoo's own attacker left, on the same images.

    Returns:
        ``tools``: per tool :func:`summed` and its networks; ``definitions`` of the figures.
    """
    best = {key: _best(key, answers, known) for one in answers.values() for key in map(_key, one)}
    tools = {}
    for tool, given in answers.items():
        rows = [_row(answer, *best[_key(answer)]) for answer in given]
        tools[tool] = {**summed(given, {key: right for key, (_, right) in best.items()}, rows), "nets": rows}
    return {"schema": 1, "tools": tools, "definitions": DEFINITIONS}


def summed(
    answers: Sequence[Answer], best: Known, rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float | int | None] | None]:
    """``found``, ``alarms``, ``left`` and ``lucky`` of one tool with intervals; None where no network counts.

    A rate's unit is the network, whose seeds are its draws; a difference's is the image.
    """
    found = [(row["net"], row["found"]) for row in rows if row["masked"]]
    alarms = [(row["net"], row["alarm"]) for row in rows if not row["masked"]]
    mine = np.array([a.right for a in answers])
    others = np.array([best[_key(a)] for a in answers])
    stated = np.array([[a.robust.value] * len(a.right) for a in answers])
    return {
        "found": _share(found),
        "alarms": _share(alarms),
        "left": as_json(difference(mine, others)),
        "lucky": as_json(difference(mine, stated)),
    }


def _key(answer: Answer) -> tuple[str, int]:
    return answer.net, answer.seed


def _best(key: tuple[str, int], answers: Mapping[str, Sequence[Answer]], known: Known) -> tuple[str, Matrix]:
    """Who leaves least of a network on the whole, and the share (N,) that is right then.

    One source for all images: the least per image would count the luck of its draws as strength.
    """
    sources = {tool: np.array(a.right) for tool, given in answers.items() for a in given if _key(a) == key}
    if key in known:
        sources = {KNOWN: np.asarray(known[key], dtype=np.float64), **sources}
    name = min(sources, key=lambda source: float(sources[source].mean()))
    return name, sources[name]


def _row(answer: Answer, source: str, best: Matrix) -> dict[str, Any]:
    mine, least = np.array([answer.right]), best[None]
    below = answer.robust.high < float(best.mean())
    return {
        "net": answer.net,
        "seed": answer.seed,
        "masked": answer.masked,
        "robust": as_json(answer.robust),
        "delivered": as_json(rate(mine)),
        "best": as_json(rate(least)),
        "best_by": source,
        "left": as_json(difference(mine, least)),
        "found": answer.robust.value <= float(best.mean()) + NEAR,
        "alarm": below if answer.flagged is None else answer.flagged,
        "flagged": answer.flagged,
        "verdict": answer.verdict,
        "seconds": answer.seconds,
    }


def _share(counted: Sequence[tuple[str, bool]]) -> dict[str, float | int | None] | None:
    """Share of networks for which something holds; n counts networks, each with the mean over its seeds."""
    if not counted:
        return None
    nets = sorted({net for net, _ in counted})
    means = [float(np.mean([held for one, held in counted if one == net])) for net in nets]
    return as_json(rate(np.array([means])))
