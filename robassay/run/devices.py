"""Where a cell is computed, how its bits are kept the same there, and what happens when memory is short."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from robassay.cell import Cell
from robassay.chunks import counted
from robassay.errors import RobassayError, UsageError

T = TypeVar("T")

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
SHORT = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "can't allocate memory", "out of memory")


def device_of(cell: Cell, offered: str) -> str:
    """The device of a cell where ``offered`` is at hand: a cell that runs no network needs no GPU."""
    return offered if type(cell).runs_network else "cpu"


def check_share(share: float) -> None:
    """Raise UsageError for a share of a GPU outside (0, 1]."""
    if not 0 < share <= 1:
        raise UsageError(f"--gpu {share:g} is no share of a GPU. Write --gpu 1, --gpu 0.5, …, or 0 for CPUs alone.")


def settle(device: torch.device) -> None:
    """Prepare this process for cells on ``device``: the same bits on the same kind of GPU.

    Deterministic algorithms wherever torch has one (where it has none it warns, and the cell's log says so), no choice
    of algorithms by their speed, no TF32.

    Raises:
        UsageError: a GPU was promised, but this process's torch cannot use one.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")  # read when the first product is computed
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "is a build for CPUs" if built is None else f"(CUDA {built}) finds no GPU"
        raise UsageError(
            f"a GPU was promised, but the torch {torch.__version__} there {why}. Install torch for CUDA on that "
            "machine, or write --gpu 0."
        )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def flags(device: torch.device) -> dict[str, Any]:
    """What of a GPU's settings decides about bits, for ``cell.json``; nothing for a CPU, which has one way."""
    if device.type != "cuda":
        return {}
    cudnn = torch.backends.cudnn
    said = {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": cudnn.benchmark,
        "tf32": cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
    }
    return {"flags": said}


def short_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or (isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT))


class TooLarge(RobassayError):
    """Memory ran out, and smaller passes are not possible or were not enough."""


def within_memory(work: Callable[[], T], release: Callable[[], None]) -> tuple[T, int | None]:
    """``work()`` with as many rows per pass as memory allows.

    A first lack of memory may be the doing of what lies around: it is released and the work begins anew. From then on
    every lack halves the rows per pass (:mod:`robassay.chunks`), down to one.

    Args:
        work: computes from its beginning whenever it is called, with the same random numbers.
        release: gives back what is kept for later.

    Returns:
        What ``work`` returns, and the most rows of a pass, None where no pass was divided.

    Raises:
        TooLarge: memory is short whatever is done.
    """
    with counted() as rows:
        first = True
        while True:
            try:
                return work(), rows.limit if rows.divided else None
            except Exception as error:
                if not short_of_memory(error):
                    raise
                if not first and not rows.halve():
                    raise TooLarge(_advice(str(error), rows.limit if rows.failed else None)) from error
                first = False
            release()
            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()


def _advice(error: str, limit: int | None) -> str:
    said = error.splitlines()[0].rstrip(".") if error else "no more is said"
    whole = "what it computes cannot be divided without changing its result"
    tried = whole if limit is None else f"even with {limit} rows a pass"
    return (
        f"out of memory: {tried} ({said}). Give the cell more room: --gpu 1 for a GPU of its own, fewer --workers, or "
        "a smaller batch, which is another experiment."
    )
