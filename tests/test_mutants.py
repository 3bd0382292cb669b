"""The table of mutations fits the code, and the script tells what was noticed from what was not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mutants import MUTANTS, ROOT, Mutant, fault, verdict

SECTIONS = {"§1", "§2", "§3", "§5", "§6", "§7.1", "§7.2", "§7.3", "§7.4", "attacks", "spikes", "protocols"}


def test_every_old_text_occurs_once_and_is_changed() -> None:
    stale = [fault(m, (ROOT / "robassay" / m.file).read_text()) for m in MUTANTS]
    assert [s for s in stale if s] == []
    assert all(m.old != m.new for m in MUTANTS) and len(set(MUTANTS)) == len(MUTANTS)


def test_every_section_has_a_mutation_and_every_mutation_a_test() -> None:
    assert {m.section for m in MUTANTS} == SECTIONS
    for m in MUTANTS:
        assert f"{m.names}" in (ROOT / "tests" / f"test_{m.tests}.py").read_text(), m


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("return a + b", "return a - b", "killed"),
        ("return a + b", "return b + a", "SURVIVED"),
        ("return a + b", "return (", "ERROR"),
        ("return a * b", "return a - b", "ERROR"),
    ],
)
def test_only_a_failed_test_has_noticed(tmp_path: Path, old: str, new: str, word: str) -> None:
    for name in ("robassay", "tests"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    code = tmp_path / "robassay" / "toy.py"
    code.write_text("def add(a, b):\n    return a + b\n")
    test = tmp_path / "tests" / "test_toy.py"
    test.write_text(
        "import pathlib\n\n"
        "space = {}\n"
        f"exec(pathlib.Path({str(code)!r}).read_text(), space)\n\n"
        "def test_sums():\n"
        "    assert space['add'](2, 1) == 3\n"
    )
    noticed, line = verdict(tmp_path, Mutant("§", "toy.py", old, new, "toy", "sums"))
    assert noticed == (word == "killed") and line.startswith(word), line
    assert code.read_text().endswith("a + b\n")  # as it was
