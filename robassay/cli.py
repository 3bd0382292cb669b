"""The command line. Every command prints for people, or with --json for programs; errors go to standard error.

Exit codes: 0 it ran, 1 something failed, 2 it was asked for something it cannot do, 3 a --fail-on verdict
or --fail-if-worse, 130 Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from robassay.errors import Interrupted, RobassayError, UsageError
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
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
STORE = Path("robassay-store")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
VERDICTS = ("holds", "no_flaw_found", "overstated", "artefact", "undecided")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="digits (embedded), mnist, or another data set at hand.")] = "digits",
    data_dir: DataDirOption = None,
    examples: Annotated[int | None, typer.Option(min=20, help="Test images audited.")] = None,
    store: StoreOption = STORE,
    workers: WorkersOption = CORES,
    report: Annotated[Path | None, typer.Option(help="Where the HTML goes.")] = None,
    json_out: JsonFlag = False,
) -> None:
    """Train five small networks, audit them, print what the usual attack misses, write a report.

    Example:  robassay demo --data mnist --data-dir ~/data
    """
    from robassay.data import find
    from robassay.demo import demo_study
    from robassay.report.write import overview

    study = demo_study(find(data, data_dir), examples)
    document = _run(study, store, workers, quiet=False)
    page = _write(study.name, store, report)
    if json_out:
        del document["galleries"]  # images belong into the report
        print(json.dumps(document, indent=1))
    else:
        overview(document["audits"])
        print(f"\nreport: {page}")


@app.command()
def audit(
    target: Annotated[
        str, typer.Argument(help="FILE.py:build, a function that returns your torch module; or zoo:NAME.")
    ],
    weights: Annotated[
        list[Path] | None, typer.Option(help="State dict (.safetensors, .pt); repeat it for several training seeds.")
    ] = None,
    data: Annotated[str, typer.Option(help="Name, folder of images, or .parquet file.")] = "digits",
    data_dir: DataDirOption = None,
    linf: Annotated[str | None, typer.Option(help="Radius of the L∞ ball: 0.1, or 8/255.")] = None,
    l2: Annotated[str | None, typer.Option(help="Radius of the L2 ball.")] = None,
    examples: Annotated[int, typer.Option(min=20, help="Test images.")] = 200,
    draws: Annotated[int, typer.Option(min=2, help="Fresh draws that judge each image.")] = 100,
    budget: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "quick",
    delta: Annotated[float, typer.Option(help="Gap in accuracy not held against a claim.")] = 0.05,
    claimed: Annotated[
        str, typer.Option(help="The claimed evaluation: ATTACK:field=value,… Default: the field's usual attack.")
    ] = "",
    split: Annotated[
        str,
        typer.Option(help="Submodule after which a random network's noise begins; 'none': nowhere. Default: found."),
    ] = "",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the HTML report here.")] = None,
    proof: Annotated[
        Path | None, typer.Option(help="Write the attack that won here, as a Python file of plain torch.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Training seed of a network of the zoo.")] = 0,
    card: Annotated[Path | None, typer.Option(help="Write the public card here, one SVG per network.")] = None,
    fail_on: Annotated[str, typer.Option(help="Exit with 3 on these verdicts, e.g. artefact,overstated.")] = "",
    store: StoreOption = STORE,
    workers: WorkersOption = CORES,
    quiet: QuietFlag = False,
) -> None:
    """Audit your own network: an nn.Module that maps images in [0,1] to logits.

    Examples:  robassay audit mine.py:build --weights w.safetensors --data mnist --linf 0.1
               robassay audit mine.py:build --linf 8/255 --claimed pgd:steps=20,step=2/255,draws=1
               robassay audit zoo:noise-head --seed 1
    """
    from robassay.report.write import overview
    from robassay.study import Study

    failing = _verdicts(fail_on)
    items = _audit_items(
        target, weights, data, data_dir, linf, l2, examples, draws, budget, delta, claimed, split, store, seed
    )
    if proof is not None:
        _check_proof(items, proof)
    name = "audit-" + items[0].claimed[0].key[:8]
    study = Study(name, f"Audit of {target}", items, scale="audit", command=_command_line())
    document = _run(study, store, workers, quiet)
    results = document["audits"]
    if json_out is not None:
        whole = results[0] if len(results) == 1 else {"schema": 1, "audits": results}
        _save(json_out, json.dumps(whole, indent=1))
    if report is not None:
        _write(name, store, report)
    overview(results)
    for result in results:
        print(f"\n{result['title']}: {result['sentence']}")
        print(f"  claimed: {result['claim']}")
        if result["next"]:
            print(f"  next: {result['next']}")
        for check in result["checks"]:
            print(f"  {'!' if check['flag'] else ' '} {check['question']} {check['answer']}")
    if report is not None:
        print(f"\nreport: {report}")
    if proof is not None:
        from robassay.proof import write_proof
        from robassay.store import Store

        print(f"\n{proof}: {write_proof(items[0], results[0], proof, Store(store))}")
    if card is not None:
        from robassay.report.write import write_card

        print(f"\ncard: {', '.join(map(str, write_card(results, card)))}")
    if any(result["verdict"] in failing for result in results):
        raise typer.Exit(3)


def _check_proof(items: tuple[Any, ...], proof: Path) -> None:
    from robassay.proof import check_provable

    if len(items) > 1:
        raise UsageError("--proof writes the proof of one network. Give one --weights.")
    check_provable(items[0], proof)


def _audit_items(
    target: str,
    weights: list[Path] | None,
    data: str,
    data_dir: Path | None,
    linf: str | None,
    l2: str | None,
    examples: int,
    draws: int,
    budget: str,
    delta: float,
    claimed: str,
    split: str,
    store: Path,
    seed: int,
) -> tuple[Any, ...]:
    from robassay import zoo
    from robassay.auditing import plan_audit, threat_of
    from robassay.cells import Examples
    from robassay.data import find
    from robassay.given import given
    from robassay.store import Store

    if ":" not in target:
        raise UsageError(f"'{target}' names no function. Write FILE.py:build, where build() returns your module.")
    if not 0 < delta < 1:
        raise UsageError(f"--delta {delta} is no gap in accuracy. Write --delta 0.05 for 5 points.")
    radii = _radius(linf, "--linf"), _radius(l2, "--l2")
    if target.startswith(zoo.PREFIX):
        if weights:
            raise UsageError("a network of the zoo has weights of its own. Leave --weights out; --seed chooses them.")
        kept, own, claimed = zoo.asked(target, *radii, claimed, seed)
        on = Examples(find(data, data_dir), "test", 0, examples)
        on.load()
        place, name = Store(store), f"{target} {seed}"
        threat = threat_of(own, radii[1])
        return (plan_audit(kept, on, threat, budget, draws, delta, place, name, _command_line(), claimed),)  # type: ignore[arg-type]
    threat = threat_of(*radii)
    file, build = target.rsplit(":", 1)
    if not Path(file).is_file():
        raise UsageError(f"No file '{file}'. Write the path of a Python file, such as model.py:build.")
    on = Examples(find(data, data_dir), "test", 0, examples)
    on.load()
    place = Store(store)
    items = []
    for path in weights or [None]:  # type: ignore[list-item]
        model = given(file, build, None if path is None else str(path), on, split)
        name = f"{Path(file).name}:{build}" + (f" {path.name}" if path is not None else "")
        items.append(plan_audit(model, on, threat, budget, draws, delta, place, name, _command_line(), claimed))  # type: ignore[arg-type]
    return tuple(items)


@app.command()
def referee(
    tool: Annotated[str, typer.Option(help="ours, foolbox or pyautoattack.")] = "ours",
    budget: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "quick",
    nets: Annotated[list[str] | None, typer.Option(help="Name of the zoo; repeat it. Default: all.")] = None,
    seeds: Annotated[int, typer.Option(help="Training seeds of each, 1 to 3.")] = 3,
    images: Annotated[int, typer.Option(min=20, help="Test images.")] = 200,
    json_out: JsonFlag = False,
    store: StoreOption = STORE,
    workers: WorkersOption = CORES,
    quiet: QuietFlag = False,
) -> None:
    """Run an evaluator over networks whose truth is known, and say what it finds and what it misses.

    Example:  robassay referee --tool foolbox --nets plain-x100 --nets hardened
    """
    from robassay.referee import referee as settled
    from robassay.referee.show import show
    from robassay.store import Store

    result = settled(tool, Store(store), budget, nets or (), seeds, images, workers, quiet)  # type: ignore[arg-type]
    if json_out:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        show(result)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="What `robassay audit --json` wrote then.")],
    new: Annotated[Path, typer.Argument(help="What it wrote now.")],
    fail_if_worse: Annotated[
        bool,
        typer.Option("--fail-if-worse", help="Exit with 3 if robust accuracy fell for certain, or the verdict did."),
    ] = False,
    json_out: JsonFlag = False,
) -> None:
    """Compare an audit with an earlier one: which changes are larger than chance.

    Example:  robassay compare before.json after.json --fail-if-worse
    """
    from robassay.compare import compare as compared
    from robassay.compare import table

    found = compared(old, new)
    if json_out:
        print(json.dumps([one.as_json() for one in found], indent=1, ensure_ascii=False))
    else:
        print("\n\n".join(table(one) for one in found))
    if fail_if_worse:
        other = next((one for one in found if not one.same_ball), None)
        if other is not None:
            raise UsageError(f"{other.title}: {other.notes[0]}. Better or worse can only be said within the same ball.")
        if any(one.worse for one in found):
            raise typer.Exit(3)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Your Python file with parts marked @robassay.part, or FILE.py:build.")],
    json_out: JsonFlag = False,
) -> None:
    """Put your own attacks, estimators and networks through the contract exams.

    Example:  robassay check mine.py
    """
    from robassay.exams import examine

    results = examine(str(file))
    if json_out:
        print(json.dumps(results, indent=1))
    else:
        for one in results:
            print(f"{'ok  ' if one['ok'] else 'FAIL'} {one['part']}: {one['promise']}{one['detail']}")
    if not all(one["ok"] for one in results):
        raise typer.Exit(1)


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
    adopt: Annotated[Path | None, typer.Option(help="Folder of trained weights to take over first.")] = None,
) -> None:
    """Compute what a study still needs and write its report. Interrupt it and run it again: it goes on.

    Examples:  robassay run my_study.py --workers 2
               robassay run networks-ge --adopt results/weights --data-dir ~/data
    """
    from robassay.studies import load_study

    wanted = load_study(study, scale, data_dir)
    if adopt is not None:
        _adopt(wanted, store, adopt)
    document = _run(wanted, store, workers, quiet)
    page = _write(wanted.name, store, report)
    if document["audits"]:
        from robassay.report.write import overview

        overview(document["audits"])
    print(f"report: {page}")


@app.command()
def status(
    study: StudyArgument,
    scale: ScaleOption = "small",
    data_dir: DataDirOption = None,
    store: StoreOption = STORE,
    json_out: JsonFlag = False,
) -> None:
    """Say what is done, what is missing, what failed and why, and the command that goes on.

    Example:  robassay status my_study.py
    """
    from robassay.plan import plan as make_plan
    from robassay.run.progress import title
    from robassay.store import Store
    from robassay.studies import load_study

    wanted = load_study(study, scale, data_dir)
    place = Store(store, create=False)
    planned = make_plan(wanted.needs(), place)
    failures = {c: e for c, e in place.failures().items() if c in {x.key for x in planned.todo}}
    if json_out:
        found = {"study": wanted.name, "cells": len(planned.order), "todo": len(planned.todo), "failed": failures}
        print(json.dumps(found, indent=1))
        return
    names = {c.key: title(c) for c in planned.todo}
    print(f"{wanted.title}: {len(planned.done)} of {len(planned.order)} cells done, {len(planned.todo)} to compute")
    for key, error in failures.items():
        print(f"  failed: {names[key]} ({key}): {error}")
    if planned.todo:
        print(f"go on with: robassay run {study} --store {store}")


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

    name = study_in(Store(store, create=False), study)["name"]
    print(f"report: {_write(name, store, out)}")


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
    most: Annotated[float, typer.Option(help="MB in all; the smallest networks come first.")] = 10.0,
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


# ------------------------------------------------------------------------------------------------------------ helpers


def _adopt(study: Any, store: Path, folder: Path) -> None:
    """Take over trained cells and say what came of it."""
    from robassay.adopt import adopt
    from robassay.store import Store

    done = adopt(study.needs(), Store(store), folder)
    rest = f"; {len(done.unasked)} in {folder} are of other studies" if done.unasked else ""
    print(f"adopted {len(done.taken)} trained networks, {len(done.had)} were there{rest}", file=sys.stderr)


def _run(study: Any, store: Path, workers: int, quiet: bool) -> dict[str, Any]:
    """Carry out a study, keep its frozen form, return its document."""
    from robassay.document import Document
    from robassay.run import carry_out
    from robassay.store import Store

    place = Store(store)
    place.save_study(study.name, study.freeze())
    try:
        outcome = carry_out(study.needs(), place, workers, quiet=quiet)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; what was finished is kept. Run the same command again to go on.") from error
    if outcome.failed:
        blocked = f", and {len(outcome.blocked)} that need them" if outcome.blocked else ""
        first = next(iter(outcome.failed.values()))
        raise RobassayError(f"{len(outcome.failed)} cells failed{blocked}. The first: {first}")
    return Document(study.freeze(), place).whole()


def _write(name: str, store: Path, page: Path | None) -> Path:
    from robassay.report.write import write_report

    return write_report(name, store, page)


def _save(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"'{file}' cannot be written: {error.strerror}. Choose another place.") from error


def _radius(text: str | None, option: str) -> float | None:
    """A radius such as "0.1" or "8/255"."""
    if text is None:
        return None
    try:
        above, _, below = text.partition("/")
        return float(above) / (float(below) if below else 1.0)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{option} {text} is no number. Write {option} 0.1, or {option} 8/255.") from error


def _verdicts(text: str) -> set[str]:
    wanted = {word.strip() for word in text.split(",") if word.strip()}
    for word in wanted - set(VERDICTS):
        raise UsageError(f"--fail-on {word}: no such verdict. Write one or several of {', '.join(VERDICTS)}.")
    return wanted


def _command_line() -> str:
    import shlex

    return shlex.join(["robassay", *sys.argv[1:]])


def main() -> None:
    """Run the command line; every known error becomes one message and an exit code."""
    try:
        app()
    except RobassayError as error:
        print(f"robassay: {error}", file=sys.stderr)
        sys.exit(130 if isinstance(error, Interrupted) else 2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    main()
