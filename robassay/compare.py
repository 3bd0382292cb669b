"""Two results of ``robassay audit --json`` side by side: what changed, and by more than chance. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from robassay.document import SCHEMA
from robassay.errors import UsageError, printable
from robassay.intervals import Estimate
from robassay.report.words import VERDICTS, ball, digits, full

RATES = ("clean", "claimed", "robust", "gap")
WORSE = {"holds": 0, "no_flaw_found": 0, "undecided": 1, "overstated": 2, "artefact": 3}
"""Order of the verdicts: *no flaw found* is *holds* at a smaller budget, not a worse one."""
SAME = {
    "threat": "the ball",
    "claim": "the claimed attack",
    "budget": "the budget",
    "delta": "the tolerance",
    "draws": "the number of draws",
}
NARROW, WIDE = 9, 22
"""Columns of the table: 9 + 3 · 22 = 75 characters."""
Audit = Mapping[str, Any]


class Change(NamedTuple):
    """What became of one number."""

    name: str
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    by: Estimate

    @property
    def real(self) -> bool:
        """Whether the change is larger than its interval: 0 lies outside."""
        return not self.by.low <= 0 <= self.by.high


class Comparison(NamedTuple):
    """Two audits of one network, before and after."""

    title: str
    old: Audit
    new: Audit
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    """What was not the same in both, so that the numbers are not of the same thing."""

    @property
    def worse(self) -> bool:
        """Whether robust accuracy fell by more than the interval of its change, or the verdict is a worse one."""
        robust = next(c for c in self.changes if c.name == "robust")
        return robust.by.high < 0 or WORSE[self.new["verdict"]] > WORSE[self.old["verdict"]]

    @property
    def same_ball(self) -> bool:
        """Whether both audits are of the same threat."""
        return bool(self.old["threat"] == self.new["threat"])

    def as_json(self) -> dict[str, Any]:
        """The comparison for programs."""
        changes = {c.name: {**c.by._asdict(), "real": c.real} for c in self.changes}
        verdicts = {"old": self.old["verdict"], "new": self.new["verdict"]}
        return {"title": self.title, "verdict": verdicts, **changes, "notes": list(self.notes), "worse": self.worse}


def compare(old: Path, new: Path) -> list[Comparison]:
    """Every audit of ``new`` against that of the same title in ``old``; the only one of each whatever its title.

    Raises:
        UsageError: a file that cannot be read, is no audit's result or of another schema, or has no audit in common.
    """
    before, after = _read(old), _read(new)
    if len(before) == len(after) == 1:
        return [_compared(before[0], after[0])]
    earlier = {audit["title"]: audit for audit in before}
    found = [_compared(earlier[audit["title"]], audit) for audit in after if audit["title"] in earlier]
    if not found:
        titles = [", ".join(audit["title"] for audit in audits) for audits in (before, after)]
        raise UsageError(
            f"'{old}' and '{new}' have no audit in common: the first has {titles[0]}, the second {titles[1]}."
        )
    return found


def change(old: Mapping[str, Any], new: Mapping[str, Any]) -> Estimate:
    """New minus old with a 95 % interval, from the two values and their intervals alone.

    As if the images were not the same ones: of audits of the same images the true interval is narrower.

    Source: Newcombe 1998, method 10; for any two intervals Zou and Donner 2008.
    """
    by = new["value"] - old["value"]
    down = math.hypot(new["value"] - new["low"], old["high"] - old["value"])
    up = math.hypot(new["high"] - new["value"], old["value"] - old["low"])
    return Estimate(by, by - down, by + up, min(old["n"], new["n"]))


def table(found: Comparison) -> str:
    """The comparison as text of at most 80 columns."""
    lines = [_cut(found.title), _line("", "old", "new", "change")]
    verdicts = WORSE[found.new["verdict"]] - WORSE[found.old["verdict"]]
    word = "worse" if verdicts > 0 else "better" if verdicts < 0 else "the same"
    lines.append(_line("verdict", _verdict(found.old), _verdict(found.new), word))
    for one in found.changes:
        sign = "+" if round(one.by.value, 3) > 0 else ""
        by = f"{sign}{digits(one.by.value)} [{digits(one.by.low)}, {digits(one.by.high)}]"
        unit = "points" if one.name == "gap" else "rate"
        shown = [full(e, unit).replace(" points", "") for e in (one.old, one.new)]
        lines.append(_line(one.name, *shown, by + " *" * one.real))
    ns = " and ".join(str(n) for n in dict.fromkeys(audit["clean"]["n"] for audit in (found.old, found.new)))
    lines += [f"n = {ns} images", "changes in points; * beyond its interval (95 %, unpaired)"]
    return printable("\n".join(lines + [_cut(f"! {note}") for note in found.notes]))


def _compared(old: Audit, new: Audit) -> Comparison:
    title = new["title"] if old["title"] == new["title"] else f"{old['title']} → {new['title']}"
    changes = tuple(Change(name, old[name], new[name], change(old[name], new[name])) for name in RATES)
    notes = tuple(
        f"{what} is not the same: {_told(name, old)}, then {_told(name, new)}"
        for name, what in SAME.items()
        if name in old and name in new and old[name] != new[name]
    )
    return Comparison(title, old, new, changes, notes)


def _told(name: str, audit: Audit) -> str:
    return ball(audit[name]) if name == "threat" else str(audit[name])


def _verdict(audit: Audit) -> str:
    return VERDICTS[audit["verdict"]].lower() + (f" ({audit['cause']})" if audit.get("cause") else "")


def _line(*cells: str) -> str:
    widths = (NARROW, WIDE, WIDE, 0)
    return "".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


def _read(file: Path) -> list[Audit]:
    """The audits in a file, each with what is compared.

    Raises:
        UsageError: it has none.
    """
    try:
        whole = json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(
            f"'{file}' cannot be read: {error.strerror}. Write what `robassay audit --json` wrote."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{file}' is no JSON ({error}). Write a file that `robassay audit --json` wrote.") from error
    if not isinstance(whole, dict) or "schema" not in whole:
        raise UsageError(
            f"'{file}' is no result of an audit: it names no schema. Write one that `robassay audit --json` wrote."
        )
    if whole["schema"] != SCHEMA:
        raise UsageError(
            f"'{file}' has schema {whole['schema']}, this version of robassay reads {SCHEMA}. Audit again, or compare "
            "with the version that wrote it."
        )
    audits = whole["audits"] if isinstance(whole.get("audits"), list) else [whole]
    for audit in audits:
        if fault := _fault(audit):
            raise UsageError(
                f"'{file}' is no result of an audit: {fault}. Write one that `robassay audit --json` wrote."
            )
    if not audits:
        raise UsageError(f"'{file}' holds no audit. Write a file that `robassay audit --json` wrote.")
    return audits


def _fault(audit: Any) -> str | None:
    """What keeps a value from being an audit's result."""
    if not isinstance(audit, dict):
        return f"an audit is a {type(audit).__name__}"
    lacking = [name for name in ("title", "verdict", "threat", *RATES) if name not in audit]
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    words = [name for name in ("title", "cause", "claim", "budget") if not isinstance(audit.get(name) or "", str)]
    if words:
        return f"its {words[0]} is no text"
    if not isinstance(audit["verdict"], str) or audit["verdict"] not in WORSE:
        return f"its verdict is '{audit['verdict']}'"
    threat = audit["threat"]
    if not isinstance(threat, dict) or not isinstance(threat.get("norm"), str) or not _is_radius(threat):
        return "its threat has no norm and radius"
    bad = [name for name in RATES if not _is_rate(audit[name])]
    return f"{bad[0]} is no number with an interval" if bad else None


def _is_rate(rate: Any) -> bool:
    names = ("value", "low", "high", "n")
    return isinstance(rate, dict) and all(_is_number(rate.get(name)) for name in names)


def _is_radius(threat: dict[str, Any]) -> bool:
    return "eps" in threat and (threat["eps"] is None or _is_number(threat["eps"]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
