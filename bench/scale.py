"""Planning and storing many cells: seconds, memory, bytes and store operations for 10^4, 10^5 and 10^6 cells.

    python bench/scale.py              # plans 10^4, 10^5 and 10^6 cells, stores 10^4 and 10^5: ten minutes, 4 GB
    python bench/scale.py --quick      # a tenth of it

Each figure is of a process of its own. Seconds of CPU stand beside those on the wall, since the machine may be busy.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMAGES = 50
"""Images of a stored evaluation, each judged once: a small cell, as most are."""


def timed(work: Any) -> tuple[Any, dict[str, float]]:
    """What ``work`` returns, with its seconds and the most memory of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spent = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_mb": peak}
    return found, {name: round(value, 2) for name, value in spent.items()}


def study(count: int) -> Any:
    """A study of about ``count`` cells: networks, each with attacks over a grid and their evaluations."""
    import robassay as ra
    from robassay.access import White
    from robassay.attacks.gradient import PGD
    from robassay.nets.mlp import MLP
    from robassay.training import Recipe

    data = ra.find("digits")
    models = [ra.Train(MLP(), data, Recipe(epochs=2), seed=i) for i in range(max(1, count // 2000))]
    each = max(1, count // len(models) // 2)
    on, cols = ra.Examples(data, "test", 0, IMAGES), tuple(str(j) for j in range(each))
    entries = {}
    for i, model in enumerate(models):
        for j in range(each):
            craft = ra.Craft((model,), on, PGD(steps=5), ra.Threat("linf", 0.3 * (1 + j) / each), White(), seed=j)
            entries[str(i), cols[j]] = ra.Measure(((ra.Score(model, craft, repeats=1),),), ra.Accuracy())
    table = ra.Table("t", "Many", tuple(str(i) for i in range(len(models))), cols, entries)
    return ra.Study("many", "Many cells", (table,))


def planned(count: int) -> dict[str, Any]:
    """Plan without a store."""
    from robassay.plan import plan

    made, describing = timed(lambda: study(count))
    found, planning = timed(lambda: plan(made.needs(), None))
    return {"cells": len(found.order), "describe": describing, "plan": planning}


def filled(count: int, root: Path) -> dict[str, Any]:
    """Write every cell of a study into a store, as a run would, and freeze the study."""
    import numpy as np

    from robassay.plan import plan
    from robassay.store import Store

    made, store = study(count), Store(root)
    order = plan(made.needs(), None).order
    about = {"robassay": "0", "torch": "2", "machine": "cpu", "finished": "2026-01-01T00:00:00Z", "seconds": 0.1}
    label = np.zeros(IMAGES, np.int64)
    score = {"decisions": np.zeros((1, IMAGES), np.int16), "labels": label, "block": label, "shared": np.array(0)}
    score |= {name: np.zeros(IMAGES, np.float32) for name in ("linf", "l2", "l0")}
    other = {"x_adv": np.zeros((IMAGES, 1, 8, 8), np.float32)}

    def write() -> None:
        for cell in order:
            kind = type(cell).__name__
            store.write(cell.key, {**about, "cell": {"type": kind}}, score if kind == "Score" else other, "")

    _, writing = timed(write)
    _, freezing = timed(lambda: store.save_study("many", made.freeze()))
    size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
    disk = sum(f.stat().st_blocks * 512 for f in root.rglob("*"))
    frozen = (root / "studies" / "many.json").stat().st_size
    return {"cells": len(order), "write": writing, "freeze": freezing, "bytes": size, "disk": disk, "study": frozen}


def looked_at(root: Path, words: list[str]) -> dict[str, float]:
    """A command over the store, in this process: importing included."""
    sys.argv = ["robassay", *words, "--store", str(root)]

    def work() -> None:
        from robassay import cli

        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
            cli.main()
        assert "cells done" in said.getvalue() or words[0] == "gc", said.getvalue()

    return timed(work)[1]


def resumed(count: int, root: Path) -> dict[str, Any]:
    """What a run does before it computes: it plans, and reads every finished cell to check its digest."""
    from robassay.plan import plan
    from robassay.store import Store

    store, made = Store(root), study(count)
    found, planning = timed(lambda: plan(made.needs(), store))
    _, checking = timed(lambda: store.mend(found.done))
    return {"plan": planning, "check": checking, "todo": len(found.todo)}


def alone(*words: str) -> Any:
    """A part of this file in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    """Measure, print, and write bench/results/scale.json."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--part", nargs="+")
    words = asked.parse_args()
    if words.part:
        part, *rest = words.part
        parts = {
            "planned": lambda: planned(int(rest[0])),
            "filled": lambda: filled(int(rest[0]), Path(rest[1])),
            "resumed": lambda: resumed(int(rest[0]), Path(rest[1])),
            "status": lambda: looked_at(Path(rest[0]), ["status"]),
            "status-study": lambda: looked_at(Path(rest[0]), ["status", rest[1]]),
            "gc": lambda: looked_at(Path(rest[0]), ["gc"]),
        }
        print(json.dumps(parts[part]()))
        return
    shrink = 10 if words.quick else 1
    found: dict[str, Any] = {"images": IMAGES, "planned": [], "stored": []}
    for count in (10_000, 100_000, 1_000_000):
        found["planned"].append(alone("--part", "planned", str(count // shrink)))
        print(json.dumps(found["planned"][-1]), flush=True)
    for count in (10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            root = str(Path(folder) / "s")
            row = alone("--part", "filled", str(count // shrink), root)
            row["resume"] = alone("--part", "resumed", str(count // shrink), root)
            row["status"] = alone("--part", "status", root)
            os.environ["SCALE_CELLS"] = str(count // shrink)
            row["status_study"] = alone("--part", "status-study", root, f"{__file__}:asked_study")
            row["gc"] = alone("--part", "gc", root)
        found["stored"].append(row)
        print(json.dumps(row), flush=True)
    if not words.quick:
        (HERE / "results" / "scale.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def asked_study() -> Any:
    """The study of the store being measured, for `robassay status`."""
    return study(int(os.environ["SCALE_CELLS"]))


if __name__ == "__main__":
    main()
