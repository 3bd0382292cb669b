"""Trained networks that travel: a folder of weights, each under its cell's key, which another store takes over."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.numpy import load

from robassay.cell import Cell, describe, with_needs
from robassay.defended import Encoder
from robassay.errors import UsageError, unwritable
from robassay.models import Learn, Train
from robassay.safe import Unsafe, content, digest, parsed, replace
from robassay.store import Store

INDEX = "index.json"
FORMAT = 1
TRAINED = (Train, Learn, Encoder)


class Shared(NamedTuple):
    """What :func:`share` did, by key."""

    written: tuple[str, ...]
    left_out: tuple[str, ...]
    """Trained, but the folder would have become larger than asked for."""


class Adopted(NamedTuple):
    """What :func:`adopt` did, by key."""

    taken: tuple[str, ...]
    had: tuple[str, ...]
    """In the store already."""
    unasked: tuple[str, ...]
    """In the folder, but not among the wanted cells."""


def share(wanted: Iterable[Cell], store: Store, folder: Path, most: float) -> Shared:
    """Write the trained cells behind ``wanted`` into a folder of at most ``most`` MB; those that save the most training
    time per byte come first.

    What the folder holds already stays, and counts.
    """
    trained = [c for c in with_needs(list(wanted)) if isinstance(c, TRAINED) and store.has(c.key)]
    sizes = {c.key: (store.folder(c.key) / "out.safetensors").stat().st_size for c in trained}
    ranked = sorted(sizes, key=lambda key: (-store.about(key)["seconds"] / sizes[key], key))
    folder.mkdir(parents=True, exist_ok=True)
    index = _index(folder) if (folder / INDEX).is_file() else {}
    index = {key: entry for key, entry in index.items() if (folder / f"{key}.safetensors").is_file()}
    total = sum((folder / f"{key}.safetensors").stat().st_size for key in index)
    written, left_out = [], []
    for key in ranked:
        if key not in index and total + sizes[key] > most * 1e6:
            left_out.append(key)
            continue
        total += sizes[key] if key not in index else 0
        raw = content(store.folder(key) / "out.safetensors")
        _replace(folder / f"{key}.safetensors", raw)
        index[key] = {"sha256": digest(raw), "about": store.about(key)}
        written.append(key)
    text = json.dumps({"format": FORMAT, "cells": index}, indent=1, ensure_ascii=False, sort_keys=True)
    _replace(folder / INDEX, (text + "\n").encode())
    return Shared(tuple(written), tuple(left_out))


def adopt(wanted: Iterable[Cell], store: Store, folder: Path) -> Adopted:
    """Take over from ``folder`` the trained cells behind ``wanted`` that the store lacks.

    Every file is checked before the first is taken: a folder with one bad file gives nothing.

    Raises:
        UsageError: no folder of weights, or a file that is missing, damaged or not the one the index names.
    """
    index = _index(folder)
    cells = {c.key: c for c in with_needs(list(wanted)) if isinstance(c, TRAINED)}
    had = tuple(key for key in index if key in cells and store.has(key))
    new = {key: _checked(folder, cells[key], entry) for key, entry in index.items() if key in cells and key not in had}
    for key, raw in new.items():
        about = {**index[key]["about"], "adopted": index[key]["sha256"]}
        store.write(key, about, load(raw), "adopted\n")
    return Adopted(tuple(new), had, tuple(key for key in index if key not in cells))


def _index(folder: Path) -> dict[str, Any]:
    file = folder / INDEX
    try:
        found = parsed(content(file))
        if found["format"] != FORMAT:
            raise UsageError(
                f"{file} has format {found['format']}, this version reads {FORMAT}. Export the weights anew."
            )
        return dict(found["cells"])
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} has no {INDEX}. Give a folder that robassay export --weights has written."
        ) from error
    except (OSError, Unsafe, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is damaged ({error}). Export the weights anew.") from error


def _checked(folder: Path, cell: Cell, entry: dict[str, Any]) -> bytes:
    """The content of a file whose entry is of this cell, whose digest is the index's and which is readable."""
    file = folder / f"{cell.key}.safetensors"
    again = "Nothing was adopted; get the folder again, or leave --adopt out to train."
    try:
        raw = content(file)
    except FileNotFoundError as error:
        raise UsageError(f"{file} is in the index but not in the folder. {again}") from error
    except (OSError, Unsafe) as error:
        raise UsageError(f"{file} cannot be read ({error}). {again}") from error
    known = entry.get("about") if isinstance(entry, dict) else None
    if not isinstance(known, dict) or known.get("cell") != json.loads(json.dumps(describe(cell))):
        raise UsageError(
            f"the index does not say of {file} that it is {type(cell).__name__.lower()} {cell.key}. {again}"
        )
    if digest(raw) != entry.get("sha256"):
        raise UsageError(f"{file} is not what the index says: its SHA-256 differs. {again}")
    try:
        load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is no safetensors file ({error}). {again}") from error
    return raw


def _replace(file: Path, raw: bytes) -> None:
    try:
        replace(file, raw)
    except OSError as error:
        raise unwritable(file, error) from error
