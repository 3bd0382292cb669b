"""docs/adding-a-paper.md is true, and enough: its blocks are a study, and the example needs nothing that it does not
name."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from robassay import cli
from robassay.document import Document
from robassay.exams import examine
from robassay.store import Store

ROOT = Path(__file__).parents[1]
DOC = (ROOT / "docs" / "adding-a-paper.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "paper_example.py"
CERTIFIED = {("σ 0.25", "L2 0.5"): 0.49, ("σ 0.5", "L2 1"): 0.37, ("σ 0.5", "L2 2"): 0.19, ("σ 1", "L2 3"): 0.12}
STANDARD = {("σ 0.25", "standard"): 0.67, ("σ 0.5", "standard"): 0.57, ("σ 1", "standard"): 0.44}


def carried_out(file: Path, name: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `robassay run FILE --scale smoke` shows."""
    line = ["robassay", "run", str(file), "--scale", "smoke", "--workers", "0", "--quiet", "--store", str(store)]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0 and (store / "reports" / f"{name}.html").is_file()
    place = Store(store, create=False)
    document = Document(place.study(name), place).whole()
    assert document["provenance"]["missing"] == 0
    return document


def test_the_blocks_of_the_document_are_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carried out as the document says, with the outcome that it tells of (about 8 s, most of them two trainings)."""
    file = tmp_path / "my_paper.py"
    file.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)), encoding="utf-8")
    told = carried_out(file, "invented", tmp_path / "store", monkeypatch)
    outcomes = {check["id"]: check["outcome"] for check in told["checks"]}
    assert outcomes["r1"] == "PASS" and outcomes["r1-union"] != "PASS"
    (audit,) = told["audits"]
    assert (audit["verdict"], audit["cause"]) == ("artefact", "masking") and audit["claimed"]["value"] > 0.8
    (table,) = told["tables"]
    assert table["cells"][-1][0]["published"] == 0.97 and table["cells"][-1][0]["absent"].startswith("not built: ")


def test_the_example_is_a_paper_in_one_short_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohen et al., Table 1 (arXiv 1902.02918v2), beside ours; claims; an audit (about 15 s, a hundred cells)."""
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 150
    told = carried_out(EXAMPLE, "cohen2019", tmp_path / "store", monkeypatch)
    (table,) = told["tables"]
    cells = {
        (row, col): cell
        for row, line in zip(table["rows"], table["cells"], strict=True)
        for col, cell in zip(table["cols"], line, strict=True)
    }
    assert {
        at: cell["published"] for at, cell in cells.items() if cell["published"] is not None
    } == CERTIFIED | STANDARD
    assert all(cell["value"] is not None and cell["n"] == 40 for cell in cells.values())
    assert cells["σ 0.5", "standard"]["value"] > 0.6 and cells["σ 0.5", "L2 3"]["value"] < 0.1
    assert [check["id"] for check in told["checks"]] == ["c1", "c2", "c2-union", "c3", "c3-union"]
    assert all(check["outcome"] in ("PASS", "UNDECIDED") for check in told["checks"])
    (audit,) = told["audits"]
    assert audit["verdict"] in ("no_flaw_found", "undecided") and audit["stochastic"]


def test_the_examples_network_passes_the_exams() -> None:
    found = examine(str(EXAMPLE))
    assert found and all(one["ok"] for one in found)


def test_the_example_uses_only_what_the_document_names() -> None:
    """Modules and what is imported from them, everything behind "ra.", and methods and fields of our classes."""
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    used = {
        f"ra.{n.attr}" for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "ra"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            used |= {f"from {node.module} import {alias.name}" for alias in node.names}
        if isinstance(node, ast.ClassDef):
            used |= {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
            fields = [t for child in node.body if isinstance(child, ast.Assign) for t in child.targets]
            used |= {t.id for t in fields if isinstance(t, ast.Name)}
    assert {"ra.Net", "ra.VoteOf", "from robassay.contrasts import Contrasts", "quiet", "rows"} <= used
    assert not [name for name in sorted(used) if not re.search(rf"{re.escape(name)}\b", DOC)]
    keywords = {
        k.arg for n in ast.walk(tree) if isinstance(n, ast.Call) and "audit" in ast.unparse(n.func) for k in n.keywords
    }
    assert {"claimed", "draws"} <= keywords and all(f"{word}=" in DOC for word in keywords)
