"""Files that others may have made: names that stay inside a folder, links that lead nowhere, seals that show a change.

A result store, a report or a folder of weights may come from somebody else. Nothing in it may make this program write
or delete outside of it, wait for ever, or take a changed file for the one that was written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

from robassay.errors import RobassayError, UsageError

KEY = re.compile(r"[0-9a-f]{16}")
NAME = re.compile(r"\w[\w.+ -]{0,99}")
"""Of studies, tables and scales: no separator of folders, no leading dot."""
SEAL = "seal"


class Unsafe(RobassayError):
    """A file or name that this program does not touch."""


def checked_name(name: object, what: str) -> str:
    """``name`` if it is safe as the stem of a file.

    Raises:
        UsageError: it is none: a path, a hidden file, empty, too long, or no text.
    """
    if isinstance(name, str) and NAME.fullmatch(name) and name.isprintable():
        return name
    raise UsageError(
        f"{what} is called {str(name)[:60]!r}, which cannot be the name of a file. "
        "Use letters, digits, hyphens and dots, at most 100."
    )


def is_key(name: object) -> bool:
    """Whether ``name`` has the form of a cell's key: 16 hex digits."""
    return isinstance(name, str) and KEY.fullmatch(name) is not None


def inside(root: Path, *parts: str, make: bool = False) -> Path:
    """``root/part/part…``, none of the parts a symbolic link; with ``make`` the folders that lack are made.

    Raises:
        Unsafe: one of them is a link, or is no folder.
        OSError: a folder cannot be made.
    """
    path = os.fspath(root)  # a string: every cell that is read passes here, and a Path costs more than the look at it
    if make:
        root.mkdir(parents=True, exist_ok=True)
    for part in parts:
        path = os.path.join(path, part)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            if not make:
                return root.joinpath(*parts)
            Path(path).mkdir(exist_ok=True)
            mode = os.lstat(path).st_mode
        if not stat.S_ISDIR(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a folder"
            raise Unsafe(f"'{path}' is {kind}: a store has none there. Delete it, or choose another --store.")
    return Path(path)


def content(file: Path) -> bytes:
    """The bytes of a regular file; no link is followed, no pipe waited for.

    Raises:
        Unsafe: it is a link, a pipe, a folder or a device.
        OSError: it cannot be read.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Unsafe(f"'{file}' is a link or a pipe, not a file.") from error
        raise
    with os.fdopen(handle, "rb") as opened:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Unsafe(f"'{file}' is not a regular file.")
        try:
            return opened.read()
        except MemoryError as error:
            raise Unsafe(f"'{file}' is too large for this machine's memory.") from error


def parsed(text: bytes) -> dict[str, Any]:
    """The JSON object in ``text``.

    Raises:
        ValueError: it is no JSON, no object, or nested too deeply.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not an object")
    return found


def replace(file: Path, text: bytes) -> None:
    """Write a file so that it is there whole or not at all, also when two processes do so, or the machine stops."""
    temporary = file.with_name(f".{file.name[:80]}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        written(temporary, text)
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def written(file: Path, text: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with open(file, "xb") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def digest(text: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(text).hexdigest()


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` with a digest of itself, which shows a later change. It is no signature: whoever changes it on
    purpose can seal it again."""
    bare = {name: held for name, held in value.items() if name != SEAL}
    return {**bare, SEAL: _seal(bare)}


def unsealed(value: dict[str, Any], must: bool) -> dict[str, Any]:
    """``value`` without its seal; with ``must`` one that has none is refused.

    Raises:
        ValueError: the seal is not that of the value.
    """
    bare = dict(value)
    seal = bare.pop(SEAL, None)
    if (seal is not None or must) and seal != _seal(bare):
        raise ValueError("it is not what was written: its digest differs")
    return bare


def _seal(bare: dict[str, Any]) -> str:
    return digest(json.dumps(bare, sort_keys=True).encode())
