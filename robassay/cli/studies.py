"""Commands about studies: plan, run and report them, hand their numbers and weights on, list what there is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from robassay.cli.common import (
    CORES,
    GRACE,
    STORE,
    DataDirOption,
    GpuOption,
    JsonFlag,
    QuietFlag,
    RayOption,
    StoreOption,
    WorkersOption,
    app,
    run_study,
    write_page,
)
from robassay.errors import UsageError

StudyArgument = Annotated[str, typer.Argument(help="demo, a name from `robassay list papers`, or FILE.py[:study].")]
ScaleOption = Annotated[str, typer.Option("--scale", help="smoke, small or full.")]


@app.command()
def plan(
    study: StudyArgument,
    scale: ScaleOption = "small",
    data_dir: DataDirOption = None,
    store: StoreOption = STORE,
    json_out: JsonFlag = False,
) -> None:
    """Say what a study needs and what is already there; computes nothing.

    Example:  robassay plan my_study.py
    """
    from collections import Counter

    from robassay.plan import plan as make_plan
    from robassay.store import Store
    from robassay.studies import load_study

    wanted = load_study(study, scale, data_dir)
    planned = make_plan(wanted.needs(), Store(store) if store.exists() else None)
    kinds = Counter(type(c).__name__.lower() for c in planned.order)
    todo = Counter(type(c).__name__.lower() for c in planned.todo)
    if json_out:
        cells = [{"key": c.key, "type": type(c).__name__, "done": c.key in planned.done} for c in planned.order]
        print(json.dumps({"study": wanted.name, "cells": cells, "todo": len(planned.todo)}, indent=1))
        return
    print(f"{wanted.title}: {len(planned.order)} cells, {len(planned.todo)} to compute")
    for kind, count in kinds.items():
        print(f"  {kind:10} {count:6}  {todo[kind]:6} to compute")


@app.command()
def run(
    study: StudyArgument,
    scale: ScaleOption = "small",
    data_dir: DataDirOption = None,
    store: StoreOption = STORE,
    workers: WorkersOption = CORES,
    report: Annotated[Path | None, typer.Option(help="Where the HTML goes.")] = None,
    quiet: QuietFlag = False,
    grace: Annotated[float, typer.Option(min=0, help="Seconds running cells may take after SIGTERM.")] = GRACE,
    ray: RayOption = None,
    gpu: GpuOption = None,
    adopt: Annotated[Path | None, typer.Option(help="Folder of trained weights to take over first.")] = None,
    json_out: JsonFlag = False,
) -> None:
    """Compute what a study still needs and write its report. Interrupt it and run it again: it goes on.

    Examples:  robassay run my_study.py --workers 2
               robassay run papers --adopt results/weights --data-dir ~/data
               robassay run my_study.py --ray auto --gpu 0.5
    """
    from robassay.studies import load_study, members, together

    parts = {name: load_study(name, scale, data_dir) for name in members(study)}
    if parts and report is not None:
        raise UsageError(
            f"'{study}' writes a report of each of {len(parts)} studies, --report names one file. Leave it out."
        )
    wanted = together(study, parts, scale) if parts else load_study(study, scale, data_dir)
    if adopt is not None:
        _adopt(wanted, store, adopt)
    document = run_study(wanted, store, workers, quiet, grace, ray, gpu)
    documents = []
    for one in parts.values() or (wanted,):
        # Of a group all is computed by now.
        document = run_study(one, store, workers, quiet, grace, ray, gpu) if parts else document
        page = write_page(one.name, store, report)
        del document["galleries"]  # images belong into the report
        documents.append(document)
        if json_out:
            continue
        from robassay.report.write import claims, overview

        if document["audits"]:
            overview(document["audits"])
        if document["checks"]:
            claims(document["checks"])
        print(f"report: {page}")
    if json_out:
        print(json.dumps(documents if parts else documents[0], indent=1))


@app.command()
def report(
    store: Annotated[Path, typer.Argument(help="The folder a run wrote to.")] = STORE,
    study: Annotated[str | None, typer.Option(help="Which of its studies; not needed when there is one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the HTML goes.")] = None,
) -> None:
    """Write the report of a stored study again; needs neither torch nor the code that described it.

    Example:  robassay report robassay-store --study demo
    """
    from robassay.document import study_in
    from robassay.store import Store

    name = str(study_in(Store(store, create=False), study).get("name"))
    print(f"report: {write_page(name, store, out)}")


@app.command()
def export(
    study: Annotated[str, typer.Argument(help="Name of a study in the store.")],
    store: StoreOption = STORE,
    to: Annotated[Path | None, typer.Option(help="Folder for results.json and a CSV per table.")] = None,
    results: Annotated[bool, typer.Option("--results", help="Write results/<scale>/<study>.json instead.")] = False,
) -> None:
    """Write a study's numbers with intervals, n, published values, cell keys and provenance.

    Example:  robassay export demo --to figures/
    """
    from robassay.report.write import export_files

    for file in export_files(study, store, Path("results") if results else to or Path(f"{study}-export"), results):
        print(file)


@app.command()
def weights(
    study: StudyArgument,
    to: Annotated[Path, typer.Argument(help="Folder for the weights and their index.")],
    scale: ScaleOption = "small",
    data_dir: DataDirOption = None,
    store: StoreOption = STORE,
    most: Annotated[float, typer.Option(help="MB in all; what trained longest per byte comes first.")] = 10.0,
) -> None:
    """Write a study's trained networks as safetensors under their cell keys, for `robassay run --adopt`.

    Example:  robassay weights networks-ge results/weights
    """
    from robassay.adopt import share
    from robassay.store import Store
    from robassay.studies import load_study

    done = share(load_study(study, scale, data_dir).needs(), Store(store, create=False), to, most)
    print(f"{to}: {len(done.written)} trained networks" + f", {len(done.left_out)} left out" * bool(done.left_out))


@app.command(name="list")
def list_parts(
    kind: Annotated[
        str, typer.Argument(help="nets, attacks, defences, policies, estimators, augmentations, data, papers or zoo.")
    ],
    json_out: JsonFlag = False,
) -> None:
    """List what there is by name.

    Example:  robassay list attacks --json
    """
    from robassay.studies import listing

    found = listing(kind)
    if json_out:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    width = max((len(e["name"]) for e in found), default=0)
    for entry in found:
        print(f"{entry['name']:{width}}  {entry['summary']}")
    if not found:
        print(f"no {kind} yet")


def _adopt(study: Any, store: Path, folder: Path) -> None:
    """Take over trained cells and say what came of it."""
    from robassay.adopt import adopt
    from robassay.store import Store

    done = adopt(study.needs(), Store(store), folder)
    rest = f"; {len(done.unasked)} in {folder} are of other studies" if done.unasked else ""
    print(f"adopted {len(done.taken)} trained networks, {len(done.had)} were there{rest}", file=sys.stderr)
