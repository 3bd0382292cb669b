"""The verdict of an audit: the measured gap between what was claimed and what the strongest attacks leave.

NumPy only, so that a stored audit can be judged again anywhere. Rates are computed on the same images: claimed (as
stated), adequate (same loss and estimator, enough steps), union (worst of everything, per image).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robassay.folds import Rows, blocks, worst
from robassay.intervals import Estimate, Matrix, difference, rate

SCHEMA = 1
NO_ROBUSTNESS = 0.05
"""A union whose upper end is at most this says that there is no robustness."""

SWEEP, OWN = "sweep: ", "own rule"
"""Attacks that differ in the estimator alone are named so in the battery; one of them has the network's own rule."""
WEAKER = 0.03
"""A surrogate that leaves so much more than the best is named as weak."""

FLAGS = {
    "saturated": (0.05, "above"),
    "alignment": (0.6, "below"),
    "carriers": (5.0, "below"),
    "zero_gradient": (0.05, "above"),
    "tied": (0.01, "above"),
}
"""Indicators support a verdict, they never make one. Limits: specification of the audit, from measured nets."""

QUESTIONS = {
    "saturated": "On how many images is the softmax exactly 1 on every draw, or the CE gradient exactly 0?",
    "alignment": "Do the gradients of cross-entropy and margin point the same way (median cosine)?",
    "carriers": "How many of the EoT draws carry the CE gradient (median effective number)?",
    "zero_gradient": "On how many images is the margin gradient exactly 0?",
    "tied": "How many decisions are a tie of the two largest logits?",
}


class Evidence(NamedTuple):
    """What a verdict is made from."""

    clean: Rows
    claimed: Rows
    adequate: Rows
    battery: Mapping[str, Rows]
    """Every attack of the union by name, without the three above."""
    signals: Mapping[str, np.ndarray]
    """Per-image indicators, (N,) each; empty when not measured."""
    facts: Mapping[str, bool]
    """What was found out: stochastic, reproducible, coupled, differentiable, probabilities, detectors."""
    finalists: Sequence[Rows] = ()
    """Each image's strongest attacks of the battery, best first, on more draws; then only they count."""
    twin: Rows | None = None
    """An ordinary network that learnt the model's labels, under an attack on itself."""
    after: frozenset[str] = frozenset()
    """Attacks of the battery that had only what the adequate one had not broken in every draw."""


def judge(evidence: Evidence, delta: float, budget: str) -> dict[str, Any]:
    """The audit's result as a JSON value (schema 1).

    Args:
        evidence: decisions and indicators.
        delta: a gap smaller than this (in accuracy, 0.05 = 5 points) is not held against the claim.
        budget: "quick" never says that a claim holds, only that no flaw was found.
    """
    claimed, adequate, union = evidence.claimed, [evidence.claimed, evidence.adequate], _union(evidence)
    shared = blocks(union)
    lasting, reached = worst(adequate), worst(union)
    robust = rate(reached, shared)
    steps = difference(claimed.survives(), lasting, shared)
    masking = difference(lasting, reached, shared)
    gap = difference(claimed.survives(), reached, shared)
    stated = rate(claimed.survives(), blocks([claimed]))
    ordinary = rate(evidence.twin.survives()) if evidence.twin is not None else None
    none = _none(stated, ordinary, delta)
    verdict, cause = _decide(robust, steps, masking, gap, delta, none, budget)
    named = _named(evidence)
    winner = min(named, key=lambda name: float(named[name].survives().mean()))
    return {
        "schema": SCHEMA,
        "verdict": verdict,
        "cause": cause,
        "robustness": "none" if robust.high <= NO_ROBUSTNESS else "some",
        "sentence": _sentence(verdict, cause, stated, robust, gap),
        "next": _next(verdict, gap, delta, evidence.claimed.survives(), reached),
        "stochastic": bool(evidence.facts.get("stochastic", len(claimed.decisions) > 1)),
        "clean": as_json(rate(evidence.clean.survives(), blocks([evidence.clean]))),
        "claimed": as_json(stated),
        "adequate": as_json(rate(lasting, shared)),
        "robust": as_json(robust),
        "gap": as_json(gap),
        "g1": as_json(steps),
        "g2": as_json(masking),
        "ordinary": as_json(ordinary) if ordinary is not None else None,
        "winner": winner,
        "delta": delta,
        "budget": budget,
        "draws": max(len(e.decisions) for e in union),
        "attacks": [_attack(name, evidence, rows) for name, rows in named.items()],
        "checks": _checks(evidence),
    }


class Word(NamedTuple):
    """What the rates of an audit say."""

    verdict: str
    cause: str | None
    robustness: str
    sentence: str


def words_of(result: Mapping[str, Any], slack: float = 0.0) -> Word:
    """The verdict on an audit's result by the rates that it carries: that of :func:`judge`, if nothing was changed.

    Args:
        result: of schema 1, all of its rates computed.
        slack: added to every limit. Results are rounded to six digits, so a verdict may lie on the other side of one.
    """
    stated, robust, gap, steps, masking = (_estimate(result[name]) for name in ("claimed", "robust", "gap", "g1", "g2"))
    ordinary = None if result["ordinary"] is None else _estimate(result["ordinary"])
    none = _none(stated, ordinary, result["delta"]) + slack
    verdict, cause = _decide(robust, steps, masking, gap, result["delta"] + slack, none, result["budget"])
    robustness = "none" if robust.high <= NO_ROBUSTNESS + slack else "some"
    return Word(verdict, cause, robustness, _sentence(verdict, cause, stated, robust, gap))


def _estimate(rate: Mapping[str, Any]) -> Estimate:
    return Estimate(rate["value"], rate["low"], rate["high"], rate["n"])


def _none(stated: Estimate, ordinary: Estimate | None, delta: float) -> float:
    """A union whose upper end is at most this has what a network without any defence has."""
    return max(NO_ROBUSTNESS, stated.value / 10, 0.0 if ordinary is None else ordinary.value + delta)


def _named(evidence: Evidence) -> dict[str, Rows]:
    return {"claimed": evidence.claimed, "adequate": evidence.adequate, **evidence.battery}


def _union(evidence: Evidence) -> Sequence[Rows]:
    """Clean images belong to the union: an attack that makes an image easier must not count as robustness."""
    battery = evidence.finalists or list(evidence.battery.values())
    return [evidence.claimed, evidence.adequate, *battery, evidence.clean]


def _decide(
    robust: Estimate, steps: Estimate, masking: Estimate, gap: Estimate, delta: float, none: float, budget: str
) -> tuple[str, str | None]:
    """Verdict and cause; a union that ends below ``none`` is what a network without any defence has.

    Masking is an accusation: it has to be beyond δ by itself, and not merely the larger part of a gap that is.
    """
    if masking.low > delta and robust.high <= none:
        return "artefact", "both" if steps.low > delta else "masking"
    if gap.low > delta:
        if steps.low > delta and masking.low > delta:
            return "overstated", "both"
        if masking.low > delta or steps.low > delta:
            return "overstated", "masking" if masking.low > delta else "steps"
        return "overstated", "unclear"
    if gap.high <= delta:
        return ("no_flaw_found" if budget == "quick" else "holds"), None
    return "undecided", None


def _sentence(verdict: str, cause: str | None, claimed: Estimate, robust: Estimate, gap: Estimate) -> str:
    said, left = f"{100 * claimed.value:.0f} %", f"{100 * robust.value:.0f} %"
    points = f"{100 * gap.value:.0f} points"
    none = "; no robustness" if robust.high <= NO_ROBUSTNESS else ""
    why = {
        "steps": "the claimed attack stops too early",
        "masking": "the claimed attack's gradient is masked",
        "both": "the claimed attack stops too early and its gradient is masked",
        "unclear": "by too few steps or a masked gradient, which these images do not tell apart",
        None: "",
    }[cause]
    return {
        "artefact": f"The claimed {said} is an artefact: {why}, and {left} is left.",
        "overstated": f"The claim is overstated by {points}: {why}; {left} of the claimed {said} is left{none}.",
        "holds": f"The claim holds: {said} claimed, {left} under the strongest attack{none}.",
        "no_flaw_found": f"No flaw found at this budget: {said} claimed, {left} under the strongest attack{none}.",
        "undecided": f"Undecided: {said} claimed, {left} under the strongest attack, a gap of {points}, interval "
        f"{100 * gap.low:.0f} to {100 * gap.high:.0f}.",
    }[verdict]


def _next(verdict: str, gap: Estimate, delta: float, claimed: Matrix, reached: Matrix) -> str | None:
    """How many images and draws would decide an undecided case: the half-width shrinks with the root of their number.

    An image's difference varies by itself and by its draws. Where the draws' share is half of it or more, four times
    as many of them are asked for first: they cost no attack.
    """
    if verdict == "no_flaw_found":
        return "Run --budget standard to be allowed the word 'holds'."
    if verdict != "undecided":
        return None
    distance = abs(gap.value - delta)
    half = max(gap.high - gap.value, gap.value - gap.low)
    if distance < 0.005:
        return f"The gap lies on the limit of {100 * delta:.0f} points: state another --delta, or accept 'undecided'."
    draws = len(claimed)
    total = float(np.var(claimed.mean(0) - reached.mean(0)))
    noise = _noise(claimed) + _noise(reached)
    wider = 4 if draws > 1 and noise > total / 2 else 1
    shrunk = (half / distance) ** 2 * (1 - noise / total * (1 - 1 / wider) if total else 1.0)
    wanted = max(math.ceil(1.1 * gap.n * shrunk / 50) * 50, gap.n if wider > 1 else gap.n + 50)
    each = f" with {wider * draws} draws each" if draws > 1 else ""
    return f"About {wanted} images{each} would decide."


def _noise(survives: Matrix) -> float:
    """What draws (R, N) add to the variance of an image's mean, mean over images."""
    if len(survives) < 2:
        return 0.0
    return float((survives.var(0, ddof=1) / len(survives)).mean())


def _attack(name: str, evidence: Evidence, rows: Rows) -> dict[str, Any]:
    role = name if name in ("claimed", "adequate") else "union"
    return {
        "name": name,
        "role": role,
        "robust": as_json(rate(rows.survives(), blocks([rows]))),
        "queries": float(rows.queries.mean()),
        "gradients": float(rows.gradients.mean()),
        **({"after": "adequate"} if name in evidence.after else {}),
    }


def _checks(evidence: Evidence) -> list[dict[str, Any]]:
    facts = evidence.facts
    found = _guessing(evidence.clean)
    if facts:
        words = ("random: two passes over one image differ", "deterministic: repeated passes agree to the bit")
        told = words[0] if facts["stochastic"] else words[1]
        found.append(_check("stochastic", "Is the network random?", told, False))
        if not facts["reproducible"]:
            told = "no: it keeps state between calls or seeds itself; figures cannot be reproduced to the bit"
            found.append(_check("reproducible", "Do equal seeds give equal logits?", told, True))
        if facts["coupled"]:
            told = "yes: a rate depends on the batch it was measured in"
            found.append(_check("coupled", "Do an image's logits depend on its batch mates?", told, True))
        if facts["probabilities"]:
            told = (
                "yes: their logarithms are audited; return logits, or what the softmax rounds to 0 or 1 has no gradient"
            )
            found.append(_check("probabilities", "Does the output look like probabilities?", told, True))
        if not facts["differentiable"]:
            told = "no: differences, a transfer and searches are what is left; the true robustness may be lower"
            found.append(_check("differentiable", "Does a gradient reach the image?", told, True))
    found += _own_rule(evidence.battery)
    for name, values in evidence.signals.items():
        share = name in ("saturated", "zero_gradient", "tied")
        value = float(np.mean(values)) if share else float(np.nanmedian(values)) if not np.isnan(values).all() else None
        limit, side = FLAGS[name]
        flag = value is not None and (value > limit if side == "above" else value < limit)
        shown = "not measurable" if value is None else f"{100 * value:.0f} % of images" if share else f"{value:.2f}"
        found.append(_check(name, QUESTIONS[name], shown, flag, value))
    return found


def _guessing(clean: Rows) -> list[dict[str, Any]]:
    """Said of a network that knows no more than the commonest label: mostly its weights or the pixels' range are wrong.

    Images of a single label say nothing of it.
    """
    commonest = float(np.unique(clean.labels, return_counts=True)[1].max() / len(clean.labels))
    found = rate(clean.survives(), blocks([clean]))
    if commonest == 1 or found.low > commonest:
        return []
    interval = f"[{100 * found.low:.0f}, {100 * found.high:.0f}]"
    told = (
        f"no: {100 * found.value:.0f} % {interval} against {100 * commonest:.0f} %. "
        "Were the weights forgotten (--weights), is the network made for other images, or for pixels outside of [0,1]?"
    )
    return [_check("guessing", "Is it better than always naming the commonest label?", told, True, found.value)]


def _own_rule(battery: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """Whether the surrogate that a spiking network was trained with is about as strong as the best that was tried."""
    left = {n.removeprefix(SWEEP): rate(rows.survives()).value for n, rows in battery.items() if n.startswith(SWEEP)}
    if OWN not in left:
        return []
    best = min(left, key=lambda name: left[name])
    gap = left[OWN] - left[best]
    told = f"it leaves {100 * left[OWN]:.0f} %, {best} {100 * left[best]:.0f} %"
    question = "Is the network's own surrogate gradient as strong as the best that was tried?"
    return [_check("surrogate", question, told, gap > WEAKER, gap)]


def _check(name: str, question: str, answer: str, flag: bool, value: float | None = None) -> dict[str, Any]:
    return {"name": name, "question": question, "answer": answer, "flag": flag, "value": value}


def as_json(estimate: Estimate) -> dict[str, float | int | None]:
    """An estimate as a JSON value; what is no number becomes null, and so do the infinite bounds of a single image."""
    numbers = {k: (round(float(v), 6) if math.isfinite(v) else None) for k, v in estimate._asdict().items() if k != "n"}
    return {**numbers, "n": estimate.n}
