"""Results as frames, rich display in notebooks, and what a type checker is told."""

from __future__ import annotations

import ast
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_report import HOSTILE, Page, audit, document, figure, table

import robassay
from robassay.errors import UsageError
from robassay.frames import COLUMNS, records
from robassay.intervals import Estimate

ROOT = Path(__file__).parents[1]


def found(results: dict[str, Any], item: str) -> list[dict[str, Any]]:
    return [one for one in records(results) if one["item"] == item]


def test_a_table_gives_a_row_per_cell_by_hand() -> None:
    rows = found({"tables": [table()]}, "t")
    assert [(r["row"], r["column"]) for r in rows] == [("plain", "PGD"), ("a,b", "PGD"), ("a,b", "C|W")]
    first = {"item": "t", "row": "plain", "column": "PGD", "n": 200, "published": 0.48}
    assert rows[0] == {**first, "value": 0.512, "low": pytest.approx(0.442), "high": pytest.approx(0.582)}
    assert rows[2]["value"] is None and rows[2]["published"] == 0.42
    assert all(tuple(r) == COLUMNS for r in rows)


def test_curves_comparisons_and_audits_are_in_it() -> None:
    whole = document(figures=[figure()])
    line = found(whole, "f")
    assert [(r["row"], r["column"], r["value"]) for r in line] == [("usual", "0", 0.9), ("usual", "0.1", 0.3)]
    pairs = {(r["row"], r["column"]): r["value"] for r in found(whole, "k")}
    assert pairs["random", "robust"] == 0.45 and pairs["random − plain", "clean"] == -0.05
    judged = {(r["row"], r["column"]): r["value"] for r in found(whole, "head")}
    assert judged["rates", "claimed"] == 0.512 and judged["attacks", "targeted"] == 0.04
    assert float(found({"figures": [{**figure(), "x": [0, 8 / 255, 0.1]}]}, "f")[-1]["column"]) == 0.1


def test_an_audit_alone_with_its_evidence_and_committed_results() -> None:
    shown = [{**figure(), "id": "steps"}, {"kind": "table", **table(id="noise")}, {"kind": "landscape", "id": "l"}]
    rows = records(audit(evidence=shown))
    assert {r["item"] for r in rows} == {"head", "head/steps", "head/noise"}
    held = json.loads((ROOT / "results" / "small" / "tan2020.json").read_text(encoding="utf-8"))
    cells = [c for t in held["tables"] for line in t["cells"] for c in line if c is not None]
    rows = [r for r in records(held) if r["item"] in {t["id"] for t in held["tables"]}]
    assert len(rows) == len(cells) > 50
    assert sum(r["published"] is not None for r in rows) == sum(c["published"] is not None for c in cells) > 0
    assert records(SimpleNamespace(whole=lambda: held)) == records(held)


def test_what_is_no_result_is_refused() -> None:
    for wrong in ({}, {"rows": []}):
        with pytest.raises(UsageError, match="no results"):
            records(wrong)
    with pytest.raises(UsageError, match="excel"):
        robassay.frame(document(), "excel")  # type: ignore[arg-type]


class Frame:
    """What a library's DataFrame is asked for here."""

    def __init__(self, data: dict[str, list[Any]], **more: Any) -> None:
        self.data, self.more = data, more

    def astype(self, types: dict[str, str]) -> Frame:
        self.more["types"] = types
        return self


def test_frames_are_asked_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for both libraries; the real ones, where installed, in the next test."""
    fakes = {"pandas": SimpleNamespace(DataFrame=Frame)}
    fakes["polars"] = SimpleNamespace(DataFrame=Frame, String="text", Int64="int", Float64="float")
    there: set[str] = set()

    def imported(name: str) -> Any:
        if name not in there:
            raise ImportError(name)
        return fakes[name]

    monkeypatch.setattr("robassay.frames.importlib", SimpleNamespace(import_module=imported))
    with pytest.raises(UsageError, match="pandas or polars, which is not installed"):
        robassay.frame(document())
    there.add("polars")
    made = robassay.frame(document())
    assert made.more["schema"]["n"] == "int" and made.more["schema"]["row"] == "text"
    assert tuple(made.data) == COLUMNS == tuple(made.more["schema"])
    assert all(value is None or isinstance(value, float) for value in made.data["published"])
    with pytest.raises(UsageError, match="needs pandas"):
        robassay.frame(document(), "pandas")
    there.add("pandas")
    made = robassay.frame(document())
    assert made.more["types"]["value"] == "float64" and made.more["columns"] == list(COLUMNS)
    assert robassay.frame(document(), "polars").more.keys() == {"schema"}


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_real_frame(library: str) -> None:
    """Both are installed with the extra test; elsewhere, this is left out."""
    module = pytest.importorskip(library)
    held = document(figures=[figure()])
    made = robassay.frame(held, library)  # type: ignore[arg-type]
    assert isinstance(made, module.DataFrame) and tuple(made.columns) == COLUMNS
    types = {name: str(type_) for name, type_ in zip(made.columns, made.dtypes, strict=True)}
    assert {types[name].lower() for name in ("value", "low", "high", "published")} == {"float64"}
    assert types["n"].lower() == "int64" and types["row"] in ("str", "String", "object")
    rows = made.to_dict("records") if library == "pandas" else made.to_dicts()
    for shown, told in zip(rows, records(held), strict=True):
        for name in COLUMNS:
            missing = shown[name] is None or shown[name] != shown[name]
            assert missing if told[name] is None else shown[name] == told[name], (name, told)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_real_frame_of_committed_results(library: str) -> None:
    """Intervals enclose values, what is not computed has n = 0, and the mean of a column is that of the plain rows."""
    pytest.importorskip(library)
    held = json.loads((ROOT / "results" / "small" / "tan2020.json").read_text(encoding="utf-8"))
    made = robassay.frame(held, library)  # type: ignore[arg-type]
    plain = [r["value"] for r in records(held) if r["value"] is not None]
    assert len(plain) > 50 and made["value"].mean() == pytest.approx(sum(plain) / len(plain))
    valued = made[made["n"] > 0] if library == "pandas" else made.filter(made["n"] > 0)
    assert len(valued) > 50 and ((valued["low"] <= valued["value"]) | (valued["n"] == 1)).all()
    assert len(robassay.frame({"audits": []}, library)) == 0  # type: ignore[arg-type]


def test_an_estimate_shows_value_interval_and_n() -> None:
    assert Page(Estimate(0.512, 0.44, 0.58, 200)._repr_html_()).text == "51.2 % [44.0, 58.0], n = 200"
    assert "n = 0" in Estimate(math.nan, math.nan, math.nan, 0)._repr_html_()


def test_a_study_shows_its_items_and_escapes_them() -> None:
    from small_study import study

    made = study("smoke")
    page = Page(made._repr_html_())
    assert not page.open and "A small study" in page.text and f"{len(made.needs())} cells" in page.text
    for item in made.items:
        assert f"{type(item).__name__}{item.id}" in page.text
    import dataclasses

    hostile = dataclasses.replace(made, title=HOSTILE, subtitle=HOSTILE)._repr_html_()
    assert not {"script", "img"} & {tag for tag, _ in Page(hostile).tags}


def test_an_audit_that_is_planned_shows_what_it_will_do() -> None:
    from robassay.auditing import describe_audit
    from robassay.cells import Examples
    from robassay.data import find
    from robassay.models import Train
    from robassay.nets.mlp import MLP
    from robassay.recipe import Recipe
    from robassay.threat import Threat

    data = find("digits")
    planned = describe_audit(Train(MLP(), data, Recipe(epochs=1)), Examples(data, "test", 0, 40), Threat("linf", 0.1))
    text = Page(planned._repr_html_()).text
    for word in ("linf, eps 0.1", "pgd:steps=10", "images40", "quick", *planned.battery):
        assert word in text, word


def test_a_result_shows_its_card() -> None:
    from robassay.auditing import Result

    page = Page(Result(audit(title=HOSTILE))._repr_html_())
    assert "51.2 %" in page.text and "script" not in {tag for tag, _ in page.tags}


def test_everything_that_is_called_says_its_types() -> None:
    """Every argument and every result of every function of the package; mypy says that they are right."""
    lacking = []
    for file in sorted((ROOT / "robassay").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        methods = {f for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for f in c.body}
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                given = (
                    given[1:]
                    if node in methods and "staticmethod" not in map(ast.unparse, node.decorator_list)
                    else given
                )
                given += [one for one in (node.args.vararg, node.args.kwarg) if one is not None]
                if node.returns is None or any(one.annotation is None for one in given):
                    lacking.append(f"{file.name}:{node.lineno} {node.name}")
    assert not lacking


def test_the_wheel_carries_py_typed_and_every_file_that_is_not_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """As setuptools itself reads pyproject.toml, without building anything."""
    pytest.importorskip("setuptools", "77")
    from setuptools import Distribution
    from setuptools.config.pyprojecttoml import apply_configuration

    monkeypatch.chdir(ROOT)
    made = apply_configuration(Distribution(), "pyproject.toml")
    made.packages = sorted({".".join(p.parent.parts) for p in Path("robassay").rglob("__init__.py")})
    made.include_package_data = False  # what version control knows is no promise
    build = made.get_command_obj("build_py")
    build.ensure_finalized()
    carried = {Path(folder, name) for _, folder, _, names in build.data_files for name in names}
    wanted = {p for p in Path("robassay").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert Path("robassay/py.typed") in carried and wanted == carried


def test_the_public_names_are_there_and_load_no_library_of_frames() -> None:
    assert robassay.frame is importlib.import_module("robassay.frames").frame
    code = "import sys, robassay; robassay.frame; print({'pandas', 'polars', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
