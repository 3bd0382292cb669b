"""All measurements against peers, one after the other, each in a process of its own; then the page.

Run:   python bench/run.py [NAME …] [--page]     (make bench runs all; --page only writes docs/benchmarks.md)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import page

HERE = Path(__file__).parent
MEASURED = (
    "attacks",
    "black_box",
    "eot",
    "spiking",
    "neurons",
    "inference",
    "networks",
    "sefron",
    "stdp",
    "loading",
    "overheads",
    "limits",
    "growth",
    "audits",
)
NEEDS_DATA = ("audits", "sefron", "stdp", "loading")


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASURED))
    ask.add_argument("--page", action="store_true", help="measure nothing")
    said = ask.parse_args()
    names = [] if said.page else said.names or list(MEASURED)
    if unknown := set(names) - set(MEASURED):
        raise SystemExit(f"{', '.join(sorted(unknown))} is not measured here. Choose of {', '.join(MEASURED)}.")
    failed = []
    for number, name in enumerate(names, 1):
        if name in NEEDS_DATA and not os.environ.get("ROBASSAY_DATA"):
            print(f"{name}: left out; set ROBASSAY_DATA to the folder that holds mnist-train.parquet.", flush=True)
            continue
        begun = time.monotonic()
        print(f"\n== {name} ({number} of {len(names)})", flush=True)
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=False)
        if done.returncode:
            failed.append(name)
        else:
            page.remember(name)
        print(f"== {name}: {time.monotonic() - begun:.0f} s", flush=True)
    print(page.write())
    if failed:
        raise SystemExit(f"These failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
