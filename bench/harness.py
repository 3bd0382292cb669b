"""Measuring several ways of doing one task: in turn, on the same data, strength beside time.

One thread, and memory as worker processes keep it, for all ways alike. A warm-up round is not counted; then the
ways take turns, so that a machine that drifts drifts for all. Quote ratios, not seconds.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from robassay.run.worker import keep_memory
from robassay.version import __version__

Figures = Mapping[str, float]
Way = Callable[[], Figures]
RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Rivals:
    """Which of a row's ways are held against each other.

    Args:
        ours: the way that should win.
        peers: the ways it should be ahead of; none where a row only shows what something costs.
        strength: the figure that must not be worse than a peer's; "" where results are equal and that is asserted.
        lower: whether less of it is stronger.
        slack: by how much ours may be worse and still count as equally strong, in the figure's unit.
        bare: the way that does nothing but the passes that no way can do without.
        within: how many times ``bare`` ours may cost.
    """

    ours: str = "ours"
    peers: tuple[str, ...] = ()
    strength: str = ""
    lower: bool = True
    slack: float = 0.0
    bare: str = ""
    within: float | None = None


def compare(
    task: str,
    ways: Mapping[str, Way],
    repeats: int = 5,
    rivals: Rivals | None = None,
    memory: bool = False,
    warm: bool = True,
) -> dict[str, Any]:
    """Run the ways in turn ``repeats`` times, after one round that does not count.

    Args:
        task: what is done, for the table.
        ways: by name. Each returns what it achieved.
        repeats: rounds that count.
        rivals: which of the ways compete.
        warm: whether there is such a round: minutes of work need none.
        memory: whether each way is run once more, in a process of its own, for the most memory it needs.

    Returns:
        ``{task, repeats, rivals, ways: {name: {cpu, wall, cpus, peak_mib, **figures}}}``: medians of seconds, all
        seconds of CPU (round by round, so that ratios can be taken in pairs), and MiB.
    """
    torch.set_num_threads(1)
    keep_memory()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    figures: dict[str, Figures] = {}
    for turn in range(1 - warm, repeats + 1):
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            figures[name] = way()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            if turn:
                times[name].append(spent)
    rows: dict[str, dict[str, Any]] = {}
    for name, taken in times.items():
        cpus = [c for c, _ in taken]
        walls = statistics.median(w for _, w in taken)
        rows[name] = {"cpu": statistics.median(cpus), "wall": walls, "cpus": cpus, **figures[name]}
        if memory:
            rows[name]["peak_mib"] = peak_memory(ways[name])
    row = {"task": task, "repeats": repeats, "ways": rows, "rivals": asdict(rivals) if rivals else None}
    show(row)
    return row


def ratio(row: Mapping[str, Any], one: str, other: str) -> tuple[float, float, float]:
    """Seconds of ``one`` over those of ``other``, round by round: the median, and the quartiles around it."""
    pairs = zip(row["ways"][one]["cpus"], row["ways"][other]["cpus"], strict=True)
    found = [a / b for a, b in pairs]
    if len(found) == 1:
        return found[0], found[0], found[0]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return middle, low, high


def show(row: Mapping[str, Any]) -> None:
    """Print a line per way."""
    print(f"\n{row['task']}")
    for name, found in row["ways"].items():
        told = {k: v for k, v in found.items() if k != "cpus"}
        print(f"  {name:34}" + "  ".join(f"{k} {v:.4g}" for k, v in told.items()))
    sys.stdout.flush()


def peak_memory(way: Callable[[], Any]) -> float:
    """MiB that ``way`` needs beyond what this process holds, measured in a forked child (Linux)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # A child inherits its parent's peak, and memory that the parent has freed but not given back: without a reset
        # and a trim only what exceeds all earlier work would be seen.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _memory("VmRSS")
        way()
        os.write(writing, json.dumps(_memory("VmHWM") - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return float(json.loads(os.read(reading, 64)))


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def among(name: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of ``<name>.json`` with ``rows`` put in the places of the same tasks: when only some were measured."""
    new = {row["task"]: row for row in rows}
    before = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return [new.get(row["task"], row) for row in before]


def save(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the rows, with what they were measured on, to ``bench/results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    about = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "robassay": __version__,
        "threads": 1,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 1),
    }
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({**about, "rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{file}", flush=True)
    return file
