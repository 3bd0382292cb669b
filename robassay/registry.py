"""Parts by name, and the one explicit place where a user's Python file is run."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar, dataclass_transform, overload

from robassay.errors import UsageError, suggest

T = TypeVar("T", bound=type)

KINDS = (
    "nets",
    "attacks",
    "defences",
    "policies",
    "estimators",
    "transforms",
    "rules",
    "activations",
    "recipes",
    "augmentations",
    "access",
    "goals",
    "data",
)
USER_PREFIX = "robassay_user_"


@dataclass(frozen=True)
class Entry:
    """A registered part: its name, its class, one line of summary and the source it comes from."""

    kind: str
    name: str
    cls: type
    summary: str
    source: str


_entries: dict[tuple[str, str], Entry] = {}
_helpers: set[str] = set()


@overload
@dataclass_transform(frozen_default=True)
def part(cls: T) -> T: ...
@overload
@dataclass_transform(frozen_default=True)
def part(*, name: str | None = None, source: str = "") -> Callable[[T], T]: ...


@dataclass_transform(frozen_default=True)
def part(cls: Any = None, *, name: str | None = None, source: str = "") -> Any:
    """Make a class a part: a frozen dataclass, found by name under its base class's ``kind``.

    Example::

        @ra.part
        class MyAttack(ra.Attack):
            access = ra.GradientAccess
            steps: int = 20
            def __call__(self, access, x, goal, threat, rng): ...

    Args:
        cls: the class; its base declares ``kind``, one of :data:`KINDS`.
        name: the name in ``robassay list``; by default the class name in lower case with hyphens.
        source: paper and equation.

    Raises:
        UsageError: no known ``kind``, or another class already has the name.
    """

    def register(c: T) -> T:
        kind = getattr(c, "kind", None)
        if kind not in KINDS:
            raise UsageError(f"@part on {c.__name__}: derive it from Attack, Net, Policy, Estimator or BackwardRule.")
        final: Any = dataclass(frozen=True)(c)
        label = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", c.__name__).lower()
        enlist(kind, label, final, source)
        return final

    return register if cls is None else register(cls)


def enlist(kind: str, name: str, cls: type, source: str) -> None:
    """List a frozen dataclass among the parts of a kind: what :func:`part` does, for one made elsewhere (a cell).

    Raises:
        UsageError: another class already has the name.
    """
    held = _entries.get((kind, name))
    # A user's file may be read twice, edited in between; another file's class under a taken name is a mistake.
    if held is not None and held.cls.__module__ != cls.__module__ and _file_of(held.cls) != _file_of(cls):
        raise UsageError(f"{kind} '{name}' is already {held.cls.__module__}.{held.cls.__name__}. Choose a name.")
    doc = (cls.__doc__ or "").strip().split("\n", maxsplit=1)[0]
    _entries[(kind, name)] = Entry(kind, name, cls, doc, source)


def _file_of(cls: type) -> str | None:
    return getattr(sys.modules.get(cls.__module__), "__file__", cls.__module__)


def entries(kind: str) -> list[Entry]:
    """All parts of a kind, by name."""
    return sorted((e for e in _entries.values() if e.kind == kind), key=lambda e: e.name)


def all_entries() -> list[Entry]:
    """All parts of all kinds."""
    return list(_entries.values())


def entry_of(cls: type) -> Entry | None:
    """The entry of a part's class; None where it is not registered."""
    return next((e for e in _entries.values() if e.cls is cls), None)


def part_name(cls: type) -> str:
    """The registered name of a part's class; the class name when it is not registered."""
    entry = entry_of(cls)
    return cls.__name__ if entry is None else entry.name


def named(kind: str, name: str) -> type:
    """The class of a part.

    Raises:
        UsageError: unknown name, with the nearest known one.
    """
    entry = _entries.get((kind, name))
    if entry is None:
        raise UsageError(f"No {kind} part is called '{name}'. {suggest(name, [e.name for e in entries(kind)])}")
    return entry.cls


# ---------------------------------------------------------------------------------------------------- user's files


def load_file(path: str | Path) -> ModuleType:
    """Run a user's Python file and return it as a module; its own folder is importable while it runs.

    The module's name contains the digest of the file, so that a worker process that runs the same file finds the
    same classes.

    Raises:
        UsageError: the file does not exist, is no Python, or raises while it is run.
    """
    file = here(path)
    if not file.is_file():
        raise UsageError(f"No file '{path}'. Write the path of a Python file, such as model.py:build.")
    name = USER_PREFIX + source_digest(file)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"'{path}' is not a Python file. Write the path of a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with importable(file):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"'{path}' fails while it is run: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def importable(file: Path) -> Iterator[None]:
    """Inside, the modules beside ``file`` can be imported, and are read anew.

    Another folder's helper of the same name, or an older version of this one's, would otherwise be taken for what the
    digest names; so would a byte-code file written in the same second. What is not read anew stays where it was: a
    class of a study's helper is pickled by its name after another file, with helpers of its own, was run.
    """
    held = {name: sys.modules.pop(name) for name in _helpers if name in sys.modules}
    _helpers.clear()
    folder, written = str(file.parent), sys.dont_write_bytecode
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = written
        beside = {str(path) for path in _sources(file)} - {str(file)}
        _helpers.update(n for n, m in list(sys.modules.items()) if getattr(m, "__file__", None) in beside)
        for name, module in held.items():
            sys.modules.setdefault(name, module)
        _helpers.update(held)


def load_name(file: str | Path, name: str) -> Any:
    """A name from a user's file.

    Raises:
        UsageError: the file has no such name; those it has are listed.
    """
    module = load_file(file)
    if not hasattr(module, name):
        public = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        have = f"It has: {', '.join(sorted(public))}." if public else "It defines no function or class."
        raise UsageError(f"'{file}' has no '{name}'. {have} Write {Path(file).name}:NAME, or add def {name}(): …")
    return getattr(module, name)


def source_digest(file: str | Path) -> str:
    """16 hex digits over a Python file and every module that it imports, directly or not, from its own folder."""
    root = Path(file).resolve()
    seen = _sources(root)
    digest = hashlib.sha256()
    for path in sorted(seen):
        digest.update(f"{path.relative_to(root.parent)}\x00".encode() + seen[path] + b"\x00")
    return digest.hexdigest()[:16]


def imported_roots(file: str | Path) -> set[str]:
    """First words of the names of everything that a Python file, or a module beside it that it imports, imports."""
    import ast

    found: set[str] = set()
    for source in _sources(Path(file).resolve()).values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    return found


def _sources(root: Path) -> dict[Path, bytes]:
    """The file and every module that it imports from its own folder, with their text."""
    seen: dict[Path, bytes] = {}
    waiting = [root]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen[current] = current.read_bytes()
            waiting += _imports_beside(current, seen[current], root.parent)
    return seen


def _imports_beside(file: Path, source: bytes, folder: Path) -> list[Path]:
    import ast

    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    names: set[tuple[Path, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(folder, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if node.level else folder
            names |= {(base, f"{node.module or ''}.{alias.name}".lstrip(".")) for alias in node.names}
    found = []
    for base, dotted in names:
        stem = base
        for word in dotted.split("."):  # importing a.b runs a/__init__.py, too
            stem = stem / word
            found += [p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()]
    return [path for path in found if path.is_relative_to(folder)]


class Carried(NamedTuple):
    """A user's file and the modules beside it that it imports, by content, for another machine."""

    path: str
    digest: str
    sources: tuple[tuple[str, bytes], ...]
    """Path below the file's folder, and text, of each; the file itself is the first."""


def carried(path: str) -> Carried:
    """A user's file as it is now."""
    root = Path(path).resolve()
    sources = _sources(root)
    return Carried(
        str(root), source_digest(root), tuple((p.relative_to(root.parent).as_posix(), t) for p, t in sources.items())
    )


_copies: dict[str, Path] = {}


def here(path: str | Path) -> Path:
    """Where a user's file lies on this machine: where its path says, unless it was carried here."""
    file = Path(path).resolve()
    return _copies.get(str(file), file)


def lend(path: str, copy: Path) -> None:
    """From now on read ``copy`` where ``path`` of another machine is meant."""
    _copies[path] = copy


def receive(file: Carried, folder: Path) -> None:
    """Run a user's file from another machine: from its own path if the same content lies there, else from a copy.

    Args:
        file: what was carried.
        folder: where a copy may be made.

    Raises:
        UsageError: the content is not that of its digest, or a path leads out of the folder.
    """
    if USER_PREFIX + file.digest in sys.modules:
        return
    if not (Path(file.path).is_file() and source_digest(file.path) == file.digest):
        inside = (folder / file.digest).resolve()
        for name, text in file.sources:
            place = (inside / name).resolve()
            if not place.is_relative_to(inside):
                raise UsageError(f"'{name}', carried with '{file.path}', lies outside of its folder.")
            place.parent.mkdir(parents=True, exist_ok=True)
            # Renamed into place: another process of this machine may be about to run the same file.
            temporary = place.with_name(f".{place.name}.{os.getpid()}")
            temporary.write_bytes(text)
            os.replace(temporary, place)
        copy = inside / file.sources[0][0]
        if source_digest(copy) != file.digest:
            raise UsageError(f"'{file.path}' changed while it was carried to this machine. Run the command again.")
        lend(file.path, copy)
    load_file(file.path)


def content_digest(content: bytes) -> str:
    """16 hex digits that name a file's content."""
    return hashlib.sha256(content).hexdigest()[:16]


def loaded_files(pickled: bytes) -> tuple[str, ...]:
    """Paths of the user's files that a process must run before it can unpickle ``pickled``.

    A file that has moved since this process ran it is left out where the pickle does not name it: what no cell needs
    must not stop a run.
    """
    loaded = [(n, m.__file__) for n, m in list(sys.modules.items()) if n.startswith(USER_PREFIX) and m.__file__]
    return tuple(file for name, file in loaded if name.encode() in pickled or Path(file).is_file())
