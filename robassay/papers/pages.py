"""The committed results of the five papers as Markdown: docs/papers from results/small.

Run:  python -m robassay.papers.pages        (in the repository; ``make pages``)

Nothing is computed and no number is typed: figures come from ``results/small/NAME.json``, which
``robassay export NAME --results`` writes, words from the study's docstring. What people have to say stands in
``results/explained.json``: why a claim or the order of a column is not the paper's ("open" where nobody knows), and
which published figure an audit is about.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from robassay.errors import RobassayError, UsageError
from robassay.papers.listed import audits, claims, disagreements, drawn, figure_table, svg, tallies
from robassay.papers.ordering import Tally
from robassay.papers.published import PAPERS, table
from robassay.report.tables import escaped, markdown_table
from robassay.report.words import lasted

SCALE = "small"
FOLDER = Path("docs") / "papers"
OPEN = "open"


class Explained(NamedTuple):
    """What ``results/explained.json`` holds, by paper."""

    reasons: dict[str, dict[str, str]]
    """Why it is not as published, by the id of a check, by table/column, or by table for the rest of its columns."""
    claimed: dict[str, dict[str, Any]]
    """The published figure of an audit's id: table, row, col and "is" ("accuracy" or "success"); or a sentence."""


class Results(NamedTuple):
    """A paper with what is committed of it."""

    name: str
    document: dict[str, Any]
    explained: dict[str, str]
    claimed: dict[str, Any]


def read(root: Path) -> list[Results]:
    """Committed results of the papers, in their order; one that has none yet is left out.

    Raises:
        UsageError: ``root`` is no checkout with results.
    """
    folder = root / "results"
    if not (folder / "explained.json").is_file():
        raise UsageError(f"'{root}' has no results/explained.json. Run this in the repository's root.")
    explained = Explained(**json.loads((folder / "explained.json").read_text(encoding="utf-8")))
    found = []
    for name in PAPERS:
        file = folder / SCALE / f"{name}.json"
        if file.is_file():
            document = json.loads(file.read_text(encoding="utf-8"))
            found.append(Results(name, document, explained.reasons.get(name, {}), explained.claimed.get(name, {})))
    return found


def unmatched(results: list[Results]) -> list[str]:
    """Where results/explained.json and the results do not match, a line each."""
    lines = []
    for one in results:
        # A table's reason serves those of its columns that have none of their own.
        found = disagreements(one.document)
        wanted = {whole if (whole := key.split("/")[0]) in one.explained and key not in one.explained else key
                  for key in found}  # fmt: skip
        judged = {audit["id"] for audit in one.document["audits"]}
        for what, have, want in (("reasons", set(one.explained), wanted), ("claimed", set(one.claimed), judged)):
            lines += [f'{what}, {one.name}: add "{key}"' for key in sorted(want - have)]
            lines += [f'{what}, {one.name}: take out "{key}"' for key in sorted(have - want)]
    return lines


def files(root: Path) -> dict[str, str]:
    """All files of docs/papers by name."""
    results = read(root)
    made = {"README.md": _summary(results)}
    for one in results:
        made[f"{one.name}.md"] = _page(root, one)
        for drawing in one.document.get("drawings", []):
            made[_svg_name(one, drawing)] = svg(drawing)
    return made


def _page(root: Path, one: Results) -> str:
    document = one.document
    parts = [
        f"# {document['title']}",
        f"Written by `make pages` from [results/{SCALE}/{one.name}.json](../../results/{SCALE}/{one.name}.json); "
        f"described in [{one.name}.py](../../robassay/papers/{one.name}.py). All papers: [README](README.md).",
        f"> Scale **{document['scale']}**: short trainings, narrow networks and few images. The published figures "
        "beside ours are of the published setting, so that none of ours reproduces one: what can be compared is the "
        "order.",
        *(f"> **{name}**: {note}" for name, note in _noted(document)),
        "## About",
        prose(docstring(root, one.name)),
        "## Claims",
        claims(document),
        *(("## Audits", _audits(one)) if document["audits"] else ()),
        "## Tables",
        *(_section(document, entry, entry) for entry in document["tables"]),
        *(("## Figures",) if document["figures"] or document.get("drawings") else ()),
        *(_section(document, entry, figure_table(entry)) for entry in document["figures"]),
        *(drawn(drawing, _svg_name(one, drawing)) for drawing in document.get("drawings", [])),
        "## Where it is not as published",
        _differences(one),
        "## Where the numbers come from",
        _provenance(one),
    ]  # fmt: skip
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _section(document: dict[str, Any], entry: dict[str, Any], shown: dict[str, Any]) -> str:
    """A table or a figure as a table, with the notes on the data that it names."""
    words = " ".join([entry["id"], entry["caption"], *shown["rows"], *shown["cols"]])
    notes = [f"{name}: {note}" for name, note in _noted(document) if _squashed(name) in _squashed(words)]
    order = _order(tallies(shown)) if any(c and c["published"] is not None for li in shown["cells"] for c in li) else ""
    parts = [f"### {entry['id']}", escaped(entry["caption"]), markdown_table(shown), order, *notes]
    return "\n\n".join(part.strip() for part in parts if part)


def _order(tallied: tuple[Tally, dict[str, int]]) -> str:
    cells, found = tallied
    return (
        f"Order: of {cells.published} published figures {cells.ours} have one of ours beside them, {cells.matched} "
        f"matched, {cells.against} not, {cells.undecided} undecided; of the pairs {found['agrees']} agree, "
        f"{found['disagrees']} disagree, {found['undecided']} are undecided."
    )


def _differences(one: Results) -> str:
    """Every claim that does not hold and every column with a pair against the order, with its reason."""
    found = disagreements(one.document)
    if not found:
        return "Nowhere, within the intervals."
    lines = []
    for key, told in found.items():
        lines.append(f"- **{escaped(key)}** {escaped(_reason(one, key))}\n" +
                     "".join(f"  - {escaped(line)}\n" for line in told))  # fmt: skip
    return "".join(lines)


def _reason(one: Results, key: str) -> str:
    """Of a check, of a column, or of the whole table that the column belongs to."""
    return one.explained.get(key) or one.explained.get(key.split("/", maxsplit=1)[0]) or OPEN


def _provenance(one: Results) -> str:
    document, origin = one.document, one.document["provenance"]
    data = "; ".join(f"{d['name']} ({d['checksum']}{': ' + d['note'] if d['note'] else ''})" for d in origin["data"])
    missing = f", {origin['missing']:,} missing" if origin["missing"] else ""
    lines = [
        ("command", f"`robassay run {one.name} --scale {document['scale']}`"),
        ("version", f"robassay {document['version']}, torch {', '.join(origin['torch'])}; {document['created']}"),
        ("hardware", "; ".join(origin["machines"]) + (" (mixed)" if origin["mixed"] else "")),
        ("computed in", f"{lasted(origin['hours'])} of one core, everything behind the figures included"),
        ("seeds", ", ".join(map(str, origin["seeds"]))),
        ("data", data),
        ("cells", f"{origin['cells']:,}{missing}; the keys of each figure's cells stand beside it in the JSON file"),
    ]
    return "\n".join(f"- {name}: {value}" for name, value in lines)


def _noted(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Data sets about which there is something to know, such as a copy that is not the published one."""
    return [(d["name"], d["note"]) for d in document["provenance"]["data"] if d["note"]]


def _audits(one: Results) -> str:
    return audits(one.document, {id: _stated(one.name, told) for id, told in one.claimed.items()})


def _stated(paper: str, told: Any) -> str:
    """The published figure that an audit is about: a sentence as it stands, or looked up in the paper's table."""
    if isinstance(told, str):
        return told
    value = table(paper, told["table"]).rate(told["row"], told["col"])
    kept = 1 - value if told["is"] == "success" else value
    return f"{100 * kept:.1f} % (Table {told['table']}, {told['row']}, {told['col']})"


def _summary(results: list[Results]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "| --- |" + " ---: |" * (len(HEADS) - 1)]
    total = Tally(0, 0, 0, 0)
    for one in results:
        cells = Tally(0, 0, 0, 0)
        for entry in one.document["tables"]:
            cells = cells.plus(tallies(entry)[0])
        total = total.plus(cells)
        plain, union = (_outcomes(one.document, wanted) for wanted in (False, True))
        found = disagreements(one.document)
        unsolved = sum(_reason(one, key).startswith(OPEN) for key in found)
        numbers = f"{cells.published} | {cells.ours} | {cells.matched} | {cells.against} | {cells.undecided}"
        lines.append(f"| [{one.name}]({one.name}.md) | {numbers} | {plain} | {union} | {len(found)}, {unsolved} |")
    numbers = f"{total.published} | {total.ours} | {total.matched} | {total.against} | {total.undecided}"
    lines.append(f"| all | {numbers} | | | |")
    late = [name for name in PAPERS if name not in {one.name for one in results}]
    audited = [f"### {one.name}\n\n{_audits(one)}" for one in results if one.document["audits"]]
    notes = sorted({f"- **{name}**: {note}" for one in results for name, note in _noted(one.document)})
    parts = [
        "# Five papers, ours beside theirs",
        f"Written by `make pages` from `results/{SCALE}`: every table and figure of the papers at scale {SCALE}, which "
        "takes two cores and hours. `make papers` computes it anew, `robassay run NAME --scale full` describes the "
        "published setting.",
        "\n".join(lines),
        f"No committed results yet: {', '.join(late)}." if late else "",
        *(("## Claimed, reproduced, delivered", *audited) if audited else ()),
        "## What is counted",
        ORDER,
        CLAIMS,
        *(("## Data", "\n".join(notes)) if notes else ()),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


HEADS = ("paper", "published figures", "with ours", "matched", "not", "undecided", "claims: hold, do not, undecided",
         "with the union", "disagreements, of them open")  # fmt: skip
ORDER = """Values at a small scale are not those of the papers; who comes before whom may be. For every pair of rows of
one column for which both a published figure and our own stand there, and whose published figures differ: the pair
*agrees* when our two 95 % intervals lie apart and in the published order, *disagrees* when they lie apart and the other
way round, and is *undecided* otherwise. A published figure is *matched* when at least one of its pairs is decided and
all decided ones agree; it is *not* when one disagrees. Intervals that overlap are never counted as a match, even where
a paired comparison would decide."""
CLAIMS = """A claim is judged on paired images by the 95 % interval of one figure: it holds when the whole interval
lies on the claimed side, does not when it lies on the other, and is undecided otherwise. The *union* is, per image, the
worst of the strong attacks within the same threat in place of the paper's attack. Whatever is against the published
order or does not hold is listed at the end of each paper's page, with the reason or the word *open*."""


def _outcomes(document: dict[str, Any], union: bool) -> str:
    found = [c["outcome"] for c in document["checks"] if c["id"].endswith("-union") == union]
    return ", ".join(str(found.count(word)) for word in ("PASS", "FAIL", "UNDECIDED"))


def docstring(root: Path, name: str) -> str:
    """Of the paper's module."""
    file = root / "robassay" / "papers" / f"{name}.py"
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def prose(text: str) -> str:
    """A docstring as Markdown: roles and double backquotes become code."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    return re.sub(r"(`[^`]+`)|<", lambda found: found[1] or "&lt;", text)


def _squashed(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _svg_name(one: Results, drawing: dict[str, Any]) -> str:
    return f"{one.name}-{drawing['id']}.svg"


def write(root: Path) -> list[str]:
    """Write docs/papers anew; lines that say what results/explained.json lacks."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    made = files(root)
    for old in folder.iterdir():
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    return unmatched(read(root))


if __name__ == "__main__":
    try:
        lacking = write(Path.cwd())
    except RobassayError as error:
        sys.exit(f"robassay: {error}")
    print(FOLDER)
    if lacking:
        sys.exit("results/explained.json does not match the results:\n" + "\n".join(lacking))
