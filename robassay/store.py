"""Results on disk: a folder per finished cell, named by its key. No locks and no database.

A result is written into a temporary folder and renamed, so a folder that is present is complete; digests in its
description show a later change. Reading needs NumPy only. A store may come from somebody else: nothing in it leads
outside of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from robassay import safe
from robassay.errors import LostCell, RobassayError, Unwritable, UsageError, unwritable

_MARKS = {b"robassay store, format 1\n": False, b"robassay store, format 2\n": True}
"""What the file STORE says, and whether everything in such a store is sealed."""
MARK = b"robassay store, format 2\n"
OUT, ABOUT = "out.safetensors", "cell.json"
DIGEST = "sha256"


class Store:
    """A folder with finished cells, failures, studies and the scratch space of running cells.

    Args:
        root: the folder; made when missing.
        create: False refuses a folder that is not a store, for readers.

    Raises:
        UsageError: the folder is something else.
        Unwritable: it cannot be made.
    """

    def __init__(self, root: str | Path, create: bool = True) -> None:
        self.root = Path(root)
        try:
            found = self._mark()
            if found is None and not create:
                raise UsageError(f"'{root}' is not a robassay store. Write the folder that `robassay run` wrote to.")
            if found is None and self.root.exists() and not self._empty():
                found = self._mark()  # another process may have made it between the two looks
            if found is None and self.root.exists() and not self._empty():
                raise UsageError(f"'{root}' holds something else. Choose an empty or new folder with --store.")
            if found is None:
                self.root.mkdir(parents=True, exist_ok=True)
                safe.replace(self.root / "STORE", MARK)
        except OSError as error:
            raise unwritable(root, error) from error
        self.sealed = _MARKS[found or MARK]

    def _mark(self) -> bytes | None:
        """What STORE says; None without one."""
        try:
            found = safe.content(self.root / "STORE")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise UsageError(f"'{self.root}' cannot be read: {error.strerror}. Ask its owner.") from error
        except safe.Unsafe as error:
            raise UsageError(f"'{self.root}' is no robassay store: {error}") from error
        if found in _MARKS:
            return found
        if not found.startswith(b"robassay store, format ") and (self.root / "cells").is_dir():
            return MARK  # damaged; what it marks is there, and each cell says for itself whether it is whole
        raise UsageError(f"'{self.root}' was written by another version of the store. Choose another --store.")

    def _empty(self) -> bool:
        # Besides nothing at all: what a process leaves that is killed while it makes a store.
        return self.root.is_dir() and all(entry.name.startswith(".STORE.") for entry in self.root.iterdir())

    # ------------------------------------------------------------------------------------------------------ cells

    def folder(self, key: str) -> Path:
        """Where the cell ``key`` lies once it is finished.

        Raises:
            RobassayError: no key, but a path perhaps.
        """
        if not safe.is_key(key):
            raise RobassayError(f"{str(key)[:60]!r} is not the key of a cell, which has 16 hex digits.")
        return self.root / "cells" / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether the cell is finished."""
        folder = self.folder(key)
        return folder.is_dir() and not folder.is_symlink()

    def done(self) -> set[str]:
        """Keys of all finished cells, listed without opening any."""
        return {entry.name for entry in self._entries() if safe.is_key(entry.name)}

    def leftovers(self) -> list[Path]:
        """Temporary folders of cells that were being written when their process ended, or are being written now."""
        return [Path(entry.path) for entry in self._entries() if entry.name.startswith(".")]

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        for shard in _scanned(self.root / "cells"):
            yield from _scanned(Path(shard.path))

    def read(self, key: str, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        """The arrays of a finished cell, checked against the digest that was written with them.

        Raises:
            LostCell: not finished, or damaged.
        """
        about = self.about(key)
        try:
            content = safe.content(safe.inside(self.root, "cells", key[:2], key) / OUT)
            if DIGEST in about and about[DIGEST] != safe.digest(content):
                raise self._damaged(key, "its content is not what was written: its digest differs")
            arrays = load(content)
            return arrays if names is None else {n: arrays[n] for n in names}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, safe.Unsafe) as error:
            raise self._damaged(key, error) from error

    def about(self, key: str) -> dict[str, Any]:
        """What is known of a finished cell: its description, versions, machine, seconds.

        Raises:
            LostCell: not finished, or damaged.
        """
        folder = self.folder(key)
        try:
            raw = safe.content(safe.inside(self.root, "cells", key[:2], key) / ABOUT)
            about = safe.unsealed(safe.parsed(raw), self.sealed)
            if self.sealed and DIGEST not in about:
                raise ValueError("it names no digest of its content")
            if about.get("key", key) != key:
                raise ValueError(f"it is cell {str(about['key'])[:16]!r}")
        except (OSError, ValueError, safe.Unsafe) as error:
            if isinstance(error, FileNotFoundError) and not os.path.lexists(folder):
                message = f"cell {key} is not in the store {self.root}. Run the study again."
                raise LostCell(key, message) from error
            raise self._damaged(key, error) from error
        return about

    def _damaged(self, key: str, why: object) -> LostCell:
        message = f"cell {key} in {self.root} is damaged ({str(why)[:200]}). "
        return LostCell(key, f"{message}Run the study again: it is set aside and computed anew.")

    def fault(self, key: str) -> str | None:
        """What is wrong with a cell; None when it is finished and whole."""
        try:
            self.read(key)
        except LostCell as error:
            return str(error)
        return None

    def set_aside(self, key: str) -> Path | None:
        """Move a damaged cell to ``damaged/``, so that it is computed anew; None when there is nothing to move.

        Raises:
            Unwritable: the store may only be read.
        """
        folder = self.folder(key)
        try:
            place = safe.inside(self.root, "damaged", make=True) / f"{key}-{secrets.token_hex(4)}"
            safe.inside(self.root, "cells", key[:2])
            os.rename(folder, place)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unwritable(self.root, error) from error
        return place

    def mend(self, keys: Iterable[str]) -> dict[str, str]:
        """Set aside what is damaged among finished cells; what was wrong with each."""
        faults = {key: fault for key in keys if self.has(key) and (fault := self.fault(key)) is not None}
        for key in faults:
            self.set_aside(key)
        return faults

    def write(self, key: str, about: dict[str, Any], arrays: dict[str, np.ndarray], log: str) -> None:
        """Store a finished cell; another process that was quicker wins, with the same bytes.

        Raises:
            Unwritable: the disk is full, or may only be read.
        """
        content = save({n: np.asarray(a, order="C") for n, a in arrays.items()})
        told = safe.sealed({**about, "key": key, DIGEST: safe.digest(content)})
        try:
            final = safe.inside(self.root, "cells", key[:2], make=True) / self.folder(key).name
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=final.parent))
            try:
                os.chmod(temporary, 0o755)  # mkdtemp makes folders that only their owner can read
                safe.written(temporary / OUT, content)
                safe.written(temporary / ABOUT, _text(told))
                (temporary / "log.txt").write_text(log, encoding="utf-8", errors="replace")
                try:
                    os.rename(temporary, final)
                except OSError:
                    if not self.has(key):
                        raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            raise unwritable(self.root, error) from error
        self._forget("failed", key)

    def check_writable(self) -> None:
        """Write and delete a small file, before hours are spent on what could not be kept.

        Raises:
            Unwritable: the disk is full, or may only be read.
        """
        try:
            folder = safe.inside(self.root, "cells", make=True)
            with tempfile.NamedTemporaryFile(prefix=".probe-", dir=folder) as probe:
                probe.write(b"robassay" * 512)
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            raise unwritable(self.root, error) from error

    # ------------------------------------------------------------------------------------- failures, running cells

    def fail(self, key: str, error: str, log: str) -> None:
        """Remember why a cell failed; the next run tries it again."""
        folder = safe.inside(self.root, "failed", self.folder(key).name, make=True)
        safe.replace(folder / "error.txt", error.encode("utf-8", "replace"))
        safe.replace(folder / "log.txt", log.encode("utf-8", "replace"))

    def failures(self) -> dict[str, str]:
        """Last error of every cell that failed and has not been finished since."""
        found = {}
        for key in self.keys("failed"):
            with contextlib.suppress(OSError, safe.Unsafe):
                if not self.has(key):
                    error = safe.content(self.root / "failed" / key / "error.txt")
                    found[key] = error.decode("utf-8", "replace")
        return found

    def keys(self, place: str) -> list[str]:
        """Keys of the cells that have a folder in ``failed`` or ``scratch``."""
        return sorted(e.name for e in _scanned(self.root / place) if safe.is_key(e.name))

    def scratch(self, key: str) -> Path:
        """A folder for what a running cell must keep across an interruption.

        Raises:
            Unwritable: the disk is full, or may only be read.
        """
        try:
            return safe.inside(self.root, "scratch", self.folder(key).name, make=True)
        except OSError as error:
            raise unwritable(self.root, error) from error

    def clear_scratch(self, key: str) -> None:
        """Forget the scratch folder of a finished cell."""
        self._forget("scratch", key)

    def _forget(self, place: str, key: str) -> None:
        with contextlib.suppress(safe.Unsafe):
            shutil.rmtree(safe.inside(self.root, place) / self.folder(key).name, ignore_errors=True)

    # ---------------------------------------------------------------------------------------------------- studies

    def save_study(self, name: str, frozen: dict[str, Any]) -> Path:
        """Write a frozen study, atomically, so that reports can be made without the code that described it.

        Raises:
            UsageError: the name cannot be that of a file.
            Unwritable: the disk is full, or may only be read; not when the very same study is there already.
        """
        text = _text(safe.sealed(frozen))
        file = self.root / "studies" / f"{safe.checked_name(name, 'the study')}.json"
        with contextlib.suppress(OSError, safe.Unsafe):
            if safe.content(file) == text:
                return file
        try:
            safe.replace(safe.inside(self.root, "studies", make=True) / file.name, text)
        except OSError as error:
            raise unwritable(self.root, error) from error
        return file

    def names(self) -> list[str]:
        """Names of the stored studies, readable or not."""
        with contextlib.suppress(OSError):
            files = sorted(e.name for e in os.scandir(self.root / "studies") if e.name.endswith(".json"))
            return [f[:-5] for f in files if safe.NAME.fullmatch(f[:-5])]
        return []

    def study(self, name: str) -> dict[str, Any]:
        """A frozen study.

        Raises:
            RobassayError: there is none of that name, or its file is damaged.
        """
        file = self.root / "studies" / f"{safe.checked_name(name, 'the study')}.json"
        try:
            safe.inside(self.root, "studies")
            found = safe.unsealed(safe.parsed(safe.content(file)), self.sealed)
            if found.get("name", name) != name:
                raise ValueError(f"it is of study {str(found['name'])[:60]!r}")
            for part in ("needs", "behind"):
                held = found.get(part, [] if part == "behind" else None)
                if not isinstance(held, list) or not all(isinstance(key, str) for key in held):
                    raise ValueError(f"'{part}' is no list of cells")
        except FileNotFoundError as error:
            raise RobassayError(f"'{self.root}' has no study '{name}'. It has: {', '.join(self.names())}.") from error
        except (OSError, ValueError, safe.Unsafe) as error:
            raise RobassayError(f"'{file}' is damaged ({error}). Run the study again: it is written anew.") from error
        return found


def _text(value: dict[str, Any]) -> bytes:
    # A command line may hold bytes that are no text; json reads them back as they were.
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _scanned(folder: Path) -> list[os.DirEntry[str]]:
    """The folders in ``folder``, no links; none where it is no folder itself."""
    try:
        if folder.is_symlink():
            return []
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


__all__ = ["LostCell", "Store", "Unwritable"]
