"""Pins every part and cell: fields, defaults, version. Run `python tests/golden.py` after raising a version."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import robassay.attacks
import robassay.defences
import robassay.estimators
import robassay.given
import robassay.moments
import robassay.nets
import robassay.offline
import robassay.policy
import robassay.portions
import robassay.precise
import robassay.signals
import robassay.surrogates
import robassay.training  # noqa: F401
from robassay.cell import Cell
from robassay.cells import Craft, Examples, Score
from robassay.clouds import Cloud, Section
from robassay.converted import Convert, Timed
from robassay.defended import Encoder, Guarded, Regional
from robassay.finalists import Finalist
from robassay.given import Given, Held
from robassay.landscape import Faithful, Landscape
from robassay.models import Mixed, Quieted, Train
from robassay.propagation import Layer, Propagation
from robassay.quantised import Quantised
from robassay.rasters import Rasters
from robassay.registry import USER_PREFIX, all_entries
from robassay.signals import Facts, Signals
from robassay.substitute import Asked, Substitute

FILE = Path(__file__).with_name("golden.json")
CELLS: tuple[type[Cell], ...] = (
    Train,
    Mixed,
    Quieted,
    Finalist,
    Convert,
    Timed,
    Regional,
    Encoder,
    Guarded,
    Craft,
    Score,
    Substitute,
    Asked,
    Given,
    Held,
    Facts,
    Signals,
    Landscape,
    Rasters,
    Faithful,
    Cloud,
    Section,
    Quantised,
    Propagation,
    Layer,
)


def current() -> dict[str, dict[str, object]]:
    """Version and printed defaults of every part and cell."""
    parts = {f"{e.kind}/{e.name}": e.cls for e in all_entries() if not e.cls.__module__.startswith(USER_PREFIX)}
    parts = {name: cls for name, cls in parts.items() if cls.__module__.startswith("robassay.")}
    parts |= {f"cells/{cls.__name__}": cls for cls in CELLS} | {"data/Examples": Examples}
    return {name: _pinned(cls) for name, cls in sorted(parts.items())}


def _pinned(cls: type) -> dict[str, object]:
    fields = dataclasses.fields(cls)
    defaults = {f.name: "(none)" if f.default is dataclasses.MISSING else repr(f.default) for f in fields}
    return {"version": getattr(cls, "version", 1), "fields": defaults}


if __name__ == "__main__":
    FILE.write_text(json.dumps(current(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
