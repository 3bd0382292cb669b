"""Measuring several ways of doing one task: in turn, on the same data, strength beside time.

One thread, and memory as worker processes keep it, for all ways alike. A warm-up round is not counted; then the
ways take turns, so that a machine that drifts drifts for all.
Medians with their spread are kept; quote ratios, not seconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from robassay.run.worker import keep_memory

Figures = Mapping[str, float]
RESULTS = Path(__file__).with_name("results")


def compare(task: str, ways: Mapping[str, Callable[[], Figures]], repeats: int = 5) -> dict[str, Any]:
    """Run the ways in turn ``repeats`` times after one warm-up round.

    Args:
        task: what is done, for the table.
        ways: by name; the first is the one that ratios are taken to. Each returns what it achieved.

    Returns:
        ``{task, ways: {name: {cpu, wall, cpu_spread, ratio, **figures}}}``: medians of seconds, (max − min)/median of
        the CPU time, and the median of the paired CPU ratios to the first way.
    """
    torch.set_num_threads(1)
    keep_memory()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    figures: dict[str, Figures] = {}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            figures[name] = way()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            if turn:
                times[name].append(spent)
    first = [c for c, _ in times[next(iter(ways))]]
    rows = {}
    for name, taken in times.items():
        cpus = [c for c, _ in taken]
        middle = statistics.median(cpus)
        rows[name] = {
            "cpu": middle,
            "wall": statistics.median(w for _, w in taken),
            "cpu_spread": (max(cpus) - min(cpus)) / middle,
            "ratio": statistics.median(c / f for c, f in zip(cpus, first, strict=True)),
            **figures[name],
        }
    show(task, rows)
    return {"task": task, "repeats": repeats, "ways": rows}


def show(task: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print a row per way."""
    print(f"\n{task}")
    for name, row in rows.items():
        print(f"  {name:34}" + "  ".join(f"{k} {v:.4g}" for k, v in row.items()))
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


def save(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write the rows with the machine they were measured on to ``bench/results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    about = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"\n{file}")
    return file
