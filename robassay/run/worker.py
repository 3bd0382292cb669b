"""Computing one cell: open what it needs, run it with one thread, store the result, keep a log."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import pickle
import platform
import threading
import time
import traceback
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from robassay import marks
from robassay.cell import Arrays, Cell, Model, describe
from robassay.classifier import Classifier
from robassay.errors import AttackWarning, LostCell, RobassayError, Unwritable
from robassay.registry import load_file
from robassay.rng import Stream
from robassay.run.devices import TooLarge, flags, settle, within_memory
from robassay.store import Store
from robassay.version import __version__

OPEN_MODELS = 4
LOADED_CELLS = 8


class Task(NamedTuple):
    """What a worker process is handed."""

    cell: bytes
    """The pickled cell; our own, from our own driver."""
    user_files: tuple[str, ...]
    """Python files of the user whose classes the cell needs; run before the cell is unpickled."""
    root: str
    device: str


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's mallopt."""


class Done(NamedTuple):
    """What a worker answers: the error is None when the cell is in the store."""

    key: str
    seconds: float
    error: str | None
    warnings: tuple[str, ...] = ()
    lost: str | None = None
    """A finished cell that this one needs and that is damaged or gone: it has to be computed anew."""
    full: bool = False
    """The store takes nothing more: no other cell would fare better."""
    too_large: bool = False
    """The error is a lack of memory: on a larger share of a device the cell may fit."""


def keep_memory() -> None:
    """Tell glibc to keep the memory that torch frees, in this process.

    By default every tensor of more than a few hundred KB is fetched from the system and given back: the page faults
    double the time of a small network's passes. Elsewhere, such as with another libc, nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def initialize(parent: int) -> None:
    """Prepare a worker process: one thread, deaf to Ctrl-C and SIGTERM, which systems send to all processes of a job
    (the driver decides when it ends), gone when the driver is gone."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_memory()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def work(task: Task) -> Done:
    """Compute one cell in this process."""
    for file in task.user_files:
        load_file(file)
    device = torch.device(task.device)
    settle(device)
    return compute(pickle.loads(task.cell), Store(task.root), device)


_models: OrderedDict[tuple[str, str], Classifier] = OrderedDict()
_arrays: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()


class LocalContext:
    """The context of one cell: results come from a store, open models are kept between cells of a process.

    ``scratch`` is another folder than the store's, for a cell that is not computed for the store.
    """

    def __init__(self, cell: Cell, store: Store, device: torch.device, scratch: Path | None = None) -> None:
        self.store, self.device, self.scratch = store, device, scratch or store.scratch(cell.key)
        self._reported = 0.0

    def load(self, cell: Cell) -> dict[str, np.ndarray]:
        """See :class:`~robassay.cell.Context`."""
        return _kept(_arrays, cell.key, LOADED_CELLS, lambda: self.store.read(cell.key))

    def open(self, model: Model) -> Classifier:
        """See :class:`~robassay.cell.Context`."""

        def make() -> Classifier:
            with Stream(("open", model.key)).active():
                return model.open(self).to(self.device).eval().requires_grad_(False)

        return _kept(_models, (model.key, str(self.device)), OPEN_MODELS, make)

    def progress(self, done: int, total: int) -> None:
        """See :class:`~robassay.cell.Context`; written to a file at most twice a second."""
        now = time.monotonic()
        if now - self._reported > 0.5 or done == total:
            self._reported = now
            with contextlib.suppress(OSError):
                (self.scratch / "progress").write_text(f"{done} {total}", encoding="utf-8")


def _kept(cache: OrderedDict[Any, Any], key: Any, most: int, make: Any) -> Any:
    if key not in cache:
        cache[key] = make()
        while len(cache) > most:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


def forget() -> None:
    """Drop what this process keeps open (models in memory may change under their name)."""
    _models.clear()
    _arrays.clear()


def compute(cell: Cell, store: Store, device: torch.device) -> Done:
    """Compute ``cell`` and store it; an exception becomes the cell's error."""
    start = time.perf_counter()
    if store.has(cell.key):  # another driver was quicker
        return Done(cell.key, 0.0, None)
    log = io.StringIO()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            context = LocalContext(cell, store, device)
            marks.leave(context.scratch)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                arrays, rows = within_memory(lambda: arrays_of(cell, context), forget)
            for one in caught:
                print(warnings.formatwarning(one.message, one.category, one.filename, one.lineno), end="", file=log)
        told = tuple(dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, AttackWarning)))
        seconds = time.perf_counter() - start
        said = {"warnings": list(told)} if told else {}
        parts = {} if rows is None else {"rows_per_pass": rows}
        json = {**about(cell, device, seconds), **said, **parts}
        store.write(cell.key, json, {n: t.cpu().numpy() for n, t in arrays.items()}, log.getvalue())
        store.clear_scratch(cell.key)
        return Done(cell.key, seconds, None, told)
    except Exception as error:
        if store.has(cell.key):
            # Another driver was quicker and has cleared the scratch folder that both wrote to.
            return Done(cell.key, time.perf_counter() - start, None)
        reason = str(error) if isinstance(error, RobassayError) else f"{type(error).__name__}: {error}"
        lost = error.key if isinstance(error, LostCell) else None
        full, large = isinstance(error, Unwritable), isinstance(error, TooLarge)
        with contextlib.suppress(OSError, RobassayError):
            marks.drop(store.scratch(cell.key))
            if lost is None and not full:  # neither is the cell's own fault
                print(traceback.format_exc(), file=log)
                store.fail(cell.key, reason, log.getvalue())
        return Done(cell.key, time.perf_counter() - start, reason, (), lost, full, large)
    finally:
        torch.set_num_threads(threads)


def arrays_of(cell: Cell, context: LocalContext) -> Arrays:
    """What the cell computes, with the random numbers that its key names."""
    with Stream(("cell", cell.key)).active():
        return cell.compute(context)


def about(cell: Cell, device: torch.device, seconds: float) -> dict[str, Any]:
    """What ``cell.json`` says."""
    return {
        "key": cell.key,
        "cell": describe(cell),
        "robassay": __version__,
        "torch": torch.__version__,
        "machine": machine(device),
        **flags(device),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 3),
    }


def machine(device: torch.device) -> str:
    """The class of machine within which results are equal to the bit."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"cpu {name or platform.processor() or platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
