"""One reference page per kind of part, written from the registry when the documentation is built."""

from __future__ import annotations

from pathlib import Path

from robassay.registry import entries

PAGES = {
    "attacks": "Attacks",
    "estimators": "Gradient estimators",
    "rules": "Backward rules",
    "policies": "Decision procedures",
    "access": "What an attacker may ask",
    "goals": "Aims",
    "nets": "Networks",
    "defences": "Defences",
    "recipes": "Training",
    "transforms": "Random transforms",
    "augmentations": "Augmentations",
    "activations": "Activations",
}
"""Kind in the registry → heading. Data sets are in the how-to on data."""


def load() -> None:
    """Import everything that registers parts."""
    from robassay.studies import listing

    for kind in ("nets", "attacks", "defences", "policies", "estimators", "augmentations"):
        listing(kind)


def write_parts(folder: Path) -> None:
    """Write ``folder``/KIND.md for every kind."""
    load()
    folder.mkdir(parents=True, exist_ok=True)
    for kind, heading in PAGES.items():
        text = [f"# {heading}", "", "```{eval-rst}"]
        for entry in entries(kind):
            if not entry.cls.__module__.startswith("robassay."):
                continue
            text += ["", f".. rubric:: {entry.name}", ""]
            text += [f".. autoclass:: {entry.cls.__module__}.{entry.cls.__qualname__}", ""]
            if entry.source:
                text += [f"   Source: {entry.source}.", ""]
        _write(folder / f"{kind}.md", "\n".join([*text, "```", ""]))


def _write(file: Path, text: str) -> None:
    """Only what has changed: Sphinx reads again what is newer."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
