"""How much of the public interface is documented.

Public are the names of ``robassay``, every registered part, and their own public methods. Of each is asked: a docstring
of its own; every argument, by an entry of its list or in backticks; for every number that is not whole what it is
measured in, or between what it lies; for every tensor a shape; every error raised, its own and those of the functions
that it calls; and of every part a work that the bibliography lists in full, or the word *ours*.

Run:   python tests/documented.py        (prints the figures and what is missing)
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import robassay
from robassay.registry import Entry, all_entries
from robassay.report.works import named_in

HANDED = {"self", "cls", "ctx", "rng", "x", "h", "logits", "rows", "labels", "models", "examples", "classes", "opened"}
SHOWN = {"id", "title", "caption"}
"""Arguments that mean the same everywhere: docs/reference/index.md says it once, and a test that it does."""

ALONE = {"robassay.cli.__main__", "robassay.papers.pages", "robassay.zoo.make", "robassay.run.ray"}
"""Commands, and what needs an optional package: no part is defined there."""

SHAPE = re.compile(r"\([^()]*[A-Za-z…]\w*(?:,| ·)[^()]*\)|same shape|any shape|\([A-Z],\)")
"""(B, C, H, W), (…, B), (N,)."""
MEASURED = re.compile(
    r"""\[0,\ ?1\]|\(0,\ ?1[\])]|[<>≤≥]|between|at\ (?:least|most)|up\ to|uniform\ in  # a range
    |pixel|logit|degree|epoch|threshold|grey\ level|points?\b|units?\ of|of\ the\ distance|share|probability  # a unit
    |factor|weight\b|weight\ of|divides|times|standard\ deviation|per\ step|learning\ rate|accuracy  # what it does
    |:class:`|:func:`|\bas\ in\b  # said elsewhere
    """,
    re.X,
)
"""What a number that is not whole is: its range, its unit, or what it multiplies."""


class Missing(NamedTuple):
    """What a public name does not say."""

    name: str
    what: str


class Counted(NamedTuple):
    """How many things there are to say, and which are not said."""

    asked: int
    missing: list[Missing]

    def __str__(self) -> str:
        said = self.asked - len(self.missing)
        return f"{said} of {self.asked} ({100 * said / max(1, self.asked):.1f} %)"


def parts() -> list[Entry]:
    """All registered parts of the package, whatever has been imported so far."""
    for module in pkgutil.walk_packages(robassay.__path__, "robassay."):
        if module.name not in ALONE:
            importlib.import_module(module.name)
    return [e for e in all_entries() if e.cls.__module__.startswith("robassay.")]


class Public(NamedTuple):
    """A class, a function or a method of its own."""

    name: str
    thing: Any
    own: str
    """Its docstring; of a method also those of the methods that it overrides."""
    text: str
    """What may document it: of a method its classes' docstrings, too."""


def public() -> Iterator[Public]:
    """Everything public, each once."""
    objects = {getattr(robassay, n): n for n in robassay.__all__ if n != "__version__"}
    for entry in parts():
        objects.setdefault(entry.cls, entry.cls.__name__)
    for thing, name in objects.items():
        text = inspect.getdoc(thing) or ""
        yield Public(name, thing, text, text)
        if inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if not attribute.startswith("_") and inspect.isfunction(function):
                    yield Public(f"{name}.{attribute}", function, *_inherited(thing, attribute))


def _inherited(cls: type, attribute: str) -> tuple[str, str]:
    """The docstrings of a method along its bases, and beside them those of its classes."""
    bases = [base for base in cls.__mro__[:-1] if attribute in vars(base)]
    own = [inspect.getdoc(vars(base)[attribute]) or "" for base in bases]
    return "\n".join(own).strip(), "\n".join([*own, *(inspect.getdoc(base) or "" for base in bases)])


def arguments(thing: Any) -> list[str]:
    """What a caller may pass: fields of a dataclass, else parameters."""
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing):
            return [f.name for f in dataclasses.fields(thing) if f.init and f.name not in SHOWN]
        if "__init__" not in vars(thing) or issubclass(thing, Exception):
            return []
        thing = vars(thing)["__init__"]
    return [name for name in inspect.signature(thing).parameters if name not in HANDED]


def annotations(thing: Any) -> dict[str, str]:
    """Types of what a caller may pass, and of what is returned, as they are written."""
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing):
            return {f.name: str(f.type) for f in dataclasses.fields(thing)}
        thing = vars(thing).get("__init__")
    if not inspect.isfunction(thing):
        return {}
    signature = inspect.signature(thing)
    return {n: str(p.annotation) for n, p in signature.parameters.items()} | {
        "return": str(signature.return_annotation)
    }


def raised(thing: Any, deep: bool = True) -> set[str]:
    """Names of what a function, or a class's construction, raises: itself, and ``deep`` in what it calls by name."""
    if inspect.isclass(thing):
        made = [vars(thing)[n] for n in ("__init__", "__post_init__") if inspect.isfunction(vars(thing).get(n))]
        made = [m for m in made if "__create_fn__" not in m.__qualname__]
        return set().union(*(raised(m, deep) for m in made)) if made else set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError):
        return set()
    errors = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    found = _called(errors)
    for name in _called(ast.walk(tree)) if deep else ():
        other = thing.__globals__.get(name)
        if inspect.isfunction(other) and other.__module__.startswith("robassay"):
            found |= raised(other, deep=False)
    return found


def _called(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def entry(word: str, text: str) -> str:
    """What the list of a docstring says of an argument; empty where it has no entry."""
    found = re.search(rf"^( *)(?:\w+, )*{re.escape(word)}(?:, \w+)*: (.*(?:\n\1 +\S.*)*)", text, re.M)
    return " ".join(found[2].split()) if found else ""


def named(word: str, text: str) -> bool:
    """Whether a docstring speaks of a name: by an entry of its list, or within double backticks."""
    ticked = " ".join(re.findall(r"``(.+?)``", text.replace("\n", " ")))
    return bool(entry(word, text) or re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", ticked))


def docstrings() -> Counted:
    """Every public name has a docstring, and a method one of its own."""
    everything = list(public())
    return Counted(len(everything), [Missing(p.name, "docstring") for p in everything if not p.own])


def args() -> Counted:
    """Every argument is spoken of."""
    asked = [(p, a) for p in public() for a in arguments(p.thing)]
    return Counted(len(asked), [Missing(p.name, a) for p, a in asked if not named(a, p.text)])


def units() -> Counted:
    """Every number that is not whole has a range or a unit: in its entry, or where it is named in backticks."""
    asked = [
        (p, a)
        for p in public()
        for a in arguments(p.thing)
        if re.match(r"(?:float|Distance)\b", annotations(p.thing).get(a, ""))
    ]
    return Counted(
        len(asked),
        [Missing(p.name, f"unit of {a}") for p, a in asked if not MEASURED.search(entry(a, p.text) or p.own)],
    )


def shapes() -> Counted:
    """Every function that returns a tensor, or takes one that does not mean the same everywhere, says of what shape."""
    asked = []
    for p in public():
        if not inspect.isclass(p.thing):
            types = annotations(p.thing)
            told = {n for n, t in types.items() if n not in HANDED and re.search(r"Tensor|Matrix|NDArray|ndarray", t)}
            asked += [p] if told else []
    return Counted(len(asked), [Missing(p.name, "shape") for p in asked if not SHAPE.search(p.own)])


def errors() -> Counted:
    """Every error that a public name raises is spoken of. For what a part refuses when it is made (UsageError in
    ``__post_init__``) docs/conf.py writes the sentence, from the code."""
    asked = [
        (p, e)
        for p in public()
        for e in raised(p.thing)
        if not (inspect.isclass(p.thing) and dataclasses.is_dataclass(p.thing) and e == "UsageError")
    ]
    told = re.compile(r"(?<![\w.])\w*(?:Error|CannotQuiet|Terminated|Unwritable)\b")
    return Counted(len(asked), [Missing(p.name, e) for p, e in asked if e not in told.findall(p.text)])


def sources() -> Counted:
    """Every attack, estimator, net, defence, policy and rule names a work of the bibliography, or says: ours."""
    kinds = ("attacks", "estimators", "nets", "defences", "policies", "rules")
    asked = [e for e in parts() if e.kind in kinds]
    return Counted(
        len(asked),
        [
            Missing(e.name, f"source ({e.kind})")
            for e in asked
            if not named_in(e.source) and not re.search(r"\bours\b", e.source)
        ],
    )


CHECKS = (docstrings, args, units, shapes, errors, sources)


if __name__ == "__main__":
    for check in CHECKS:
        found = check()
        print(f"{check.__name__}: {found}")
        for one in found.missing:
            print(f"  {one.name}: {one.what}")
