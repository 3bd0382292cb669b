"""What travels to a worker on another machine and back: cells, the user's files by content, and what a machine lacks.

A worker that sees the driver's store computes in it. One that does not says what it lacks: stored cells, decoded data
sets, weights. It is then handed these, computes in a scratch store of its own, and the driver writes the result. Knows
nothing of how things travel: ``fetch`` turns a handle into what it stands for.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.numpy import load

from robassay import data
from robassay.cell import Cell, with_needs
from robassay.errors import RobassayError, Unwritable, UsageError
from robassay.given import Given
from robassay.registry import Carried, content_digest, lend, receive
from robassay.run.devices import settle
from robassay.run.worker import Done, compute
from robassay.store import Store
from robassay.version import __version__

FILES = ("out.safetensors", "cell.json", "log.txt")
Fetch = Callable[[Any], Any]


class Parcel(NamedTuple):
    """Work for one worker process."""

    cells: tuple[bytes, ...]
    """Pickled by our own driver, computed one after the other."""
    files: tuple[Carried, ...]
    """The user's files whose classes or functions they need."""
    root: str
    """The driver's store."""
    token: str
    """What the file :func:`beacon` holds where that store is visible."""
    device: str
    versions: tuple[str, ...]
    goods: dict[str, Any]
    """Handles of what some worker lacked, by name (:func:`luggage`); None for a cell that the driver's store lacks."""
    seconds: float
    """After so long the rest of the cells is handed back."""


class Answer(NamedTuple):
    """What a worker process makes of a parcel."""

    done: tuple[Done, ...] = ()
    left: tuple[str, ...] = ()
    """Keys of cells that were not begun."""
    results: dict[str, dict[str, bytes]] = {}  # noqa: RUF012 (never written to)
    """Files of the finished cells, and logs of failed ones, by key; empty where the worker sees the store."""
    lacks: tuple[str, ...] = ()
    """Names of what must be handed over first; nothing was computed."""
    refused: str = ""
    """Why this machine cannot compute for the driver."""


# ------------------------------------------------------------------------------------------------------- both sides


def versions() -> tuple[str, ...]:
    """What has to be the same on every machine for equal bits."""
    python = ".".join(platform.python_version_tuple()[:2])
    return (f"Python {python}", f"robassay {__version__}", f"torch {torch.__version__}")


def beacon(root: Path, token: str) -> Path:
    """A file that tells whether a path is the same folder on two machines."""
    return root / "scratch" / f"driver-{token}"


def luggage(cell: Cell) -> dict[str, Any]:
    """What a cell may read: ``cell:KEY`` → the cell, ``data:CHECKSUM`` → the data set, ``weights:DIGEST`` → the Given.

    Cells are those that it contains, directly or not: some read deeper than their own fields.
    """
    found: dict[str, Any] = {}
    for one in with_needs([cell]):
        if one.key != cell.key:
            found[f"cell:{one.key}"] = one
        for value in _values(one):
            if isinstance(value, data.Data) and value.location is not None:
                found[f"data:{value.checksum}"] = value
            elif isinstance(value, Given) and value.weights is not None:
                found[f"weights:{value.weights_digest}"] = value
    return found


def _values(value: object) -> Iterator[object]:
    """A cell or part and the parts that it holds; cells within it are not entered."""
    yield value
    held = value if isinstance(value, tuple) else ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = tuple(getattr(value, f.name) for f in dataclasses.fields(value))
    for one in held:
        if not isinstance(one, Cell):
            yield from _values(one)


# -------------------------------------------------------------------------------------------------------- the driver


def goods(name: str, owner: Any, store: Store) -> Any:
    """What a worker lacks, as bytes or a cell's files; None for a cell that is not in the store: not needed."""
    if name.startswith("cell:"):
        return files_of(store, owner.key) if store.has(owner.key) else None
    if name.startswith("data:"):
        return data.packed(owner)
    content = Path(owner.weights).read_bytes()
    if content_digest(content) != owner.weights_digest:
        raise UsageError(f"'{owner.weights}' has changed since the study was described. Run the command again.")
    return content


def files_of(store: Store, key: str) -> dict[str, bytes]:
    """The files of a finished cell."""
    folder = store.folder(key)
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def accept(done: Done, files: dict[str, bytes], store: Store) -> Done:
    """Write into ``store`` what a worker has computed elsewhere, or why it failed."""
    log = files.get("log.txt", b"").decode(errors="replace")
    try:
        if done.error is not None:
            store.fail(done.key, done.error, log)
        elif not store.has(done.key):
            write(store, done.key, files)
    except Exception as error:
        full = isinstance(error, Unwritable)  # no other cell would fare better
        return done._replace(error=f"its result could not be stored: {error}", full=full)
    return done


def write(store: Store, key: str, files: dict[str, bytes]) -> None:
    """Store a cell that was finished in another store: the same bytes."""
    import json

    log = files.get("log.txt", b"").decode(errors="replace")
    store.write(key, json.loads(files["cell.json"]), load(files["out.safetensors"]), log)


# -------------------------------------------------------------------------------------------------------- the worker


def answer(parcel: Parcel, fetch: Fetch) -> Answer:
    """Compute a parcel's cells in this process, or say why not.

    Args:
        parcel: from the driver.
        fetch: what stands behind a handle of ``parcel.goods``.
    """
    if versions() != parcel.versions:
        return Answer(refused=_mismatch(parcel.versions))
    device = torch.device(parcel.device)
    try:
        settle(device)
        folder = _own_folder(parcel.token)
        for file in parcel.files:
            receive(file, folder / "files")
    except UsageError as error:
        return Answer(refused=f"{platform.node()}: {error}")
    cells: list[Cell] = [pickle.loads(cell) for cell in parcel.cells]
    root = Path(parcel.root)
    shared = _sees(root, parcel.token)
    store = Store(root if shared else folder / "store")
    needed = {name: owner for cell in cells for name, owner in luggage(cell).items()}
    lacks = {name: owner for name, owner in needed.items() if _lacks(name, owner, store, shared)}
    if missing := tuple(name for name in lacks if name not in parcel.goods):
        return Answer(lacks=missing)
    for name, owner in lacks.items():
        if parcel.goods[name] is not None:
            _unpack(name, owner, fetch(parcel.goods[name]), store, folder)
    return _computed(cells, store, shared, device, parcel.seconds)


def _computed(cells: list[Cell], store: Store, shared: bool, device: torch.device, seconds: float) -> Answer:
    begun, done = time.monotonic(), list[Done]()
    results: dict[str, dict[str, bytes]] = {}
    for cell in cells:
        if done and time.monotonic() - begun > seconds:
            break
        # What was saved before a machine died is not computed again.
        done.append(Done(cell.key, 0.0, None) if store.has(cell.key) else compute(cell, store, device))
        if not shared:
            log = store.root / "failed" / cell.key / "log.txt"
            failed = {"log.txt": log.read_bytes()} if log.is_file() else {}
            results[cell.key] = failed if done[-1].error else files_of(store, cell.key)
    return Answer(tuple(done), tuple(c.key for c in cells[len(done) :]), results)


def _mismatch(wanted: tuple[str, ...]) -> str:
    differing = [f"{there}, the driver {here}" for here, there in zip(wanted, versions(), strict=True) if here != there]
    return (
        f"the machine {platform.node()} has {'; '.join(differing)}: its bits would not be ours. Install the same "
        f"versions on every machine of the cluster: pip install robassay=={__version__} with the same constraints."
    )


def _own_folder(token: str) -> Path:
    """This user's folder on this machine for one run; shared by its worker processes.

    Raises:
        UsageError: somebody else has made it.
    """
    folder = Path(tempfile.gettempdir()) / f"robassay-{os.getuid()}-{token}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UsageError(f"'{folder}' belongs to somebody else. Set TMPDIR on that machine to a folder of your own.")
    return folder


def _sees(root: Path, token: str) -> bool:
    try:
        return beacon(root, token).read_text(encoding="utf-8") == token
    except OSError:
        return False


_unpacked: set[str] = set()


def _lacks(name: str, owner: Any, store: Store, shared: bool) -> bool:
    """Whether this process cannot read something without being handed it."""
    if name.startswith("cell:"):
        return not shared and not store.has(owner.key)
    if name in _unpacked:
        return False
    if name.startswith("data:"):
        return not data.reachable(owner)
    there = Path(owner.weights)
    return not (there.is_file() and content_digest(there.read_bytes()) == owner.weights_digest)


def _unpack(name: str, owner: Any, content: Any, store: Store, folder: Path) -> None:
    """Put something where this process will look for it, checked by the digest in its name.

    Raises:
        RobassayError: what came is not what was sent.
    """
    kind, _, key = name.partition(":")
    if kind == "cell":
        write(store, key, content)
        return
    if kind == "weights" and content_digest(content) != key:
        raise RobassayError(f"the weights {key} arrived damaged on {platform.node()}.")
    place = folder / f"{kind}-{key}{Path(owner.weights).suffix if kind == 'weights' else ''}"
    temporary = folder / f".{place.name}-{os.getpid()}"
    temporary.write_bytes(content)
    os.replace(temporary, place)
    if kind == "data":
        data.borrow(key, place)
    else:
        lend(owner.weights, place)
    _unpacked.add(name)


def cleared(token: str) -> None:
    """Forget what this machine was handed for a run."""
    import shutil

    shutil.rmtree(Path(tempfile.gettempdir()) / f"robassay-{os.getuid()}-{token}", ignore_errors=True)
