"""Commands about networks: audit them, compare audits, ask other evaluators, check parts of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from robassay.cli.common import (
    CORES,
    STORE,
    DataDirOption,
    JsonFlag,
    QuietFlag,
    StoreOption,
    WorkersOption,
    app,
    command_line,
    run_study,
    save,
    write_page,
)
from robassay.errors import UsageError, printable

VERDICTS = ("holds", "no_flaw_found", "overstated", "artefact", "undecided")


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
    document = run_study(study, store, workers, quiet=False)
    page = write_page(study.name, store, report)
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
        str,
        typer.Option(
            help="The claimed evaluation: ATTACK:field=value,… or FILE.py:ATTACK:… Default: the field's usual."
        ),
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
    from robassay.evidence import galleries
    from robassay.report.write import overview
    from robassay.study import Study

    failing = _verdicts(fail_on)
    items = _audit_items(
        target, weights, data, data_dir, linf, l2, examples, draws, budget, delta, claimed, split, store, seed
    )
    if proof is not None:
        _check_proof(items, proof)
    name = "audit-" + items[0].claimed[0].key[:8]
    shown = (*items, *(gallery for item in items for gallery in galleries(item)))
    study = Study(name, f"Audit of {target}", shown, scale="audit", command=command_line())
    document = run_study(study, store, workers, quiet)
    results = document["audits"]
    if json_out is not None:
        whole = results[0] if len(results) == 1 else {"schema": 1, "audits": results}
        save(json_out, json.dumps(whole, indent=1))
    if report is not None:
        write_page(name, store, report)
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
        return (plan_audit(kept, on, threat, budget, draws, delta, place, name, command_line(), claimed),)  # type: ignore[arg-type]
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
        items.append(plan_audit(model, on, threat, budget, draws, delta, place, name, command_line(), claimed))  # type: ignore[arg-type]
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
def leaderboard(
    folder: Annotated[Path | None, typer.Argument(help="Folder of what `robassay audit --json` wrote.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the site: index.html and a card per audit.")] = None,
    check: Annotated[
        list[Path] | None, typer.Option("--check", help="Only say whether this entry fits together; repeat it.")
    ] = None,
    json_out: JsonFlag = False,
) -> None:
    """Publish many audits as one static page, claims beside what was delivered; or check an entry.

    Exits with 1 when a checked entry has faults.

    Examples:  robassay leaderboard entries/ --out site/
               robassay leaderboard --check entries/mine.json
    """
    from robassay.leaderboard import check as checked
    from robassay.leaderboard import publish

    if check:
        _told([checked(file) for file in check], json_out)
        return
    if folder is None or out is None:
        raise UsageError("write a folder of entries and --out for the site, or --check with an entry.")
    made = publish(folder, out)
    if json_out:
        print(json.dumps([str(file) for file in made], indent=1))
    else:
        print(f"{made[0]}: {len(made) - 1} audits")


def _told(found: list[Any], json_out: bool) -> None:
    """Print what is wrong with checked entries, and exit with 1 if anything is."""
    if json_out:
        told = [{"file": str(one.file), "digests": one.digests, "faults": one.faults} for one in found]
        print(json.dumps(told, indent=1, ensure_ascii=False))
    for one in [] if json_out else found:
        for fault in one.faults:
            print(printable(f"FAIL {one.file}: {fault}"))
        for audit, digest in zip(one.audits, one.digests, strict=True):
            print(printable(f"ok   {one.file}: {audit['title']}: {audit['verdict']}, digest {digest}"))
    if any(one.faults for one in found):
        raise typer.Exit(1)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Your Python file with parts marked @robassay.part, or FILE.py:build.")],
    json_out: JsonFlag = False,
) -> None:
    """Put your own attacks, estimators and networks through the contract exams.

    Example:  robassay check mine.py
    """
    from robassay.exams import Pace, examine
    from robassay.run.progress import LINE_EVERY
    from robassay.testing.exam import watcher

    watcher.set(Pace(3.0 if sys.stderr.isatty() else LINE_EVERY))
    results = examine(str(file))
    if json_out:
        print(json.dumps(results, indent=1))
    else:
        for one in results:
            print(f"{'ok  ' if one['ok'] else 'FAIL'} {one['part']}: {one['promise']}{one['detail']}")
    if not all(one["ok"] for one in results):
        raise typer.Exit(1)


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
