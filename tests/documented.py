"""How much of the public interface is documented: every argument named, every error raised named, a docstring at all.

Public are the names of ``robassay``, every registered part, and their own public methods.

Run:   python tests/documented.py        (prints the figures and what is missing)
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import robassay
from robassay.registry import Entry, all_entries

HANDED = {"self", "cls", "ctx", "rng", "x", "h", "logits", "rows", "labels", "models", "examples", "classes", "opened"}
SHOWN = {"id", "title", "caption"}
"""Arguments that mean the same everywhere: docs/reference/index.md says it once, and a test that it does."""


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
    """All registered parts of the package."""
    import robassay.training  # noqa: F401
    from robassay.studies import listing

    listing("nets")
    return [e for e in all_entries() if e.cls.__module__.startswith("robassay.")]


def public() -> Iterator[tuple[str, Any, str]]:
    """(name, object, text that may document it): classes, functions and own public methods, each once."""
    objects = {getattr(robassay, n): n for n in robassay.__all__ if n != "__version__"}
    for entry in parts():
        objects.setdefault(entry.cls, entry.cls.__name__)
    for thing, name in objects.items():
        yield name, thing, inspect.getdoc(thing) or ""
        if inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if not attribute.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{attribute}", function, _inherited(thing, attribute)


def _inherited(cls: type, attribute: str) -> str:
    """The docstrings of a method along its bases, and of those classes: either may say what it takes and raises."""
    return "\n".join(
        (inspect.getdoc(vars(base)[attribute]) or "") + "\n" + (base.__doc__ or "")
        for base in cls.__mro__[:-1]
        if attribute in vars(base)
    )


def arguments(thing: Any) -> list[str]:
    """What a caller may pass: fields of a dataclass, else parameters."""
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing):
            return [f.name for f in dataclasses.fields(thing) if f.init and f.name not in SHOWN]
        if "__init__" not in vars(thing) or issubclass(thing, Exception):
            return []
        thing = vars(thing)["__init__"]
    return [name for name in inspect.signature(thing).parameters if name not in HANDED]


def raised(thing: Any) -> set[str]:
    """Names of what the source of a function, or of a class's construction, raises itself."""
    if inspect.isclass(thing):
        made = [vars(thing)[n] for n in ("__init__", "__post_init__") if inspect.isfunction(vars(thing).get(n))]
        made = [m for m in made if "__create_fn__" not in m.__qualname__]
        return set().union(*(raised(m) for m in made)) if made else set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError):
        return set()
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    return {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}


def named(word: str, text: str) -> bool:
    """Whether a docstring speaks of an argument: in backticks, in its list, or as a word."""
    return bool(re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text))


def docstrings() -> Counted:
    """Every public name has a docstring."""
    everything = list(public())
    return Counted(len(everything), [Missing(n, "docstring") for n, _, text in everything if not text.strip()])


def args() -> Counted:
    """Every argument is spoken of."""
    asked = [(name, a, text) for name, thing, text in public() for a in arguments(thing)]
    return Counted(len(asked), [Missing(n, a) for n, a, text in asked if not named(a, text)])


def errors() -> Counted:
    """Every error that a public name raises itself is spoken of. For what a part refuses when it is made (UsageError in
    ``__post_init__``) docs/conf.py writes the sentence, from the code."""
    asked = [
        (name, e, text)
        for name, thing, text in public()
        for e in raised(thing)
        if not (inspect.isclass(thing) and dataclasses.is_dataclass(thing) and e == "UsageError")
    ]
    return Counted(len(asked), [Missing(n, e) for n, e, text in asked if not named(e, text)])


def sources() -> Counted:
    """Every attack, estimator, net, defence, policy and rule names where it comes from."""
    kinds = ("attacks", "estimators", "nets", "defences", "policies", "rules")
    asked = [e for e in parts() if e.kind in kinds]
    told = re.compile(r"\b(19|20)\d\d\b|\bours\b")
    return Counted(
        len(asked),
        [Missing(e.name, f"source ({e.kind})") for e in asked if not told.search(f"{e.source} {e.cls.__doc__}")],
    )


if __name__ == "__main__":
    for check in (docstrings, args, errors, sources):
        found = check()
        print(f"{check.__name__}: {found}")
        for one in found.missing:
            print(f"  {one.name}: {one.what}")
