"""What all commands share: the program, its options, and how a study is carried out and written."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from robassay.errors import Interrupted, LostCell, RobassayError, UsageError, tell
from robassay.version import __version__

app = typer.Typer(
    name="robassay",
    help="Tells whether a classifier's adversarial robustness is real. Start with: robassay demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

StoreOption = Annotated[Path, typer.Option("--store", help="Folder that keeps results; an interrupted run goes on.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Processes; 0 computes in this one. Default: one per core.")
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder with <name>-train.parquet, <name>-test.parquet.")
]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="auto|HOST:PORT", help="Compute on this Ray cluster; see docs/cluster.md."),
]
GpuOption = Annotated[
    float | None,
    typer.Option(
        "--gpu",
        min=0,
        max=1,
        help="Share of a GPU that a cell claims; 0: CPUs. Default: 1 on a cluster with GPUs, else 0.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
GRACE = 20.0
READ_TRIES = 3
"""Times a study is carried out when finished cells turn out to be damaged as they are read."""
STORE = Path("robassay-store")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


def run_study(
    study: Any,
    store: Path,
    workers: int,
    quiet: bool,
    grace: float = GRACE,
    ray: str | None = None,
    gpu: float | None = None,
) -> dict[str, Any]:
    """Carry out a study, keep its frozen form, return its document."""
    from robassay.document import Document
    from robassay.lowest import Lowest
    from robassay.run import carry_out
    from robassay.run.stopping import until_told
    from robassay.store import Store

    place, frozen = Store(store), study.freeze()
    place.save_study(study.name, frozen)
    for turn in range(READ_TRIES):
        try:
            with until_told(grace) as stop:
                worst = Lowest(study.items, place)
                outcome = carry_out(
                    study.needs(), place, workers, quiet=quiet, stop=stop, ray=ray, gpu=gpu, worst=worst
                )
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted; what was finished is kept. Run the same command again to go on.") from error
        if outcome.failed:
            blocked = f", and {len(outcome.blocked)} that need them" if outcome.blocked else ""
            first = next(iter(outcome.failed.values()))
            raise RobassayError(
                f"{len(outcome.failed)} cells failed{blocked}. The first: {first}\n"
                "What was finished is kept; run the same command again to try them again."
            )
        try:
            return Document(frozen, place).whole()
        except LostCell as lost:  # since it was computed, or looked at
            if turn + 1 == READ_TRIES:
                raise
            tell(f"robassay: {lost}")
    raise AssertionError("not reached")


def write_page(name: str, store: Path, page: Path | None) -> Path:
    from robassay.report.write import write_report

    return write_report(name, store, page)


def save(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"'{file}' cannot be written: {error.strerror}. Choose another place.") from error


def command_line() -> str:
    return shlex.join(["robassay", *sys.argv[1:]])
