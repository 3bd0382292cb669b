"""A leaderboard: many results of audits, each checked, as one static page. Needs no torch.

An entry is a JSON file that ``robassay audit --json`` wrote; by hand only its ``title`` may be changed and ``about``
added: ``{"by": "who", "link": "https://…"}``. Entries are others' files: whatever does not fit together is refused.
What a result carries allows to recompute its verdict, its differences and, of a deterministic network, every interval.
It does not carry the decisions: that they were made shows only who runs ``command`` again and finds the same figures.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from robassay.document import SCHEMA
from robassay.errors import UsageError
from robassay.intervals import difference, rate
from robassay.report.badge import digest, verdict_svg
from robassay.report.leaderboard import leaderboard
from robassay.safe import Unsafe, checked_name, content, inside, is_key, replace
from robassay.verdict import as_json, words_of
from robassay.version import __version__

LARGEST = 4_000_000
"""Bytes of an entry; one of an audit has about 30 thousand."""
MANY = 2000
"""Attacks, cells or audits of one entry."""
RATES = ("clean", "claimed", "adequate", "robust")
GAPS = {"gap": ("claimed", "robust"), "g1": ("claimed", "adequate"), "g2": ("adequate", "robust")}
"""Paired differences and what is subtracted from what."""
ROUNDED = 1.6e-6
"""Results have six digits: three rounded numbers differ by no more than this from what they were."""
TEXTS = {"title": 200, "network": 500, "winner": 200, "version": 200}
WORDS = {"claim": 500, "command": 4000, "sentence": 600}
"""Texts that may be empty. Most letters of each."""
LINK = re.compile(r"https://[!#-;=?-~]{1,300}")
"""No blank, quote or bracket."""
Audit = dict[str, Any]


class Checked(NamedTuple):
    """An entry, and what is wrong with it."""

    file: Path
    audits: list[Audit]
    faults: list[str]

    @property
    def digests(self) -> list[str]:
        """What the cards of its audits show of their cells."""
        return [digest(audit["keys"]) for audit in self.audits]


def check(file: Path) -> Checked:
    """Whether an entry is a result of this schema whose numbers fit together, and the card beside it is its own.

    A card is ``NAME.svg`` beside ``NAME.json``, and need not be there.

    Args:
        file: the entry.
    """
    try:
        audits = _audits(_value(file))
    except (OSError, Unsafe, ValueError) as error:
        return Checked(file, [], [str(error)])
    found: list[str] = []
    for number, audit in enumerate(audits, 1):
        faults = list(_shape(audit)) or list(_fit(audit))
        found += [f"audit {number}: {fault}" for fault in faults] if len(audits) > 1 else faults
    if not found and len(audits) == 1:
        found = _card(file.with_suffix(".svg"), audits[0])
    return Checked(file, [] if found else audits, found)


def publish(folder: Path, out: Path) -> list[Path]:
    """Write ``out``/index.html and a card per audit from all entries of a folder; equal entries give equal files.

    Args:
        folder: its files ``*.json`` are the entries.
        out: where the site goes.

    Raises:
        UsageError: an entry has faults, there is none, or the site cannot be written.
        Unsafe: a folder of the site is a link.
    """
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is no folder of entries. Write one with what `robassay audit --json` wrote.")
    entries = [check(file) for file in sorted(folder.glob("*.json"))]
    if wrong := [f"{one.file.name}: {fault}" for one in entries for fault in one.faults]:
        raise UsageError("nothing was written, since these entries have faults:\n" + "\n".join(wrong))
    if not entries:
        raise UsageError(f"'{folder}' holds no entry. Put in what `robassay audit --json FILE` wrote.")
    rows, cards = [], {}
    for one in entries:
        for number, audit in enumerate(one.audits, 1):
            stem = checked_name(one.file.stem, "an entry") + (f"-{number}" if len(one.audits) > 1 else "")
            cards[f"{stem}.svg"] = verdict_svg(audit)
            rows.append({**audit, "card": f"{stem}.svg", "digest": digest(audit["keys"])})
    page = leaderboard(rows, __version__)
    try:
        place = inside(out, "cards", make=True)
        replace(out / "index.html", page.encode())
        for name, card in cards.items():
            replace(place / name, card.encode())
    except OSError as error:
        raise UsageError(f"'{out}' cannot be written: {error.strerror}. Choose another --out.") from error
    return [out / "index.html", *(place / name for name in cards)]


def _value(file: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        OSError, Unsafe, ValueError: it cannot be read, is no plain file, too large, or no JSON object.
    """
    size = os.lstat(file).st_size
    if size > LARGEST:
        raise ValueError(f"it has {size:,} bytes, larger than the {LARGEST:,} of an entry")

    def no_number(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")

    try:
        found = json.loads(content(file), parse_constant=no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not what `robassay audit --json` wrote")
    return found


def _audits(whole: dict[str, Any]) -> list[Any]:
    if whole.get("schema") != SCHEMA or isinstance(whole["schema"], bool):
        raise ValueError(f"schema is {str(whole.get('schema'))[:20]}, and this version of robassay reads {SCHEMA}")
    audits = whole.get("audits", [whole])
    if not isinstance(audits, list) or not 0 < len(audits) <= MANY:
        raise ValueError("audits: a list of results is wanted, one at least")
    about = {"about": whole["about"]} if "about" in whole else {}
    return [{**audit, **about} if isinstance(audit, dict) else audit for audit in audits]


# ---------------------------------------------------------------------------------------------------------- the schema


def _shape(audit: Any) -> Iterator[str]:
    """What keeps a value from being a result of schema 1, by field."""
    if not isinstance(audit, dict):
        yield f"it is a {type(audit).__name__}, not an audit"
        return
    wanted = ("threat", "data", "verdict", "cause", "robustness", "stochastic", *RATES, *GAPS, "ordinary", "delta")
    lacking = [name for name in (*TEXTS, *WORDS, *wanted, "budget", "draws", "attacks", "keys") if name not in audit]
    if lacking:
        yield f"it lacks {', '.join(lacking)}; audit with this version of robassay"
        return
    for name, most in (TEXTS | WORDS).items():
        if not _text(audit[name], most, empty=name in WORDS):
            yield f"{name} is no text of at most {most} letters in one line"
    for name in RATES:
        yield from _rate(name, audit[name], 0.0)
    for name in GAPS:
        yield from _rate(name, audit[name], -1.0)
    if audit["ordinary"] is not None:
        yield from _rate("ordinary", audit["ordinary"], 0.0)
    if not (_number(audit["delta"]) and 0 < audit["delta"] < 1):
        yield "delta is no number between 0 and 1"
    if audit["budget"] not in ("quick", "standard", "thorough"):
        yield "budget is none of quick, standard, thorough"
    if not isinstance(audit["stochastic"], bool):
        yield "stochastic is neither true nor false"
    if not _count(audit["draws"]):
        yield "draws is no positive whole number"
    yield from _threat(audit["threat"])
    yield from _data(audit["data"])
    yield from _about(audit.get("about", {}))
    yield from _attacks(audit["attacks"])
    if not _keys(audit["keys"]):
        yield "keys are not those of cells, 16 hex digits each"


def _threat(threat: Any) -> Iterator[str]:
    known = isinstance(threat, dict) and threat.get("norm") in ("linf", "l2", "l0")
    if not known or not _number(threat.get("eps")) or threat["eps"] <= 0:
        yield "threat is no norm (linf, l2, l0) with a positive radius"


def _data(data: Any) -> Iterator[str]:
    texts = isinstance(data, dict) and all(_text(data.get(name), 200) for name in ("name", "checksum", "split"))
    if not texts or not all(type(data.get(name)) is int and data[name] >= 0 for name in ("start", "stop")):
        yield "data does not say name, checksum, split, start and stop of the images"


def _about(about: Any) -> Iterator[str]:
    if not isinstance(about, dict) or not about.keys() <= {"by", "link"}:
        yield 'about is not {"by": "who", "link": "https://…"}'
    elif not _text(about.get("by", "-"), 200):
        yield "about: by is no text of at most 200 letters in one line"
    elif not (isinstance(link := about.get("link", "https://-"), str) and LINK.fullmatch(link)):
        yield "about: link is no https:// address"


def _attacks(attacks: Any) -> Iterator[str]:
    if not isinstance(attacks, list) or not 0 < len(attacks) <= MANY or not all(isinstance(a, dict) for a in attacks):
        yield "attacks are no list of attacks"
        return
    for attack in attacks:
        name = attack.get("name")
        if not _text(name, 200):
            yield "attacks: a name is no text of at most 200 letters in one line"
            return
        yield from _rate(f"attacks, {name}", attack.get("robust"), 0.0)
        if not _keys(attack.get("keys")):
            yield f"attacks, {name}: keys are not those of cells, 16 hex digits each"
    names = [attack["name"] for attack in attacks]
    if len(set(names)) < len(names) or "claimed" not in names:
        yield "attacks: each has a name of its own, and one is 'claimed'"


def _rate(name: str, found: Any, least: float) -> Iterator[str]:
    parts = ("low", "value", "high")
    if not isinstance(found, dict) or not all(_number(found.get(part)) for part in parts) or not _count(found.get("n")):
        yield f"{name} is no number with low, high and n"
    elif not least <= found["low"] <= found["value"] <= found["high"] <= 1 or found["low"] == found["high"]:
        yield f"{name}: {found['low']}, {found['value']}, {found['high']} are no interval around a value"


def _text(text: Any, most: int, empty: bool = False) -> bool:
    return isinstance(text, str) and text.isprintable() and len(text) <= most and (empty or bool(text.strip()))


def _number(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)


def _count(number: Any) -> bool:
    return type(number) is int and 0 < number <= 10**8


def _keys(keys: Any) -> bool:
    return isinstance(keys, list) and 0 < len(keys) <= MANY and all(is_key(key) for key in keys)


# ----------------------------------------------------------------------------------------------------- what must follow


def _fit(audit: Audit) -> Iterator[str]:
    """Numbers and words of a well-formed result that do not follow from its others."""
    if audit["stochastic"] != (audit["draws"] > 1):
        yield f"draws is {audit['draws']}: a random network is asked more than once, a deterministic one once"
    yield from _same_images(audit)
    for name, (one, other) in GAPS.items():
        by = audit[one]["value"] - audit[other]["value"]
        if abs(audit[name]["value"] - by) > ROUNDED:
            yield f"{name} is {audit[name]['value']}, and {one} less {other} is {by:.6f}"
    yield from _counted(audit) if audit["draws"] == 1 else _drawn(audit)
    yield from _verdict(audit)
    attacks = {attack["name"]: attack for attack in audit["attacks"]}
    if attacks["claimed"]["robust"] != audit["claimed"]:
        yield "claimed is not what the attack 'claimed' left"
    least = min(attack["robust"]["value"] for attack in audit["attacks"])
    won = attacks.get(audit["winner"])
    if won is None or won["robust"]["value"] > least + ROUNDED:
        yield f"winner is no attack that left the least, {least}"
    known = set(audit["keys"])
    if strange := [name for name, attack in attacks.items() if not known.issuperset(attack["keys"])]:
        yield f"keys: the cells of {', '.join(strange[:3])} are not among those of the audit"


def _same_images(audit: Audit) -> Iterator[str]:
    n = audit["clean"]["n"]
    others = [audit[name]["n"] for name in (*RATES, *GAPS)] + [attack["robust"]["n"] for attack in audit["attacks"]]
    if set(others) != {n}:
        yield f"n is not the same everywhere: all is judged on the same images, {n} for clean"
    if audit["data"]["stop"] - audit["data"]["start"] != n:
        yield f"data: {audit['data']['start']} to {audit['data']['stop']} are not {n} images"


def _counted(audit: Audit) -> Iterator[str]:
    """One decision per image: rates are counts, intervals follow, and the worst of several attacks is exact."""
    rates = {name: audit[name] for name in RATES}
    rates |= {f"attacks, {attack['name']}": attack["robust"] for attack in audit["attacks"]}
    for name, found in rates.items():
        yield from _recomputed(name, found, False)
        if found["value"] < audit["robust"]["value"] - ROUNDED:
            yield f"robust is {audit['robust']['value']}, more than the {found['value']} of {name}"
    for name in GAPS:
        yield from _recomputed(name, audit[name], True)


def _recomputed(name: str, found: dict[str, Any], gain: bool) -> Iterator[str]:
    n, many = found["n"], round(found["value"] * found["n"])
    if many < 0 or abs(many - found["value"] * n) > n * ROUNDED:
        yield f"{name}: {found['value']} of {n} images is no whole number of them"
        return
    of = (np.arange(n) < many).astype(np.float64)[None]
    wanted = as_json(difference(of, np.zeros((1, n))) if gain else rate(of))
    for part in ("low", "high"):
        if abs(found[part] - (wanted[part] or 0.0)) > ROUNDED:
            yield f"{name}: {part} is {found[part]}, and {many} of {n} images give {wanted[part]}"


def _drawn(audit: Audit) -> Iterator[str]:
    """Several decisions per image: of clean and claimed images each was made ``draws`` times."""
    for name in ("clean", "claimed"):
        decisions = audit[name]["n"] * audit["draws"]
        off = audit[name]["value"] * decisions
        if decisions * ROUNDED < 0.25 and abs(off - round(off)) > decisions * ROUNDED:
            yield f"{name} or draws: {audit[name]['value']} of {decisions:,} decisions is no whole number of them"


def _verdict(audit: Audit) -> Iterator[str]:
    told = [words_of(audit, slack) for slack in (0.0, ROUNDED, -ROUNDED)]
    for name in ("verdict", "cause", "robustness"):
        if not any(audit[name] == getattr(word, name) for word in told):
            yield f"{name} is {str(audit[name])[:30]!r}, and its rates say {getattr(told[0], name)!r}"
    # Other versions may have other words for the same.
    if audit["version"] == __version__ and audit["sentence"] not in [word.sentence for word in told]:
        yield f"sentence is not what its rates say: {told[0].sentence}"


def _card(file: Path, audit: Audit) -> list[str]:
    """What is wrong with the card beside an entry, where there is one."""
    try:
        card = content(file).decode()
    except FileNotFoundError:
        return []
    except (OSError, Unsafe, ValueError) as error:
        return [f"the card {file.name} cannot be read: {error}"]
    if card == verdict_svg(audit):
        return []
    shown, own = re.search(r"digest ([0-9a-f]{12})", card), digest(audit["keys"])
    if shown is None or shown[1] != own:
        return [f"the card {file.name} has the digest {shown[1] if shown else 'of nothing'}, the result's is {own}"]
    return [f"the card {file.name} shows something else than the result; write it again with this version"]
