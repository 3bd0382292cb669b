"""Results on disk: a folder per finished cell, named by its key. No locks and no database.

A result is written into a temporary folder and renamed, so a folder that is present is complete. Reading needs NumPy
only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from robassay.errors import RobassayError, UsageError

_MARK = "robassay store, format 1\n"


class Store:
    """A folder with finished cells, failures, studies and the scratch space of running cells.

    Args:
        root: the folder; made when missing.
        create: False refuses a folder that is not a store, for readers.

    Raises:
        UsageError: the folder is something else, or cannot be written.
    """

    def __init__(self, root: str | Path, create: bool = True) -> None:
        self.root = Path(root)
        mark = self.root / "STORE"
        if mark.is_file():
            if mark.read_text(encoding="utf-8") != _MARK:
                raise UsageError(f"'{root}' was written by another version of the store. Choose another --store.")
            return
        if not create:
            raise UsageError(f"'{root}' is not a robassay store. Write the folder that `robassay run` wrote to.")
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise UsageError(f"'{root}' holds something else. Choose an empty or new folder with --store.")
        try:
            (self.root / "cells").mkdir(parents=True, exist_ok=True)
            mark.write_text(_MARK, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"'{root}' cannot be written: {error.strerror}. Choose another --store.") from error

    def folder(self, key: str) -> Path:
        """Where the cell ``key`` lies once it is finished."""
        return self.root / "cells" / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether the cell is finished."""
        return self.folder(key).is_dir()

    def done(self) -> set[str]:
        """Keys of all finished cells, listed without opening any."""
        shards = [e.path for e in os.scandir(self.root / "cells") if e.is_dir()]
        return {e.name for shard in shards for e in os.scandir(shard) if not e.name.startswith(".")}

    def read(self, key: str, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        """The arrays of a finished cell.

        Raises:
            RobassayError: not finished, or damaged.
        """
        file = self.folder(key) / "out.safetensors"
        try:
            arrays = load_file(file)
        except FileNotFoundError as error:
            raise RobassayError(f"cell {key} is not in the store {self.root}. Run the study again.") from error
        except (SafetensorError, OSError) as error:
            raise RobassayError(
                f"cell {key} in {self.root} is damaged ({error}). Delete {self.folder(key)} and run again."
            ) from error
        return arrays if names is None else {n: arrays[n] for n in names}

    def about(self, key: str) -> dict[str, Any]:
        """What is known of a finished cell: its description, versions, machine, seconds."""
        return json.loads((self.folder(key) / "cell.json").read_text(encoding="utf-8"))

    def write(self, key: str, about: dict[str, Any], arrays: dict[str, np.ndarray], log: str) -> None:
        """Store a finished cell; another process that was quicker wins, with the same bytes."""
        final = self.folder(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=final.parent))
        try:
            os.chmod(temporary, 0o755)  # mkdtemp makes folders that only their owner can read
            _write_synced(temporary / "out.safetensors", save({n: np.asarray(a, order="C") for n, a in arrays.items()}))
            _write_synced(temporary / "cell.json", json.dumps(about, indent=1, ensure_ascii=False).encode())
            (temporary / "log.txt").write_text(log, encoding="utf-8")
            try:
                os.rename(temporary, final)
            except OSError:
                if not final.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self.root / "failed" / key, ignore_errors=True)

    def fail(self, key: str, error: str, log: str) -> None:
        """Remember why a cell failed; the next run tries it again."""
        folder = self.root / "failed" / key
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(error, encoding="utf-8")
        (folder / "log.txt").write_text(log, encoding="utf-8")

    def failures(self) -> dict[str, str]:
        """Last error of every cell that failed and has not been finished since."""
        folder = self.root / "failed"
        found = {}
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            if (entry / "error.txt").is_file() and not self.has(entry.name):
                found[entry.name] = (entry / "error.txt").read_text(encoding="utf-8")
        return found

    def scratch(self, key: str) -> Path:
        """A folder for what a running cell must keep across an interruption."""
        folder = self.root / "scratch" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_scratch(self, key: str) -> None:
        """Forget the scratch folder of a finished cell."""
        shutil.rmtree(self.root / "scratch" / key, ignore_errors=True)

    def save_study(self, name: str, frozen: dict[str, Any]) -> Path:
        """Write a frozen study, atomically, so that reports can be made without the code that described it."""
        folder = self.root / "studies"
        folder.mkdir(exist_ok=True)
        file = folder / f"{name}.json"
        temporary = folder / f".{name}-{os.getpid()}"
        temporary.write_text(json.dumps(frozen, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, file)
        return file

    def studies(self) -> dict[str, dict[str, Any]]:
        """All frozen studies by name."""
        files = sorted((self.root / "studies").glob("[!.]*.json"))
        return {f.stem: json.loads(f.read_text(encoding="utf-8")) for f in files}


def _write_synced(file: Path, content: bytes) -> None:
    with open(file, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
