"""Writing what a store holds: the HTML report, results.json with CSV, and the overview in a terminal."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from robassay.document import Document, study_in
from robassay.errors import RobassayError, UsageError, printable
from robassay.report.badge import verdict_svg
from robassay.report.pictures import difference, picture
from robassay.report.render import render, to_csv
from robassay.report.tables import comparison_csv
from robassay.safe import checked_name, inside, replace
from robassay.store import Store

WORDS = {
    "artefact": "artefact",
    "overstated": "overstated",
    "holds": "holds",
    "no_flaw_found": "no flaw found",
    "undecided": "undecided",
}


def write_report(name: str, store: str | Path, page: Path | None = None) -> Path:
    """Write the HTML report of a stored study; by default to ``<store>/reports/<name>.html``.

    Raises:
        RobassayError: no such study.
        UsageError: the page cannot be written.
    """
    place = Store(store, create=False)
    with understood(name, place):
        document = Document(study_in(place, name), place).whole()
        document["galleries"] = [_shown(gallery) for gallery in document["galleries"]]
        text = render(document)
    return _write(page or inside(place.root, "reports") / f"{checked_name(name, 'the study')}.html", text)


@contextmanager
def understood(name: str, store: Store) -> Iterator[None]:
    """Inside, whatever a stored study or cell makes this code stumble over becomes a message.

    A store may come from elsewhere, or from another version, and its digests only show what changed by accident.

    Raises:
        RobassayError: with what was stumbled over.
    """
    try:
        yield
    except (RobassayError, OSError):
        raise
    except (ArithmeticError, AssertionError, LookupError, MemoryError, TypeError, ValueError, AttributeError) as error:
        raise _strange(name, store, error) from error
    except (RecursionError, TemplateError) as error:
        raise _strange(name, store, error) from error


def _strange(name: str, store: Store, error: Exception) -> RobassayError:
    told = f"{type(error).__name__}: {str(error)[:200]}"
    return RobassayError(
        f"the study '{name}' in '{store.root}' cannot be shown ({told}). It was changed, or written by another version "
        "of robassay: run it again, or ask whoever made it."
    )


def write_card(audits: list[dict[str, Any]], file: Path) -> list[Path]:
    """Write the public card of an audit as an SVG; of several, to ``<name>-1.svg``, ``<name>-2.svg`` and so on.

    Raises:
        UsageError: a file cannot be written.
    """
    several = len(audits) > 1
    places = [file.with_stem(f"{file.stem}-{i}") if several else file for i in range(1, len(audits) + 1)]
    return [_write(place, verdict_svg(audit)) for place, audit in zip(places, audits, strict=True)]


def _shown(gallery: dict[str, Any]) -> dict[str, Any]:
    images = []
    for image in gallery["images"]:
        x, x_adv = image.pop("x"), image.pop("x_adv")
        clean = x.astype("float32") / 255
        change, factor = difference(clean, x_adv)
        pictures = {"original": picture(x), "adversarial": picture(x_adv), "difference": change, "amplified": factor}
        images.append({**image, **pictures})
    return {**gallery, "images": images}


def export_files(name: str, store: str | Path, folder: Path, results: bool) -> list[Path]:
    """Write the numbers of a stored study.

    With ``results`` one file ``<folder>/<scale>/<name>.json``, to be committed; else ``results.json`` and a CSV per
    table. Each number carries its interval, n, published value and cell keys; the file its provenance.

    Raises:
        RobassayError: no such study.
        UsageError: cells are missing (with ``results``), or the folder cannot be written.
    """
    place = Store(store, create=False)
    with understood(name, place):
        document = Document(study_in(place, name), place).whole()
        for extra in ("galleries", "parts", "cells"):  # of the report alone
            del document[extra]
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        tables = {checked_name(table["id"], "a table"): to_csv(table) for table in document["tables"]}
        tables |= {checked_name(one["id"], "a comparison"): comparison_csv(one) for one in document["comparisons"]}
    if results:
        missing = document["provenance"]["missing"]
        if missing:
            raise UsageError(
                f"{missing} cells of '{name}' are missing: run the study before its results are committed."
            )
        return [_write(folder / checked_name(document["scale"], "the scale") / f"{name}.json", text)]
    files = [_write(folder / "results.json", text)]
    return files + [_write(folder / f"{table}.csv", rows) for table, rows in tables.items()]


def _write(file: Path, text: str) -> Path:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # A command line, which a report shows, may hold bytes that are no text.
        replace(file, text.encode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(f"'{file}' cannot be written: {error.strerror}. Choose another place.") from error
    return file


USUAL = re.compile(r"pgd:steps=10,step=([^,]+),loss=ce,restarts=1,random_start=true,keep=last,.*,draws=50")


def _usual(audit: dict[str, Any]) -> bool:
    """Whether the claim is what an audit takes where none is stated; results of before one could be have none."""
    stated = USUAL.fullmatch(audit.get("claim", ""))
    eps = audit["threat"]["eps"]
    return not audit.get("claim") or (stated is not None and math.isclose(float(stated[1]), eps / 10, rel_tol=1e-6))


def overview(audits: list[dict[str, Any]]) -> None:
    """Print one line per audit: the usual attack against the strongest found, and the verdict."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("network", overflow="fold")
    usual = all(map(_usual, audits))
    for title in ("clean", "usual attack" if usual else "claimed attack", "strongest found"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict")
    colours = {"artefact": "red", "overstated": "yellow", "holds": "green", "no_flaw_found": "green"}
    for one in audits:
        verdict = Text(WORDS[one["verdict"]], style=colours.get(one["verdict"], ""))
        if one["cause"]:
            verdict.append(f" ({one['cause']})")
        if one["robustness"] == "none" and one["verdict"] in ("holds", "no_flaw_found"):
            verdict.append(", not robust")
        rates = [_percent(one["clean"]), _percent(one["claimed"]), _interval(one["robust"])]
        table.add_row(Text(printable(one["title"])), *rates, verdict)
    Console().print(table)
    if audits:
        ball = audits[0]["threat"]
        sign = {"linf": "L∞", "l2": "L2"}.get(ball["norm"], ball["norm"])
        draws = max(one["draws"] for one in audits)
        each = f", {draws} fresh draws of random networks" if draws > 1 else ""
        sizes = f"{sign} eps {ball['eps']:.3g}, n = {audits[0]['clean']['n']} images{each}"
        Console().print(f"robust accuracy; {sizes}; [95 % interval]", style="dim", markup=False)


def claims(checks: list[dict[str, Any]]) -> None:
    """Print one line per claim: what became of it, and by which number."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("claim", no_wrap=True)
    table.add_column("")
    table.add_column("found", justify="right")
    colours = {"PASS": "green", "FAIL": "red"}
    for one in checks:
        outcome = Text(one["outcome"], style=colours.get(one["outcome"], ""))
        table.add_row(outcome, Text(printable(one["question"])), Text(printable(one["sentence"])))
    Console().print(table)


def _percent(rate: dict[str, Any]) -> str:
    return f"{100 * rate['value']:.1f} %"


def _interval(rate: dict[str, Any]) -> str:
    return f"{100 * rate['value']:.1f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
