"""Commands about stores: how far a study is, whether its results can be trusted, what can be deleted."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from robassay.cli.common import STORE, DataDirOption, JsonFlag, StoreOption, app
from robassay.errors import RobassayError, printable

SHOWN = 20
"""Cells of a kind that are listed one by one."""
StudyArgument = Annotated[str, typer.Argument(help="demo, a name from `robassay list papers`, or FILE.py[:study].")]
ScaleOption = Annotated[str, typer.Option("--scale", help="smoke, small or full.")]


@app.command()
def status(
    study: Annotated[
        str | None, typer.Argument(help="As for run; without it, how far every study of the store is.")
    ] = None,
    scale: ScaleOption = "small",
    data_dir: DataDirOption = None,
    store: StoreOption = STORE,
    json_out: JsonFlag = False,
) -> None:
    """Say what is done, running, failed and why, blocked and by what, and the command that goes on.

    Examples:  robassay status my_study.py
               robassay status --store results-of-a-friend
    """
    if study is None:
        _status_of_store(store, json_out)
        return
    from robassay.plan import plan as make_plan
    from robassay.run.progress import title
    from robassay.standing import standing
    from robassay.store import Store
    from robassay.studies import load_study

    place = Store(store, create=False)
    wanted = load_study(study, scale, data_dir)
    planned = make_plan(wanted.needs(), place)
    found = standing(planned, place)
    todo = len(planned.todo)
    command = _command(study, scale, data_dir, store)
    if json_out:
        told = {"study": wanted.name, "cells": len(planned.order), "todo": todo, **found._asdict(), "command": command}
        print(json.dumps(told, indent=1))
        return
    names = {c.key: title(c) for c in planned.todo}
    print(f"{wanted.title}: {found.done} of {len(planned.order)} cells done, {todo} to compute")
    _list("running", found.running, names)
    _list("interrupted", found.interrupted, names)
    _list("failed", found.failed, names)
    for bad, count in Counter(found.blocked.values()).items():
        print(f"  blocked: {count} that need {names[bad]} ({bad}), which failed")
    if found.waiting:
        print(f"  waiting: {len(found.waiting)}")
    if todo:
        print(f"go on with: {command}")


def _list(word: str, cells: dict[str, str], names: dict[str, str]) -> None:
    for key, why in list(cells.items())[:SHOWN]:
        print(f"  {word}: {names[key]} ({key}): {printable(why)}")
    if len(cells) > SHOWN:
        print(f"  {word}: {len(cells) - SHOWN} more; --json lists them all")


def _command(study: str, scale: str, data_dir: Path | None, store: Path) -> str:
    words = ["robassay", "run", study, *(["--scale", scale] if scale != "small" else [])]
    words += ["--data-dir", str(data_dir)] if data_dir is not None else []
    return shlex.join([*words, "--store", str(store)])


def _status_of_store(store: Path, json_out: bool) -> None:
    from robassay.standing import stored
    from robassay.store import Store

    found = stored(Store(store, create=False))
    if json_out:
        print(json.dumps(found, indent=1))
        return
    for name, one in found.items():
        rest = f", {one['missing']} to compute" if one["missing"] else ""
        running = f", {one['running']} running" if one["running"] else ""
        print(f"{name}: {printable(one['title'])}: {one['done']} of {one['cells']} cells done{rest}{running}")
        for key, why in list(one["failed"].items())[:SHOWN]:
            print(f"  failed: {key}: {printable(why)}")
        if one["missing"]:
            command = printable(one["command"]) or f"robassay run STUDY --store {store}, STUDY being what was run"
            print(f"  go on with: {command}")
    if not found:
        print(f"no study in {store}")


@app.command()
def verify(
    study: StudyArgument,
    scale: ScaleOption = "small",
    data_dir: DataDirOption = None,
    store: StoreOption = STORE,
    count: Annotated[int, typer.Option("--sample", min=0, help="Finished cells that are computed again.")] = 5,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    keys: Annotated[
        list[str] | None, typer.Option("--cell", help="These cells instead of a sample: keys, as a report shows them.")
    ] = None,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Move what is damaged or differs to damaged/, to be computed anew.")
    ] = False,
    json_out: JsonFlag = False,
) -> None:
    """Check the digest of every finished cell, compute a sample again, compare the bits; exit with 1 if some differ.

    Examples:  robassay verify my_study.py --sample 20
               robassay verify tan2020 --cell 761cfe13fb2dcb2b
    """
    from robassay.plan import plan as make_plan
    from robassay.recheck import asked, damaged, described, recheck, sample
    from robassay.run.progress import title
    from robassay.store import Store
    from robassay.studies import load_study

    place = Store(store, create=False)
    planned = make_plan(load_study(study, scale, data_dir).needs(), place)
    found = damaged(planned.order, place)
    bad = {one.cell.key for one in found}
    whole = [c for c in planned.order if c.key not in bad]
    chosen = asked(whole, place, keys) if keys else sample(whole, place, count, seed)
    if not json_out:
        print(f"{len(planned.done)} finished cells read, {len(found)} damaged")
        spent = sum(float(place.about(c.key).get("seconds", 0.0)) for c in chosen)
        print(f"computing {len(chosen)} again, which took {spent:.0f} s")
    for cell in chosen:
        found.append(recheck(cell, place))
        if not json_out:
            print(f"  {described(found[-1], title)}")
    wrong = [one for one in found if one.result not in ("equal", "elsewhere")]
    if json_out:
        cells = [{"key": one.cell.key, "result": one.result, "detail": one.detail} for one in found]
        print(json.dumps({"read": len(planned.done), "cells": cells}, indent=1))
    else:
        for one in found:
            if one.result == "damaged":
                print(f"  {described(one, title)}")
        counts = Counter(one.result for one in found)
        print(", ".join(f"{n} {word}" for word, n in counts.items()) or "nothing to compare")
    if set_aside:
        for one in wrong:
            if one.result in ("damaged", "differs"):
                place.set_aside(one.cell.key)
    if wrong:
        raise typer.Exit(1)


@app.command()
def gc(
    store: StoreOption = STORE,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed.")] = False,
    json_out: JsonFlag = False,
) -> None:
    """List what no study of the store asks for, and what broken runs have left; with --yes delete it.

    Audits of a notebook and `robassay referee` leave no study behind: their cells are listed, too.

    Example:  robassay gc --store robassay-store
    """
    from robassay.store import Store
    from robassay.tidy import Litter, delete, litter

    place = Store(store, create=False)
    try:
        found = litter(place)
    except (KeyError, TypeError) as error:
        raise RobassayError(f"a study in '{store}' cannot be read ({error!r}). Run it again first.") from error
    if yes:
        delete(place, found)
    if json_out:
        listed: list[dict[str, Any]] = [{**one._asdict(), "path": str(one.path)} for one in found]
        print(json.dumps({"deleted": yes, "found": listed}, indent=1))
        return
    kinds: dict[str, list[Litter]] = {}
    for one in found:
        kinds.setdefault(one.what, []).append(one)
    for what, some in kinds.items():
        print(f"{len(some):6}  {_bytes(sum(one.size for one in some)):>9}  {printable(what)}")
        for one in some[:3]:
            print(f"                     {one.path.relative_to(place.root)}")
    total = _bytes(sum(one.size for one in found))
    if not found:
        print("nothing to delete")
    elif yes:
        print(f"deleted {len(found)}, {total}")
    else:
        print(f"{len(found)} could go, {total}. Nothing was deleted; to delete them: {_again(store)}")


def _again(store: Path) -> str:
    return shlex.join(["robassay", "gc", "--store", str(store), "--yes"])


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
