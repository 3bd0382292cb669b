"""What lies in a store and is of no use: shown first, deleted when told to.

What a study of the store asks for, directly or as a step, is never among it; neither are reports.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from robassay import marks, safe
from robassay.errors import LostCell, unwritable
from robassay.store import Store


class Litter(NamedTuple):
    """A folder or file that can go."""

    path: Path
    what: str
    size: int
    """Bytes."""


def litter(store: Store) -> list[Litter]:
    """What no study of the store asks for, and what failed, interrupted and damaged cells have left behind.

    What a running process writes to is left out, and what one on another machine may be writing to.

    Raises:
        RobassayError: a study is damaged: what it asks for cannot be known.
    """
    asked: set[str] = set()
    for name in store.names():
        frozen = store.study(name)
        asked |= {str(key) for key in (*frozen.get("behind", ()), *frozen.get("needs", ()))}
    busy = {key for key in store.keys("scratch") if _busy(store, key)}
    return [Litter(path, what, _size(path)) for path, what in _found(store, asked, busy)]


def _found(store: Store, asked: set[str], busy: set[str]) -> Iterator[tuple[Path, str]]:
    done = store.done()
    for key in sorted(done - asked - busy):
        yield store.folder(key), f"{_kind(store, key)}, of no study"
    for path in sorted(store.leftovers()):
        if path.name[1:17] not in busy:
            yield path, "half-written cell"
    for key in store.keys("failed"):
        if key in done or key not in asked:
            yield store.root / "failed" / key, "failure of a cell that is done, or of no study"
    for key in store.keys("scratch"):
        if key not in busy and (key in done or key not in asked):
            yield store.root / "scratch" / key, "scratch of a cell that is done, or of no study"
    for folder, what in (
        ("damaged", "damaged cell, set aside"),
        ("studies", "half-written file"),
        ("", "half-written file"),
    ):
        place = store.root / folder
        for path in sorted(place.iterdir()) if place.is_dir() and not place.is_symlink() else []:
            if folder == "damaged" or (path.name.startswith(".") and path.is_file()):
                yield path, what


def _busy(store: Store, key: str) -> bool:
    found = marks.state(store.root / "scratch" / key)
    return found is not None and found[0] != "interrupted"


def _kind(store: Store, key: str) -> str:
    try:
        told = store.about(key).get("cell")
        return str(told["type"])[:40].lower() if isinstance(told, dict) else "cell"
    except (LostCell, KeyError):
        return "cell"


def _size(path: Path) -> int:
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in files)


def delete(store: Store, found: list[Litter]) -> None:
    """Delete it; a link is deleted itself, never what it leads to.

    Raises:
        Unwritable: the store may only be read.
    """
    for one in found:
        parts = one.path.relative_to(store.root).parts
        safe.inside(store.root, *parts[:-1])
        try:
            if one.path.is_dir() and not one.path.is_symlink():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unwritable(one.path, error) from error
