"""From a frozen study and a store to the document that is shown: every number with interval, n and cell keys.

NumPy only: neither torch nor the code that described the study is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from robassay.checklist import checklist
from robassay.errors import RobassayError, UsageError
from robassay.exhibits import plane, raster, scatter, section, slope_checks, sources
from robassay.folds import Rows, rows
from robassay.intervals import rate
from robassay.pairs import compared
from robassay.store import Store
from robassay.thawed import thaw
from robassay.verdict import FLAGS, Evidence, as_json, judge
from robassay.version import __version__

SCHEMA = 1
HISTORY = "history/val_accuracy"


class Origin(NamedTuple):
    """Of a finished cell: seconds it took, on what machine, with which torch, and what it is in words."""

    seconds: float
    machine: str
    torch: str
    what: str


class Document:
    """Evaluates the items of a frozen study; a number whose cells are missing is None.

    Args:
        frozen: what :meth:`robassay.study.Study.freeze` gave.
        store: where the cells lie.
    """

    def __init__(self, frozen: dict[str, Any], store: Store) -> None:
        self.frozen, self.store = frozen, store
        self._done = store.done()
        self._rows: Callable[[tuple[str, ...]], Rows] = lru_cache(maxsize=256)(self._read)
        self._origin: Callable[[str], Origin] = cache(self._come)

    def _read(self, keys: tuple[str, ...]) -> Rows:
        return rows([self.store.read(key) for key in keys])

    def _come(self, key: str) -> Origin:
        about = self.store.about(key)
        machine, torch = (about.get(name, "unknown") for name in ("machine", "torch"))
        return Origin(about["seconds"], machine, torch, described(about.get("cell")))

    def _have(self, *groups: list[str]) -> bool:
        return all(key in self._done for group in groups for key in group)

    def _items(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.frozen["items"] if item["kind"] == kind]

    def measure(self, frozen: dict[str, Any]) -> dict[str, Any] | None:
        """A measure's estimate with its cell keys and what the attacker knew, None when a cell is missing."""
        groups = frozen["needs"]
        if not self._have(*groups):
            return None
        estimate = thaw(frozen["fold"])([self._rows(tuple(group)) for group in groups])
        keys = [key for group in groups for key in group]
        return {**as_json(estimate), "knowledge": frozen.get("knowledge"), "keys": keys}

    def audits(self) -> list[dict[str, Any]]:
        """Results of schema 1 of all audits whose cells are there."""
        return [found for item in self._items("audit") if (found := self._audit(item)) is not None]

    def _audit(self, item: dict[str, Any]) -> dict[str, Any] | None:
        groups = {"claimed": item["claimed"], "adequate": item["adequate"], **item["battery"]}
        final, twin = item.get("finalists", []), item.get("twin")  # unknown to studies of earlier versions
        if not self._have(item["clean"], *groups.values(), *final, twin or [], item["signals"]):
            return None
        signals = [self.store.read(key) for key in item["signals"]]
        joined = {name: np.concatenate([s[name] for s in signals]) for name in FLAGS} if signals else {}
        known = self.store.read(item["facts"]) if item["facts"] in self._done else {}
        facts = {name: bool(value) for name, value in known.items() if name != "classes"}
        if not facts.get("stochastic", len(self._rows(tuple(item["clean"])).decisions) > 1):
            joined.pop("carriers", None)
        evidence = Evidence(
            self._rows(tuple(item["clean"])),
            self._rows(tuple(item["claimed"])),
            self._rows(tuple(item["adequate"])),
            {name: self._rows(tuple(keys)) for name, keys in item["battery"].items()},
            joined,
            facts,
            [self._rows(tuple(keys)) for keys in final],
            self._rows(tuple(twin)) if twin else None,
            frozenset(item.get("after", [])),
        )
        result = judge(evidence, item["delta"], item["budget"])
        for attack in result["attacks"]:
            attack["keys"] = groups[attack["name"]]
        keys = [*item["clean"], *(k for g in (*groups.values(), *final, twin or []) for k in g), *item["signals"]]
        named = {name: item[name] for name in ("id", "title", "network", "threat", "command")}
        named["claim"] = item.get("claim", "")  # unknown to studies of earlier versions
        named |= {"data": item["data"]} if "data" in item else {}
        frozen = item.get("evidence", [])
        shown = [found for one in frozen if (found := self._exhibit(one)) is not None]
        result["checks"] += slope_checks(frozen, self.store, self._done)
        answers = checklist(sources(evidence, frozen, item["threat"]["eps"], self._point))
        told = {"evidence": shown, "checklist": answers, "keys": keys, "version": self.frozen["version"]}
        return {**named, **result, **told}

    def _exhibit(self, item: dict[str, Any]) -> dict[str, Any] | None:
        """A piece of an audit's evidence as it is shown; None for what is an indicator, or not computed."""
        if item["kind"] == "curves":
            return self._figure(item)
        if item["kind"] == "table":
            return {"kind": "table", **self._table(item)}
        kinds: dict[str, Callable[..., dict[str, Any] | None]] = {"landscape": plane, "raster": raster}
        drawn = kinds.get(item["kind"])
        return drawn(item, self.store) if drawn is not None and self._have([item["cell"]]) else None

    def _point(self, frozen: dict[str, Any] | None) -> Rows | None:
        """The first evaluation of a measure; None when a cell is missing."""
        if frozen is None or not self._have(*frozen["needs"]):
            return None
        return self._rows(tuple(frozen["needs"][0]))

    def tables(self) -> list[dict[str, Any]]:
        """Tables with estimates and published values."""
        return [self._table(item) for item in self._items("table")]

    def _table(self, item: dict[str, Any]) -> dict[str, Any]:
        nothing = [[None] * len(item["cols"])] * len(item["rows"])  # studies of earlier versions
        cells = [
            [self._entry(*cell) for cell in zip(*line, strict=True)]
            for line in zip(item["cells"], item["published"], item.get("absent", nothing), strict=True)
        ]
        named = {k: item[k] for k in ("id", "caption", "rows", "cols", "unit")}
        return {**named, "heat": item.get("heat", False), "cells": cells}

    def _entry(
        self, frozen: dict[str, Any] | None, published: float | None, absent: str | None
    ) -> dict[str, Any] | None:
        estimate = self.measure(frozen) if frozen else None
        if estimate is None and published is None and absent is None:
            return None
        known = frozen.get("knowledge") if frozen else None
        nothing: dict[str, Any] = {"value": None, "low": None, "high": None, "n": 0, "knowledge": known, "keys": []}
        why = {"absent": absent} if absent is not None else {}
        return {**(estimate or nothing), "published": published, **why}

    def figures(self) -> list[dict[str, Any]]:
        """Curves with estimates."""
        drawn = [self._figure(item) for item in self._items("curves")]
        return drawn + [self._training(item) for item in self._items("trainings")]

    def _figure(self, item: dict[str, Any]) -> dict[str, Any]:
        series = [{**line, "points": [self.measure(m) for m in line["points"]]} for line in item["series"]]
        named = {k: item[k] for k in ("id", "caption", "kind", "xlabel", "ylabel", "x")}
        return {**named, "unit": item.get("unit", "rate"), "series": series}

    def _training(self, item: dict[str, Any]) -> dict[str, Any]:
        """Validation accuracies over the epochs; a shorter training ends earlier."""
        series = []
        for line in item["series"]:
            told = np.empty(0)
            if line["cell"] in self._done:
                told = self.store.read(line["cell"], (HISTORY,))[HISTORY]
            # Not a number: the network could not decide yet.
            points = [None if np.isnan(v) else _share(float(v), line["n"], line["cell"]) for v in told]
            series.append({"name": line["name"], "dash": False, "points": points})
        longest = max((len(line["points"]) for line in series), default=0)
        for line in series:
            line["points"] += [None] * (longest - len(line["points"]))
        words = {"kind": "curves", "xlabel": "epoch", "ylabel": "validation accuracy"}
        named = {"id": item["id"], "caption": item["caption"]}
        return {**named, **words, "x": list(range(1, longest + 1)), "series": series}

    def comparisons(self) -> list[dict[str, Any]]:
        """Comparisons of models whose cells are there; see :func:`robassay.pairs.compared`."""
        found = []
        for item in self._items("comparison"):
            models = {
                model["name"]: [self._rows(tuple(keys)) for keys in (model["clean"], *model["attacked"])]
                for model in item["models"]
                if self._have(model["clean"], *model["attacked"])
            }
            keys = {m["name"]: [k for group in (m["clean"], *m["attacked"]) for k in group] for m in item["models"]}
            named = {"id": item["id"], "caption": item["caption"]}
            found.append({**named, **compared([m["name"] for m in item["models"]], models, keys)})
        return found

    def checks(self) -> list[dict[str, Any]]:
        """Claims with their outcome."""
        found = []
        for item in self._items("check"):
            estimate = self.measure(item["evidence"])
            outcome, sentence = _outcome(estimate, item["limit"], item["side"])
            named = {"id": item["id"], "question": item["question"], "outcome": outcome, "sentence": sentence}
            found.append({**named, "keys": estimate["keys"] if estimate else []})
        return found

    def galleries(self) -> list[dict[str, Any]]:
        """Galleries as arrays: the clean and attacked images, labels and the most frequent decision."""
        found = []
        for item in self._items("gallery"):
            if self._have([item["score"], item["craft"]]):
                named = {**{k: item[k] for k in ("id", "caption", "attack")}, "keys": [item["score"], item["craft"]]}
                found.append({**named, "images": self._pick(item)})
        return found

    def _pick(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        score, craft = self.store.read(item["score"]), self.store.read(item["craft"], ("x", "x_adv"))
        decisions, labels = score["decisions"], score["labels"]
        wrong = (decisions != labels).mean(0)
        # What was wrong from the start and left alone shows no attack.
        chosen = np.lexsort((-wrong, score["linf"] == 0))[: item["count"]]
        images = []
        for i in sorted(chosen):
            others = decisions[:, i][decisions[:, i] != labels[i]]
            names, counts = np.unique(others if len(others) else decisions[:, i], return_counts=True)
            images.append(
                {
                    "x": craft["x"][i],
                    "x_adv": craft["x_adv"][i],
                    "true": str(labels[i]),
                    "predicted": "rejected" if names[counts.argmax()] < 0 else str(names[counts.argmax()]),
                    "wrong": float(wrong[i]),
                    "l2": float(score["l2"][i]),
                    "linf": float(score["linf"][i]),
                    "attack": item["attack"],
                }
            )
        return images

    def drawings(self) -> list[dict[str, Any]]:
        """Scatters, planes of decisions and rasters of spikes whose cells are there."""
        kinds: dict[str, Callable[..., dict[str, Any] | None]]
        kinds = {"scatter": scatter, "plane": section, "raster": raster}
        drawn = [item for item in self.frozen["items"] if item["kind"] in kinds and self._have([item["cell"]])]
        found = [kinds[item["kind"]](item, self.store) for item in drawn]
        return [one for one in found if one is not None]

    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from: cells, machines, versions, hours."""
        have = [key for key in self.frozen["needs"] if key in self._done]
        origins = [self._origin(key) for key in have]
        behind = [key for key in self.frozen.get("behind", have) if key in self._done]
        machines, versions = sorted({one.machine for one in origins}), sorted({one.torch for one in origins})
        return {
            "cells": len(have),
            "missing": len(self.frozen["needs"]) - len(have),
            "hours": sum(self._origin(key).seconds for key in behind) / 3600,
            "machines": machines,
            "torch": versions,
            "mixed": len(machines) > 1 or len(versions) > 1,
            "seeds": self.frozen["seeds"],
            "data": self.frozen["data"],
        }

    def cells(self) -> list[dict[str, Any]]:
        """Every cell that is there, and those behind: key, what it is in full with the keys it is made of, seconds."""
        keys = [key for key in self.frozen.get("behind", self.frozen["needs"]) if key in self._done]
        origins = ((key, self._origin(key)) for key in keys)
        return [{"key": key, "what": one.what, "seconds": one.seconds} for key, one in origins]

    def whole(self) -> dict[str, Any]:
        """Everything, as the report and ``results.json`` show it (galleries still as arrays)."""
        head = {k: self.frozen[k] for k in ("title", "subtitle", "scale", "command", "cites")}
        return {
            "schema": SCHEMA,
            **head,
            "parts": self.frozen.get("parts", []),  # unknown to studies of earlier versions
            "version": __version__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "audits": self.audits(),
            "tables": self.tables(),
            "comparisons": self.comparisons(),
            "figures": self.figures(),
            "drawings": self.drawings(),
            "galleries": self.galleries(),
            "checks": self.checks(),
            "provenance": self.provenance(),
            "cells": self.cells(),
        }


def described(value: Any) -> str:
    """A cell's stored description on one line: ``Score(target=93dc…, on=Examples(…), repeats=10)``."""
    if isinstance(value, dict):
        if set(value) == {"cell"}:
            return str(value["cell"])
        fields = ", ".join(f"{name}={described(held)}" for name, held in value.items() if name != "type")
        return f"{value.get('type', '')}({fields})"
    return f"({', '.join(described(one) for one in value)})" if isinstance(value, list) else str(value)


def _share(value: float, n: int, key: str) -> dict[str, Any]:
    """An accuracy over ``n`` images, one decision each, with its interval."""
    right = (np.arange(n) < round(value * n)).astype(np.float64)
    return {**as_json(rate(right[None])), "keys": [key]}


def _outcome(estimate: dict[str, Any] | None, limit: float, side: str) -> tuple[str, str]:
    if estimate is None:
        return "UNDECIDED", "not computed"
    if estimate["value"] is None:
        return "UNDECIDED", f"no image to judge by, n = {estimate['n']}"
    if estimate["low"] is None or estimate["high"] is None:
        return "UNDECIDED", f"{100 * estimate['value']:.1f} without an interval, n = {estimate['n']}"
    low, high = estimate["low"], estimate["high"]
    shown = f"{100 * estimate['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}], n = {estimate['n']}"
    above, below = low > limit, high < limit
    if (above and side == "above") or (below and side == "below"):
        return "PASS", shown
    return ("FAIL" if above or below else "UNDECIDED"), shown


def study_in(store: Store, name: str | None) -> dict[str, Any]:
    """A frozen study of a store by name; the only one when ``name`` is None.

    Raises:
        UsageError: no such study, or several and no name.
        RobassayError: one that is damaged.
    """
    names = store.names()
    if name is None and len(names) == 1:
        return store.study(names[0])
    if name is None or name not in names:
        known = "".join(f"\n  {one}{_titled(store, one)}" for one in names)
        what = "which study?" if name is None else f"no study '{name}'."
        has = f"'{store.root}' has:{known}\nWrite --study NAME." if names else f"'{store.root}' has none yet."
        raise UsageError(f"{what} {has}")
    return store.study(name)


def _titled(store: Store, name: str) -> str:
    """The title of a study behind its name; nothing where the study is damaged, which its own report will tell."""
    try:
        return f": {store.study(name)['title']}"
    except (RobassayError, KeyError):
        return ""
