"""Computing finished cells again, to compare the bits: whether a store's results are what this code computes."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from robassay.cell import Cell
from robassay.errors import LostCell, UsageError
from robassay.rng import Stream
from robassay.run.worker import LocalContext, arrays_of, machine
from robassay.store import Store

Result = Literal["equal", "differs", "elsewhere", "damaged", "failed"]
"""Elsewhere: the bits differ, and so do the machine class or the version of torch, which may change bits."""


class Checked(NamedTuple):
    """What came of one cell."""

    cell: Cell
    result: Result
    detail: str


def sample(cells: Iterable[Cell], store: Store, count: int, seed: int) -> list[Cell]:
    """Up to ``count`` finished cells, drawn by ``seed``, all that they need being there."""
    done = store.done()
    able = {c.key: c for c in cells if c.key in done and all(n.key in done for n in c.needs)}
    keys = sorted(able)
    order = torch.randperm(len(keys), generator=Stream(("verify", seed)).generator()).tolist()
    return [able[keys[i]] for i in order[:count]]


def asked(cells: Iterable[Cell], store: Store, keys: list[str]) -> list[Cell]:
    """The finished cells of these keys.

    Raises:
        UsageError: no cell of these has such a key, or it is not finished, or lacks what it needs.
    """
    known, done = {c.key: c for c in cells}, store.done()
    for key in keys:
        if key not in known:
            raise UsageError(f"--cell {key}: this study has no whole cell of that key. Its report lists those it has.")
        lost = next((k for k in (key, *(n.key for n in known[key].needs)) if k not in done), None)
        if lost is not None:
            raise UsageError(f"--cell {key}: {lost} is not in the store. Run the study first.")
    return [known[key] for key in keys]


def damaged(cells: Iterable[Cell], store: Store) -> list[Checked]:
    """The finished cells whose content is not what was written."""
    done = store.done()
    return [Checked(c, "damaged", fault) for c in cells if c.key in done and (fault := store.fault(c.key))]


def recheck(cell: Cell, store: Store, device: str = "cpu") -> Checked:
    """Compute a finished cell anew, in a folder of its own, and compare every array with the stored one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        about, stored = store.about(cell.key), store.read(cell.key)
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context = LocalContext(cell, store, torch.device(device), Path(scratch))
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                made = {name: t.cpu().numpy() for name, t in arrays_of(cell, context).items()}
    except LostCell as error:
        return Checked(cell, "damaged", str(error))
    except Exception as error:
        return Checked(cell, "failed", f"{type(error).__name__}: {error}")
    finally:
        torch.set_num_threads(threads)
    different = [name for name in sorted(made.keys() | stored.keys()) if not _same(made.get(name), stored.get(name))]
    if not different:
        return Checked(cell, "equal", "")
    here, there = (machine(torch.device(device)), torch.__version__), (about.get("machine"), about.get("torch"))
    if here != there:
        return Checked(cell, "elsewhere", f"computed on {there[0]} with torch {there[1]}, here {here[0]}, {here[1]}")
    return Checked(cell, "differs", f"in {', '.join(different[:4])}")


def _same(made: np.ndarray | None, stored: np.ndarray | None) -> bool:
    if made is None or stored is None or made.dtype != stored.dtype or made.shape != stored.shape:
        return False
    return made.tobytes() == stored.tobytes()


def described(checked: Checked, title: Callable[[Cell], str]) -> str:
    """One line."""
    return f"{checked.result:9} {title(checked.cell)} ({checked.cell.key}) {checked.detail}".rstrip()
