"""Numbers and short phrases as a reader sees them; the one place that says how a rate is written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

Rate = Mapping[str, Any] | None
"""{"value", "low", "high", "n"}, or None where the cells it needs are not computed."""

NOT_COMPUTED = "not computed"
VERDICTS = {
    "artefact": "Artefact",
    "overstated": "Overstated",
    "holds": "Holds",
    "no_flaw_found": "No flaw found",
    "undecided": "Undecided",
}
KNOWLEDGE = {
    "white": "the attacked network itself, with its weights and gradients",
    "scores": "its logits could be asked for",
    "decisions": "its decisions could be asked for",
    "substitute": "a network trained from its answers",
    "translucent": "networks of the same kind, trained apart from it",
    "transfer": "another network",
    "none": "nothing was asked: noise, compression",
}
"""What the attacker knew of the network that is judged, from the most to the least."""
CAUSES = {
    "steps": "too few steps",
    "masking": "masked gradient",
    "both": "too few steps and masked gradient",
    "unclear": "too few steps or masked gradient",
}
WINNERS = {"claimed": "the claimed attack itself", "adequate": "the claimed attack with enough steps"}
SOURCES = {
    "Athalye et al. 2018": "Signs of obfuscated gradients (Athalye et al. 2018, as He et al. 2019 list them)",
    "Pintor et al. 2022": "Indicators of attack failure (Pintor et al. 2022)",
}
DIFFERS = "paired difference"
COUNTED = {
    "artefact": ("artefact", "artefacts"),
    "overstated": ("overstated", "overstated"),
    "holds": ("holds", "hold"),
    "no_flaw_found": ("without a flaw found", "without a flaw found"),
    "undecided": ("undecided", "undecided"),
}


def missing(rate: Rate) -> str:
    """Why there is no value to show, in a word or three."""
    return str(rate["absent"]).split(": ")[0] if rate is not None and rate.get("absent") else NOT_COMPUTED


def computed(rate: Rate) -> bool:
    """Whether there is a value to show."""
    return rate is not None and rate["value"] is not None


def digits(value: float, unit: str = "rate") -> str:
    """One number without its unit: a fraction in per cent with one decimal, anything else with three digits."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    # Adding 0.0 turns a rounded −0.0 into 0.0.
    text = f"{round(100 * value, 1) + 0.0:.1f}" if unit in ("rate", "points") else f"{value:.3g}"
    return text.replace("-", "−")


def amount(value: float | None, unit: str = "rate") -> str:
    """One number with its unit: ``51.2 %``, ``46.9 points``, ``1.34``."""
    if value is None:
        return NOT_COMPUTED
    return digits(value, unit) + {"rate": " %", "points": " points"}.get(unit, "")


def interval(rate: Rate, unit: str = "rate") -> str:
    """The 95 % interval alone, ``[44.1, 58.0]``; empty where there is none."""
    if not computed(rate) or rate is None or rate["low"] is None or rate["high"] is None:
        return ""
    return f"[{digits(rate['low'], unit)}, {digits(rate['high'], unit)}]"


def full(rate: Rate, unit: str = "rate") -> str:
    """Value and interval: ``51.2 % [44.1, 58.0]``, or "not computed"."""
    if not computed(rate) or rate is None:
        return missing(rate)
    return f"{amount(rate['value'], unit)} {interval(rate, unit)}".strip()


def typeset(text: str) -> str:
    """A sentence with real minus signs, and no line break between a number and its per cent: ``−3.1``, ``12 %``."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", re.sub(r"(?<![\w.)\]-])-(?=\d)", "−", text))


def radius(eps: float) -> str:
    """A radius as the field writes it: 0.1, but 8/255 where only that is a round number."""
    levels = eps * 255
    if float(f"{eps:.3g}") != eps and eps <= 1 and abs(levels - round(levels)) < 1e-4:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def ball(threat: Mapping[str, Any]) -> str:
    """A threat in words: ``L∞ ≤ 0.1``; without a radius the smallest distance is sought."""
    norm = {"linf": "L∞", "l2": "L₂", "l0": "L₀"}.get(threat["norm"], str(threat["norm"]))
    return f"{norm}, smallest distance" if threat["eps"] is None else f"{norm} ≤ {radius(threat['eps'])}"


def sample(audit: Mapping[str, Any]) -> str:
    """On how many images and draws a verdict rests."""
    n = next((audit[name]["n"] for name in ("robust", "claimed", "clean") if computed(audit[name])), None)
    images = "images: not computed" if n is None else f"{n:,} images"
    return f"{images} × up to {audit['draws']} fresh draws" if audit["stochastic"] else f"{images}, deterministic"


def tally(audits: list[dict[str, Any]]) -> str:
    """All verdicts in one line: ``5 networks audited: 2 artefacts, 1 overstated, 2 hold``."""
    words = []
    for name, (one, many) in COUNTED.items():
        count = sum(audit["verdict"] == name for audit in audits)
        if count:
            words.append(f"{count} {one if count == 1 else many}")
    return f"{len(audits)} network{'s' if len(audits) > 1 else ''} audited: {', '.join(words)}"


def warnings(document: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the first number."""
    found, origin = [], document["provenance"]
    if document["scale"] == "smoke":
        found.append("Smoke scale: these numbers show that everything runs, not what is true of the networks.")
    if origin["missing"]:
        total = origin["cells"] + origin["missing"]
        found.append(f"Missing: {origin['missing']:,} of {total:,} cells; what needs them is “{NOT_COMPUTED}”.")
    if origin["mixed"]:
        found.append(
            "The cells come from different machines or torch versions: equal to within rounding, not to the bit."
        )
    return found


def recomputing(command: str) -> str:
    """The command that computes one cell again and compares its bits; empty where the study was no `robassay run`."""
    verb = "robassay run "
    return f"robassay verify {command.removeprefix(verb)} --cell KEY" if command.startswith(verb) else ""


def lasted(hours: float) -> str:
    """A time in the unit that suits it: "16 s", "4.2 minutes", "31 hours"."""
    seconds = 3600 * hours
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} minutes" if seconds < 5400 else f"{hours:.3g} hours"
