"""docs/benchmarks.md from bench/results: who is ahead by how much, what it costs, how it grows, and what it was before.

A row is *ahead* where ours takes less time than the peer and is not weaker by more than the row's slack, *level* where
1 lies between the quartiles of the rounds' ratios; where it is neither, ``bench/losses.json`` says why and what would
win it. The history is a line per row and run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness import RESULTS, ratio

PAGE = RESULTS.parents[1] / "docs" / "benchmarks.md"
HISTORY = RESULTS / "history.jsonl"
LOSSES = RESULTS.parent / "losses.json"
SHOWN = 5
"""Past runs that a row shows."""
NAMES = (
    "attacks", "audits", "black-box", "eot", "spiking", "neurons", "inference",
    "networks", "sefron", "stdp", "loading", "overheads", "limits", "growth",
)  # fmt: skip
HEAD = """# Measured against peers

Written by `make bench` from `bench/results`; do not edit. One thread; all ways of a row take turns in one process on
the same data, after a round that does not count. Ratios are medians over the rounds of CPU seconds, *peer over ours*:
2.00 means that the peer takes twice as long. In brackets the quartiles of the rounds; where they lie on both sides of
1, the two are called level.
"""


class Duel(NamedTuple):
    """Ours against one peer in one row."""

    task: str
    peer: str
    times: tuple[float, float, float]
    strength: str
    as_strong: bool
    rounds: int

    @property
    def name(self) -> str:
        return f"{self.task} | {self.peer}"

    @property
    def word(self) -> str:
        _, low, high = self.times
        if not self.as_strong or high < 1:
            return "behind"
        return "level" if low < 1 < high else "ahead"


def results() -> dict[str, dict[str, Any]]:
    """Every file of results that is there, in the order of the page."""
    files = {name: RESULTS / f"{name}.json" for name in NAMES}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}


def rows(found: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in found.values():
        yield from one["rows"]


def duels(row: Mapping[str, Any]) -> Iterator[Duel]:
    """The row's peers, each against ours."""
    rivals = row.get("rivals")
    if not rivals:
        return
    mine = row["ways"][rivals["ours"]]
    for peer in rivals["peers"]:
        other, what = row["ways"][peer], rivals["strength"]
        strength, as_strong = "equal results", True
        if what:
            strength = f"{what} {mine[what]:.3g}, peer {other[what]:.3g}"
            behind = mine[what] - other[what] if rivals["lower"] else other[what] - mine[what]
            as_strong = behind <= rivals["slack"] + 1e-9
        times = ratio(row, peer, rivals["ours"])
        yield Duel(row["task"], peer, times, strength, as_strong, row["repeats"])


def remember(name: str) -> None:
    """Add the run's ratios to the history."""
    one = json.loads((RESULTS / f"{name.replace('_', '-')}.json").read_text(encoding="utf-8"))
    told = {duel.name: round(duel.times[0], 3) for row in one["rows"] for duel in duels(row)}
    line = {"date": one["date"], "robassay": one["robassay"], "torch": one["torch"], "of": name, "times": told}
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def before() -> dict[str, list[float]]:
    """By duel the ratios of the last runs, oldest first."""
    found: dict[str, list[float]] = {}
    if HISTORY.is_file():
        for line in HISTORY.read_text(encoding="utf-8").splitlines():
            for name, value in json.loads(line)["times"].items():
                found.setdefault(name, []).append(value)
    return {name: values[-SHOWN:] for name, values in found.items()}


def against_peers(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    held, past = json.loads(LOSSES.read_text(encoding="utf-8")), before()
    told = [duel for row in rows(found) for duel in duels(row)]
    counts = {word: sum(duel.word == word for duel in told) for word in ("ahead", "level", "behind")}
    lines = ["", "## Against peers", "", ", ".join(f"{word} {n}" for word, n in counts.items()) + ".", ""]
    lines += ["| task | peer | peer ÷ ours | strength | | runs before |", "|---|---|---|---|---|---|"]
    for duel in told:
        middle, low, high = duel.times
        word = "**behind**" if duel.word == "behind" else duel.word
        history = " → ".join(f"{value:.2f}" for value in past.get(duel.name, []))
        times = f"{middle:.2f} [{low:.2f}, {high:.2f}]" if duel.rounds > 1 else f"{middle:.2f} (one round)"
        lines.append(f"| {duel.task} | {duel.peer} | {times} | {duel.strength} | {word} | {history} |")
    lost = [duel for duel in told if duel.word == "behind"]
    if lost:
        lines += [
            "",
            "### Where ours is behind",
            "",
            "| task | peer | cause | what would win it |",
            "|---|---|---|---|",
        ]
        lines += [f"| {d.task} | {d.peer} | {' | '.join(held[d.name])} |" for d in lost]
    return lines


def against_bare(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["", "## Against the bare passes", "", "What cannot be done without: passes through the network.", ""]
    lines += ["| task | ours ÷ bare | wanted |", "|---|---|---|"]
    for row in rows(found):
        rivals = row.get("rivals")
        if rivals and rivals["bare"]:
            middle, low, high = ratio(row, rivals["ours"], rivals["bare"])
            wanted = f"≤ {rivals['within']:g}" if rivals["within"] else ""
            lines.append(f"| {row['task']} | {middle:.2f} [{low:.2f}, {high:.2f}] | {wanted} |")
    return lines


def against_machine(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    limits = found.get("limits", {"rows": []})["rows"]
    if not limits:
        return []
    peak = limits[0]["ways"]["this machine"]
    lines = ["", "## Against the machine", ""]
    lines += ["The floor is that of the operations counted; a convolution may find a way with fewer.", ""]
    lines += [
        f"Peak of one thread: {peak['gflops']:.0f} GFLOP/s (matrix product), {peak['gbytes']:.0f} GB/s (copy).",
        "",
    ]
    lines += ["| task | counted | floor | ours | ours ÷ floor |", "|---|---|---|---|---|"]
    for row in limits[1:]:
        told, mine = row["limit"], row["ways"]["ours"]["cpu"]
        counted = (
            f"{told['flops'] / 1e9:.3g} GFLOP"
            if told["limited_by"] == "arithmetic"
            else f"{told['bytes'] / 1e6:.0f} MB"
        )
        seconds = f"{1e3 * told['floor']:.3g} ms | {1e3 * mine:.3g} ms | {told['times_floor']:.2f}"
        lines.append(f"| {row['task']} | {counted} | {seconds} |")
    return lines


def growth(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["", "## Growth", "", "Slope of log seconds over log size: 1 is linear, 0 costs nothing more.", ""]
    lines += ["| over | sizes | slope | last step | wanted |", "|---|---|---|---|---|"]
    for row in found.get("growth", {"rows": []})["rows"]:
        sizes, slope = list(row["ways"]), row["slope"]
        lines.append(
            f"| {row['task'].removeprefix('growth: ')} | {sizes[0]} – {sizes[-1]} | {slope['all']:.2f} "
            f"| {slope['last']:.2f} | ≤ {slope['wanted']:g} |"
        )
    return lines


def per_cell(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a cell that does nothing costs with storing it, as ``ray_cluster.py overhead`` has it."""
    file = RESULTS / "ray-overhead.json"
    if not file.is_file():
        return []
    told = json.loads(file.read_text(encoding="utf-8"))["rows"]
    lines = ["", "## Per cell", "", "| a cell that does nothing | ms |", "|---|---|"]
    return lines + [f"| {one['way']}, {one['cells']} cells | {one['ms_per_cell']:.1f} |" for one in told]


def memory(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["", "## Memory", "", "| task | MiB beyond what the process holds |", "|---|---|"]
    for row in rows(found):
        peaks = {name: way["peak_mib"] for name, way in row["ways"].items() if "peak_mib" in way}
        if peaks:
            lines.append(f"| {row['task']} | {', '.join(f'{name} {peak:.0f}' for name, peak in peaks.items())} |")
    return lines


def claims(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What tools state about random networks beside what is left of their images."""
    asked = [row for row in rows(found) if row["task"].startswith("random: ")]
    if not asked:
        return []
    lines = ["", "## What is stated about random networks, and what is left", ""]
    lines += ["| network | tool | stated | left, of 100 fresh draws |", "|---|---|---|---|"]
    for row in asked:
        for tool, told in row["ways"].items():
            name = row["task"].removeprefix("random: ")
            lines.append(f"| {name} | {tool} | {100 * told['claimed']:.1f} % | {100 * told['delivered']:.1f} % |")
    return lines


def text() -> str:
    """The page.

    Raises:
        KeyError: a row is behind, and nothing says why.
    """
    found = results()
    parts = [against_peers, against_bare, against_machine, growth, per_cell, memory, claims]
    about = sorted({f"{name}: {one['date']}, load {one['load']:g}" for name, one in found.items() if "load" in one})
    versions = sorted({one["torch"] for one in found.values()})
    lines = [HEAD.rstrip(), *(line for part in parts for line in part(found))]
    lines += ["", f"torch {', '.join(versions)}. Measured on {'; '.join(about)}."]
    return "\n".join(lines) + "\n"


def write() -> Path:
    PAGE.write_text(text(), encoding="utf-8")
    return PAGE
