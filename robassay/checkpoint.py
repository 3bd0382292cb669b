"""Checkpoints: the state of a long computation, from which it goes on after an interruption.

A checkpoint that is cut short, changed, or of another version is worth nothing: the computation begins anew, and says
so in its log.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from robassay.errors import unwritable
from robassay.safe import Unsafe, content, replace
from robassay.version import __version__

CHECKPOINT = "checkpoint.pt"


def _head(payload: bytes) -> bytes:
    # What a run continued elsewhere would compute differently from one that was not interrupted.
    made = f"robassay {__version__}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    return f"robassay checkpoint of {made}, sha256 {hashlib.sha256(payload).hexdigest()}\n".encode()


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of tensors, numbers, texts, lists and dicts; a file under its final name is whole.

    Raises:
        Unwritable: the disk is full, or may only be read; an earlier checkpoint stays.
        FileNotFoundError: the folder is gone: another run was quicker and has cleared it.
    """
    packed = io.BytesIO()
    torch.save(state, packed)
    payload = packed.getvalue()
    try:
        replace(folder / CHECKPOINT, _head(payload) + payload)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unwritable(folder / CHECKPOINT, error) from error


def load(folder: Path) -> dict[str, Any] | None:
    """The state that was saved last; None where there is none that can be trusted."""
    try:
        head, end, payload = content(folder / CHECKPOINT).partition(b"\n")
    except FileNotFoundError:
        return None
    except (OSError, Unsafe) as error:
        print(f"The checkpoint cannot be read ({error}): from the beginning.")
        return None
    if head + end != _head(payload):
        print("The checkpoint is damaged, or of another version or kind of machine: from the beginning.")
        return None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, ValueError, EOFError) as error:
        print(f"The checkpoint cannot be read ({error}): from the beginning.")
        return None
    return state
