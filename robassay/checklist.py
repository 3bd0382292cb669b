"""The published signs of obfuscated gradients, answered one by one from an audit's evaluations. NumPy only.

They are shown because reviewers ask for them. None of them makes a verdict: each row says on which networks its answer
is known to mislead. Rates compared are of the same images, as paired differences with 95 % intervals; a comparison is
"seen" only where its whole interval lies above zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from robassay.folds import Rows, blocks, same_images, worst
from robassay.intervals import Estimate, Matrix, difference, rate

Outcome = Literal["seen", "not seen", "not measured"]
SIGNS = "Athalye et al. 2018"
FAILURES = "Pintor et al. 2022"
BLACK = ("Square", "boundary", "hopskipjump", "transfer", "differences")
"""Attacks of the battery whose names begin so back-propagate through nothing but a network of the attacker's own."""
SAMPLING = "uniform search"
NOISE, LAST = "random noise", "last iterate"
"""Curves of the evidence that are known by name; the first of each figure is the claimed loss."""
ON, OFF, THROUGH = "noise on", "noise off", "noise on, attacked through noise off"
"""Rows of the table about the noise."""
DEAD = 0.05
"""Share of images without a gradient from which it counts as unavailable, as in the audit's indicators."""
UNSTABLE = 0.1
"""Share of images that may be decided in two ways."""
RISE = 0.02
"""A rise of robust accuracy with the radius that is no chance: one of several neighbouring pairs may well be."""
AGREEMENT = 0.25
"""A gradient whose median cosine with finite differences is less says next to nothing about the margin. On digits
smooth networks have .95 and more, binarised and spiking ones .3 and more with the rule they were trained with; a window
of .01 and noise in the backward pass at most .24. A quantised input has 0, honest or not: its steps have no slope."""


class Line(NamedTuple):
    """Evaluations along an axis; None where cells are missing."""

    x: Sequence[float]
    rows: Sequence[Rows | None]

    def at(self, x: float) -> Rows | None:
        """The evaluation at ``x``."""
        return next((r for at, r in zip(self.x, self.rows, strict=True) if math.isclose(at, x)), None)


class Sources(NamedTuple):
    """What the answers are made from; whatever is missing is "not measured"."""

    evaluations: Mapping[str, Rows]
    """"clean", "claimed", "adequate" and the battery by name."""
    curves: Mapping[str, Mapping[str, Line]]
    """Figures "eps" (over the radius) and "steps" of the evidence: lines by name."""
    tables: Mapping[str, Mapping[tuple[str, str], Rows]]
    """Table "noise" of the evidence by (row, column)."""
    signals: Mapping[str, np.ndarray]
    facts: Mapping[str, bool]
    eps: float
    after: frozenset[str] = frozenset()
    """Attacks that had only what the claimed one with enough steps had not broken in every draw."""


class Answer(NamedTuple):
    """An outcome and how it came about."""

    outcome: Outcome
    words: str
    estimate: Estimate | None = None
    difference: bool = False


def checklist(sources: Sources) -> list[dict[str, Any]]:
    """Five signs of obfuscated gradients, then six indicators of attack failure, as JSON values.

    Each row has source, criterion, question, answer, outcome ("seen", "not seen", "not measured"), misleads (on which
    networks the answer is known to be wrong, None where it is not) and, where there is one, value, low and high, of a
    paired difference where ``difference`` says so.
    """
    return [_row(source, one, sources) for source, ones in ((SIGNS, _SIGNS), (FAILURES, _FAILURES)) for one in ones]


class _Criterion(NamedTuple):
    name: str
    question: str
    answer: Callable[[Sources], Answer]
    misleads: str | None


def _row(source: str, one: _Criterion, sources: Sources) -> dict[str, Any]:
    found = one.answer(sources)
    bounds = dict.fromkeys(("value", "low", "high"))
    if found.estimate is not None:
        numbers = {name: float(getattr(found.estimate, name)) for name in bounds}
        bounds = {name: round(v, 6) if math.isfinite(v) else None for name, v in numbers.items()}
    named = {"source": source, "criterion": one.name, "question": one.question, "answer": found.words}
    return {**named, "outcome": found.outcome, "misleads": one.misleads, "difference": found.difference, **bounds}


# ------------------------------------------------------------------------------------------------- Athalye et al. 2018


def _one_step(s: Sources) -> Answer:
    lines = s.curves.get("steps", {})
    one = _first(lines).at(1) if lines else None
    line = lines.get(LAST, _first(lines)) if lines else None
    steps = _ten(line) if line is not None else None
    many = line.at(steps) if line is not None and steps is not None else None
    if one is None or many is None:
        return _nothing("one step and ten were not compared")
    return _compare(many, [one], f"{steps:g} steps leave {_share(many)}, one step {_share(one)}")


def _black_box(s: Sources) -> Answer:
    white = [s.evaluations[n] for n in ("claimed", "adequate") if n in s.evaluations]
    black = {n: rows for n, rows in s.evaluations.items() if n.startswith(BLACK)}
    if not white or not black:
        return _nothing("no attack without gradients was run")
    best = min(black, key=lambda name: float(black[name].survives().mean()))
    union = worst(white)
    rest = " on what that has not broken for certain" if best in s.after else ""
    told = f"the claimed attack with enough steps leaves {_percent(union)}, {best}{rest} {_share(black[best])}"
    return _gap(union, black[best].survives(), [*white, black[best]], told)


def _unbounded(s: Sources) -> Answer:
    line = _claimed(s, "eps")
    rows = line.rows[-1] if line is not None else None
    if line is None or rows is None:
        return _nothing("no attack without a bound was run")
    left = rate(rows.survives(), blocks([rows]))
    told = f"at radius {line.x[-1]:.3g}, which allows any image, {_words(left)} survive"
    return Answer("seen" if left.low > 0 else "not seen", told, left)


def _sampling(s: Sources) -> Answer:
    white = [s.evaluations[n] for n in ("claimed", "adequate") if n in s.evaluations]
    random = next((rows for n, rows in s.evaluations.items() if n.startswith(SAMPLING)), None)
    if random is None or not white:
        gradient = _at(s, "eps", None)
        random = _at(s, "eps", NOISE)
        white = [gradient] if gradient is not None else []
    if random is None or not white:
        return _nothing("no random samples were judged")
    told = (
        f"gradient attacks leave {_percent(worst(white))}, and with random samples {_percent(worst([*white, random]))}"
    )
    return _gap(worst(white), worst([*white, random]), [*white, random], told)


def _radius(s: Sources) -> Answer:
    line = _claimed(s, "eps")
    known = [(x, r) for x, r in zip(line.x, line.rows, strict=True) if r is not None] if line is not None else []
    larger = [(x, r) for x, r in known if x >= s.eps * (1 - 1e-9)]
    if len(larger) < 2:
        return _nothing("one radius only was attacked")
    for (small, before), (large, after) in pairwise(known):
        back = difference(after.survives(), before.survives(), blocks([before, after]))
        if back.low > RISE:
            told = f"from {small:.3g} to {large:.3g} robust accuracy rises from {_share(before)} to {_share(after)}"
            return Answer("seen", told, back, True)
    (small, before), (large, after) = larger[0], larger[-1]
    gain = difference(before.survives(), after.survives(), blocks([before, after]))
    left = rate(after.survives(), blocks([after]))
    told = f"from {small:.3g} to {large:.3g} robust accuracy goes from {_share(before)} to {_share(after)}"
    return Answer("seen" if gain.low <= 0 < left.low else "not seen", told, gain, True)


# -------------------------------------------------------------------------------------------------- Pintor et al. 2022


def _unavailable(s: Sources) -> Answer:
    if not s.facts.get("differentiable", True):
        return Answer("seen", "no gradient reaches the image")
    found = {n: s.signals[n] for n in ("saturated", "zero_gradient") if n in s.signals}
    if not found:
        return _nothing("gradients were not looked at")
    dead = rate(np.max([v.astype(np.float64) for v in found.values()], axis=0)[None])
    told = f"the gradient is exactly 0 or the softmax exactly 1 on {_words(dead)} of images"
    return Answer("seen" if dead.value > DEAD else "not seen", told, dead)


def _unstable(s: Sources) -> Answer:
    clean = s.evaluations.get("clean")
    if clean is None:
        return _nothing("clean images were not judged")
    if len(clean.decisions) == 1:
        return Answer("not seen", "the network is deterministic")
    two = (clean.decisions != clean.decisions[0]).any(0).astype(np.float64)
    found = rate(two[None])
    told = f"{len(clean.decisions)} draws decide {_words(found)} of clean images in more than one way"
    return Answer("seen" if found.value > UNSTABLE else "not seen", told, found)


def _silent(s: Sources) -> Answer:
    lines = s.curves.get("steps", {})
    if LAST not in lines:
        return _nothing("the iterates of one attack were not compared")
    x = _ten(lines[LAST])
    best, last = (line.at(x) if x is not None else None for line in (_first(lines), lines[LAST]))
    if best is None or last is None:
        return _nothing("the iterates of one attack were not compared")
    return _compare(last, [best], f"after {x:g} steps the last iterate leaves {_share(last)}, the best {_share(best)}")


def _incomplete(s: Sources) -> Answer:
    claimed, adequate = s.evaluations.get("claimed"), s.evaluations.get("adequate")
    if claimed is None or adequate is None:
        return _nothing("the claimed attack was not run with more steps")
    both = _percent(worst([claimed, adequate]))
    told = f"as claimed the attack leaves {_share(claimed)}, together with more steps {both}"
    return _compare(claimed, [claimed, adequate], told)


def _transfer(s: Sources) -> Answer:
    table = s.tables.get("noise", {})
    pairs = [(table.get((THROUGH, col)), there) for (row, col), there in table.items() if row == OFF]
    known = [(here, there) for here, there in pairs if here is not None]
    if not known:
        return _nothing("no stand-in was attacked and judged itself")
    here, there = min(known, key=lambda one: float(one[1].survives().mean()))
    told = f"images made for the network with its noise off leave it {_share(there)}, with its noise {_share(here)}"
    return _compare(here, [there], told)


# -------------------------------------------------------------------------------------------------------------- shared


def _first(lines: Mapping[str, Line]) -> Line:
    return next(iter(lines.values()))


def _ten(line: Line) -> float | None:
    """Ten steps, as the field's usual attack has them, or the next larger number there is."""
    return min((x for x in line.x if x >= 10), default=None)


def _claimed(s: Sources, figure: str) -> Line | None:
    lines = s.curves.get(figure)
    return _first(lines) if lines else None


def _at(s: Sources, figure: str, name: str | None) -> Rows | None:
    """The evaluation at the audit's radius of a curve by name; None for the first."""
    lines = s.curves.get(figure, {})
    line = lines.get(name) if name is not None else _claimed(s, figure)
    return line.at(s.eps) if line is not None else None


def _nothing(why: str) -> Answer:
    return Answer("not measured", why)


def _compare(one: Rows, others: Sequence[Rows], told: str) -> Answer:
    same_images([one, *others])
    return _gap(one.survives(), worst(others), [one, *others], told)


def _gap(one: Matrix, other: Matrix, behind: Iterable[Rows], told: str) -> Answer:
    found = difference(one, other, blocks(list(behind)))
    return Answer("seen" if found.low > 0 else "not seen", told, found, True)


def _share(rows: Rows) -> str:
    return _percent(rows.survives())


def _percent(survives: Matrix) -> str:
    return f"{100 * float(survives.mean()):.0f} %"


def _words(found: Estimate) -> str:
    return f"{100 * found.value:.0f} %"


_SIGNS = (
    _Criterion(
        "one step beats many",
        "Does one step do better than an iterative attack?",
        _one_step,
        "alarms on honest networks where the iterations are too few or too small (10 steps of eps/10)",
    ),
    _Criterion(
        "black box beats white box",
        "Do attacks without gradients do better than the claimed attack with enough steps?",
        _black_box,
        "silent on random networks: a search without gradients is useless there at a small budget",
    ),
    _Criterion(
        "unbounded attacks fail",
        "Does any image survive where every change is allowed?",
        _unbounded,
        "alarms where answers hardly depend on the image; silent where saturation ends at a large radius",
    ),
    _Criterion(
        "random samples find more",
        "Do random samples find errors where gradient attacks find none?",
        _sampling,
        "silent on most masked networks: in many dimensions errors are too rare to be met by chance",
    ),
    _Criterion(
        "a larger radius does not help",
        "Does the claimed loss fail to gain from a larger radius?",
        _radius,
        "silent where a masked gradient returns at a larger radius; alarms on discrete inputs and too few steps",
    ),
)
_FAILURES = (
    _Criterion(
        "unavailable gradients",
        "Is the gradient 0 on more than one image in twenty?",
        _unavailable,
        "alarms on honest networks behind a quantised input; silent on wrong gradients that are not 0 (narrow windows)",
    ),
    _Criterion(
        "unstable predictions",
        "Are more than a tenth of the clean images decided in two ways?",
        _unstable,
        "saturates on random networks, honest or not: with 100 draws 15 to 29 % of their images flip at least once",
    ),
    _Criterion(
        "silent success",
        "Does the attack return a worse image than one it passed?",
        _silent,
        "on random networks a lucky draw is no success; the best iterate is compared on fresh draws here",
    ),
    _Criterion(
        "incomplete optimisation",
        "Does the claimed attack gain from more steps?",
        _incomplete,
        "says that the attack is weak, not that the gradient is masked: honest networks lose 3 to 22 points, too",
    ),
    _Criterion(
        "transfer failure",
        "Do images made for a stand-in without noise fail on the network itself?",
        _transfer,
        "alarms where noise truly protects, and where it only moves the boundary",
    ),
    _Criterion(
        "unconstrained attack failure",
        "Does an attack without a bound leave any image?",
        _unbounded,
        "the same question as the third sign, with the same exceptions",
    ),
)


def faithfulness(agreement: np.ndarray) -> dict[str, Any]:
    """The indicator of :class:`robassay.landscape.Faithful` as a check, flagged by the median, see :data:`AGREEMENT`.

    Args:
        agreement: (N,) cosines in [−1,1]; NaN where there was nothing to compare.
    """
    known = agreement[~np.isnan(agreement)]
    value = float(np.median(known)) if len(known) else None
    told = "not measurable: the margin is flat around every image"
    if value is not None:
        less = float((known < AGREEMENT).mean())
        told = f"median cosine {value:.2f}; below {AGREEMENT:g} on {100 * less:.0f} % of {len(known)} images"
        told += ", as where inputs are rounded, whether robustness is real or not" if value < AGREEMENT else ""
    question = "Does the gradient agree with finite differences of the margin along random directions?"
    flag = value is not None and value < AGREEMENT
    return {"name": "faithful", "question": question, "answer": told, "flag": flag, "value": value}
