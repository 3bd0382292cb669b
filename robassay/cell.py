"""Units of work: immutable values that name everything they depend on, and so their own result.

A cell contains the cells it needs: the graph of work is the value. Its key is a hash of its type, its version and its
non-default fields; device and number of workers are no fields, so they cannot change a result's name.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import gc
import hashlib
import json
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar, dataclass_transform

import numpy as np
import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.data import Images
from robassay.errors import UsageError
from robassay.registry import USER_PREFIX, source_digest

Arrays = dict[str, Tensor]
T = TypeVar("T", bound=type)
P = ParamSpec("P")
R = TypeVar("R")


def without_cycles(work: Callable[P, R]) -> Callable[P, R]:
    """``work``, during which Python does not look for cycles: it makes cells by the thousand, and cells have none.

    Its collector goes through all values again and again while they become more: with 64,000 cells a plan took half as
    long again for each of them as with 1,000.
    """

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not gc.isenabled():
            return work(*args, **kwargs)
        gc.disable()
        try:
            return work(*args, **kwargs)
        finally:
            gc.enable()

    return run


class Context(Protocol):
    """What a computing cell may use."""

    device: torch.device
    scratch: Path

    def load(self, cell: Cell) -> dict[str, np.ndarray]:
        """The stored arrays of a cell."""

    def open(self, model: Model) -> Classifier:
        """The classifier of a model cell, in eval mode and frozen, on the device."""

    def progress(self, done: int, total: int) -> None:
        """Report how far the cell is."""


class Source(Protocol):
    """A data set: see :class:`robassay.data.Data`; identity is its name and checksum."""

    @property
    def name(self) -> str: ...
    @property
    def checksum(self) -> str: ...
    @property
    def classes(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def note(self) -> str: ...
    def split(self, name: Any) -> Images: ...


@dataclass_transform(frozen_default=True, eq_default=False)
def cell(cls: T) -> T:
    """Make a class a cell: a frozen dataclass, compared and hashed by its key."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    return made


class Cell(abc.ABC):
    """A pure computation with a name of its own."""

    version: ClassVar[int] = 1
    """Raised whenever the same fields would give another result."""
    runs_network: ClassVar[bool] = True
    """Whether computing it runs a network, so that a GPU would be worth while."""

    @abc.abstractmethod
    def compute(self, ctx: Context) -> Arrays:
        """The result. Random numbers come from streams under :attr:`key` only."""

    @cached_property
    def key(self) -> str:
        """16 hex digits that name the result."""
        text = json.dumps(describe(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def needs(self) -> tuple[Cell, ...]:
        """The cells directly contained in the fields, without repeats."""
        found: dict[str, Cell] = {}
        for child in _children(self):
            found[child.key] = child
        return tuple(found.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


_PLAIN = frozenset((bool, int, str, float, type(None)))
"""Types that hold no cell. Most of what a plan looks at is of one of them, and there may be millions."""


_layouts: dict[type, tuple[dataclasses.Field[Any], ...]] = {}


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    if kind not in _layouts:
        _layouts[kind] = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return _layouts[kind]


def _children(value: Any) -> list[Cell]:
    """The cells in a dataclass's fields."""
    kind: Any = type(value)
    held = [getattr(value, f.name) for f in _fields(kind)]
    return [c for v in held if type(v) not in _PLAIN for c in _cells_in(v)]


def _cells_in(value: object) -> list[Cell]:
    if isinstance(value, Cell):
        return [value]
    if isinstance(value, tuple):
        return [c for v in value if type(v) not in _PLAIN for c in _cells_in(v)]
    return _children(value)


def describe(value: object, top: bool = True) -> Any:
    """A JSON value that identifies a part or cell: type, version and non-default fields; contained cells by key.

    Raises:
        UsageError: a field holds something that has no stable identity (a tensor, a function, a list).
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple):
        return [describe(v, False) for v in value]
    if isinstance(value, Cell) and not top:
        return {"cell": value.key}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named: dict[str, Any] = {"type": _type_name(type(value))}
        version = getattr(type(value), "version", 1)
        if version != 1:
            named["version"] = version
        for f in _fields(type(value)):
            held = getattr(value, f.name)
            if f.metadata.get("key", True) and not _is_default(f, held):
                named[f.name] = describe(held, False)
        return named
    raise UsageError(
        f"{value!r} cannot be part of an experiment's name: a field holds a {type(value).__name__}. "
        "Use numbers, text, None, tuples of them, or other parts."
    )


def _is_default(field: dataclasses.Field[Any], held: object) -> bool:
    if field.default is not dataclasses.MISSING:
        return type(held) is type(field.default) and held == field.default
    return field.default_factory is not dataclasses.MISSING and held == field.default_factory()


def _type_name(cls: type) -> str:
    """Own classes by name; a user's class also by the content of its file, since nobody versions that."""
    module = cls.__module__
    if module.startswith("robassay."):
        return cls.__name__
    if module.startswith(USER_PREFIX):
        return f"{cls.__name__}@{module.removeprefix(USER_PREFIX)}"
    file = getattr(sys.modules.get(module), "__file__", None)
    return f"{cls.__name__}@{source_digest(file) if file else module}"


class Model(Cell):
    """A cell that stands for a classifier."""

    @abc.abstractmethod
    def open(self, ctx: Context) -> Classifier:
        """The classifier, built from what the context has stored. The context freezes it and sets eval mode."""


def with_needs(cells: list[Cell]) -> list[Cell]:
    """The cells and everything they contain, each once, what is needed first.

    Keys are asked for from the bottom up and nothing calls itself, so that a chain of thousands is no trouble.
    """
    ordered: dict[str, Cell] = {}
    seen: set[int] = set()
    waiting: list[tuple[Cell, list[Cell] | None]] = [(one, None) for one in reversed(cells)]
    while waiting:
        one, children = waiting.pop()
        if children is not None:
            vars(one).setdefault("needs", tuple({c.key: c for c in children}.values()))  # else looked for once more
            ordered.setdefault(one.key, one)
        elif id(one) not in seen:
            seen.add(id(one))
            children = _children(one)
            waiting.append((one, children))
            waiting += [(child, None) for child in reversed(children)]
    return list(ordered.values())
