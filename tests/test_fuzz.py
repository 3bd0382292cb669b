"""The short form of bench/fuzz.py: some of its cases, and proof that it would notice."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "bench")]
import advisories  # noqa: E402
import fuzz  # noqa: E402

SHORT = {fuzz.cell: 15, fuzz.study: 12, fuzz.layout: 8, fuzz.weights: 60, fuzz.adopted: 4, fuzz.parquet: 30}
SHORT |= {fuzz.audit: 8, fuzz.full: 3, fuzz.unwritable: 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FAULT_TRACE", "ROBASSAY_CACHE"):
            patch.setenv(name, "")  # put back at the end
        yield fuzz.Place(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("target", SHORT, ids=lambda t: t.__name__)
def test_what_others_made_ends_well_or_in_a_message(target, place):
    """The first one carries out a small study (about 4 s)."""
    for i in range(SHORT[target]):
        rng = random.Random(f"{target.__name__} test {i}")
        found = fuzz.tried(place, target.__name__, str(i), lambda rng=rng: target(place, rng))
        assert found is None, found


def test_command_lines_end_well_or_in_a_message(place, monkeypatch):
    monkeypatch.setattr(fuzz, "PROCESSES", 0)
    monkeypatch.setattr(fuzz, "LINES", 30)
    found = [f for _, f in fuzz.lines(place, 1.0, 1) if f is not None]
    assert not found


@pytest.mark.parametrize(
    "fault", [lambda: 1 / 0, lambda: exec("raise KeyError"), lambda: "exit 1 without a message"], ids=["a", "b", "c"]
)
def test_a_fault_would_be_found(fault, place):
    assert fuzz.tried(place, "t", "c", fault) is not None


def test_a_file_outside_and_a_hanging_case_would_be_found(place, monkeypatch):
    (place.outside / "new").write_text("x")
    assert "outside" in fuzz.tried(place, "t", "c", lambda: "").what
    (place.outside / "new").unlink()
    monkeypatch.setattr(fuzz, "PATIENCE", 1)
    hanging = fuzz.tried(place, "t", "c", lambda: __import__("time").sleep(20))
    assert hanging is not None and "hangs" in hanging.what


def test_code_in_a_pickle_would_be_found(place):
    import pickle

    pickle.loads(pickle.dumps(fuzz.Runs(place.outside / fuzz.CANARY)))
    assert place.untouched()
    (place.outside / fuzz.CANARY).unlink()


def test_advisories_are_read_and_their_absence_is_said(monkeypatch, capsys):
    versions = advisories.installed()
    assert {"torch", "numpy", "safetensors", "jinja2"} <= versions.keys() and "pytest" not in versions
    assert all(version[0].isdigit() and "+" not in version for version in versions.values())
    answer = {"results": [{}, {"vulns": [{"id": "PYSEC-1"}]}, None]}
    assert advisories.flaws(answer, ["a", "b", "c"]) == ["b: https://osv.dev/vulnerability/PYSEC-1"]
    with pytest.raises(AssertionError):
        advisories.flaws({"results": []}, ["a"])
    monkeypatch.setattr(advisories, "SOURCE", "http://127.0.0.1:9/")
    assert advisories.main() == 0 and "NOT CHECKED" in capsys.readouterr().out
