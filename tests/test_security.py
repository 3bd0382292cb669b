"""What others made is not trusted: no code of theirs is run, nothing of theirs leads outside of a store."""

from __future__ import annotations

import ast
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from robassay import cli
from robassay.errors import LostCell, RobassayError, printable
from robassay.registry import load_file
from robassay.run import carry_out
from robassay.safe import sealed
from robassay.store import Store

PACKAGE = Path(__file__).parents[1] / "robassay"
HERE = Path(__file__).parent
toy = load_file(HERE / "toy_study.py")

OWN = {
    "run/worker.py": {"pickle.loads"},
    "run/parcels.py": {"pickle.loads"},
    "program.py": {"torch.export.load"},
}
"""What a driver has pickled for its own workers, here or on its cluster, and a program that was written the moment
before; nothing else."""


def dangers(source: str, own: frozenset[str] | set[str] = frozenset()) -> list[str]:
    """Calls that could run somebody else's code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = {k.arg: ast.unparse(k.value) for k in node.keywords}
        last = name.rpartition(".")[2]
        root = name.partition(".")[0]
        bad = name in (
            "eval",
            "exec",
            "compile",
            "__import__",
            "builtins.eval",
            "builtins.exec",
            "os.system",
            "os.popen",
        )
        bad |= root in ("pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve") and (
            last in ("load", "loads", "Unpickler", "open")
        )
        bad |= root == "joblib" and last == "load"
        bad |= root in ("torch", "serialization") and last == "load" and words.get("weights_only") != "True"
        bad |= root in ("np", "numpy") and last == "load" and words.get("allow_pickle", "False") != "False"
        bad |= root == "yaml" and last in ("load", "unsafe_load", "full_load")
        bad |= words.get("shell") == "True"
        if bad and name not in own:
            found.append(f"line {node.lineno}: {name}")
    return found


def test_no_module_unpickles_evaluates_or_asks_a_shell():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        assert not dangers(path.read_text(encoding="utf-8"), OWN.get(name, set())), name
    for name, own in OWN.items():  # an exception that nothing needs would let the next one in
        told = {line.split(": ")[1] for line in dangers((PACKAGE / name).read_text(encoding="utf-8"))}
        assert told == own, name


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')", "exec(text)", "pickle.loads(b)", "pickle.load(f)", "torch.load(f)", "joblib.load(f)",
        "torch.load(f, weights_only=False)", "torch.load(f, weights_only=flag)", "np.load(f, allow_pickle=True)",
        "yaml.load(f)", "subprocess.run(x, shell=True)", "os.system('x')", "__import__(name)", "marshal.loads(b)",
    ],
)  # fmt: skip
def test_the_scan_sees_each_of_these(line):
    assert dangers(line)


def test_the_scan_lets_these_pass():
    for line in ("model.eval()", "torch.load(f, weights_only=True)", "json.loads(t)", "np.load(f)", "re.compile(x)"):
        assert not dangers(line)


def test_templates_escape_everything_and_scripts_are_admitted_by_hash_alone():
    for file in (PACKAGE / "report").glob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert "|safe" not in text.replace(" ", "") and "autoescape false" not in text
    policy = (PACKAGE / "report" / "parts.html").read_text(encoding="utf-8")
    head = policy.split("Content-Security-Policy")[1].split('">')[0]
    assert "default-src 'none'" in head and "base-uri 'none'" in head and "form-action 'none'" in head
    assert "unsafe-eval" not in policy and "'unsafe-inline'" not in head.split("script-src")[1]
    for page in ("template.html", "leaderboard.html"):
        text = (PACKAGE / "report" / page).read_text(encoding="utf-8")
        assert text.count("{{ head(") == 1 and "<head>" not in text and "Content-Security-Policy" not in text
        assert "unsafe-eval" not in text
    scripts = sorted((PACKAGE / "report").glob("*.js"))
    assert len(scripts) == 3 and not any("eval(" in one.read_text(encoding="utf-8") for one in scripts)


def test_text_of_others_cannot_command_a_terminal():
    assert printable("a\x1b]0;owned\x07b\nc\td\u202ee") == "a?]0;owned?b\nc\td?e"
    assert printable("L∞ 8/255 · Größe") == "L∞ 8/255 · Größe"


# --------------------------------------------------------------------------------------------- a store from elsewhere


@pytest.fixture
def elsewhere(tmp_path):
    """A store with a cell and a study, and a folder outside of it that must stay as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.tex").write_text("mine")
    store = Store(tmp_path / "s")
    carry_out([toy.Number(1)], store, 0, quiet=True)
    key = toy.Number(1).key
    frozen = {
        "format": 1, "version": "0", "name": "toy", "title": "T", "subtitle": "", "scale": "small", "cites": [],
        "command": "", "items": [], "needs": [key], "behind": [key], "seeds": [], "data": [],
    }  # fmt: skip
    store.save_study("toy", frozen)
    return store, frozen, outside


def untouched(outside: Path) -> bool:
    return [p.name for p in outside.rglob("*")] == ["thesis.tex"] and (outside / "thesis.tex").read_text() == "mine"


def invoke(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["robassay", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(stop.value.code or 0), out, err


def put(store: Store, frozen: dict, name: str = "toy") -> None:
    (store.root / "studies" / f"{name}.json").write_text(json.dumps(sealed(frozen)))


@pytest.mark.parametrize("place", ["cells", "studies", "reports", "failed", "scratch", "damaged"])
def test_a_link_in_place_of_a_folder_is_not_followed(place, elsewhere, monkeypatch, capsys):
    store, frozen, outside = elsewhere
    shutil.rmtree(store.root / place, ignore_errors=True)
    (store.root / place).symlink_to(outside, target_is_directory=True)
    bad = toy.Fails()
    actions = {
        "cells": lambda: carry_out([toy.Number(2)], store, 0, quiet=True, silent=True),
        "studies": lambda: store.save_study("new", frozen),
        "failed": lambda: store.fail(bad.key, "x", ""),
        "scratch": lambda: store.scratch(bad.key),
        "damaged": lambda: store.set_aside(toy.Number(1).key),
        "reports": lambda: None,
    }
    if place == "reports":
        code, _, err = invoke(monkeypatch, capsys, "report", str(store.root))
        assert code == 1 and "symbolic link" in err
    else:
        with pytest.raises(RobassayError, match="symbolic link"):
            actions[place]()
    invoke(monkeypatch, capsys, "gc", "--store", str(store.root), "--yes")
    assert untouched(outside)


def test_a_link_in_place_of_a_cell_or_file_is_not_followed(elsewhere, monkeypatch, capsys):
    store, _, outside = elsewhere
    key = toy.Number(1).key
    folder = store.folder(key)
    real = store.root.parent / "moved"
    folder.rename(real)
    folder.symlink_to(real, target_is_directory=True)
    assert not store.has(key) and key not in store.done()
    with pytest.raises(LostCell):
        store.read(key)
    folder.unlink()
    real.rename(folder)
    (folder / "out.safetensors").rename(outside.parent / "out")
    (folder / "out.safetensors").symlink_to(outside.parent / "out")
    with pytest.raises(LostCell, match="a link or a pipe"):
        store.read(key)
    # A report's own name may be a link: the link is replaced, what it leads to is not written to.
    (store.root / "reports").mkdir()
    (store.root / "reports" / "toy.html").symlink_to(outside / "thesis.tex")
    (folder / "out.safetensors").unlink()
    (outside.parent / "out").rename(folder / "out.safetensors")
    assert invoke(monkeypatch, capsys, "report", str(store.root))[0] == 0
    assert untouched(outside) and not (store.root / "reports" / "toy.html").is_symlink()


def test_names_in_a_study_cannot_lead_outside(elsewhere, monkeypatch, capsys, tmp_path):
    store, frozen, outside = elsewhere
    table = {
        "kind": "table", "id": "../outside/t", "caption": "c", "rows": [], "cols": [], "unit": "rate", "heat": False,
        "cells": [], "published": [], "absent": [],
    }  # fmt: skip
    hostile = {
        "name": ({"name": "../outside/evil"}, ("report", str(store.root))),
        "key": ({"needs": ["../../../outside"]}, ("report", str(store.root))),
        "table": ({"items": [table]}, ("export", "toy", "--store", str(store.root), "--to", str(tmp_path / "to"))),
        "scale": ({"scale": "../outside"}, ("export", "toy", "--store", str(store.root), "--results")),
    }
    monkeypatch.chdir(tmp_path)
    for change, words in hostile.values():
        put(store, {**frozen, **change})
        code, _, err = invoke(monkeypatch, capsys, *words)
        assert code in (0, 1, 2) and untouched(outside), words
        assert code or "key" in str(change) or "needs" in change
        if code:
            assert err.startswith("robassay: ")


def test_gc_deletes_a_link_and_not_what_it_leads_to(elsewhere, monkeypatch, capsys):
    store, _, outside = elsewhere
    (store.root / "damaged").mkdir()
    (store.root / "damaged" / "x").symlink_to(outside, target_is_directory=True)
    (store.root / "cells" / "ab").mkdir()
    (store.root / "cells" / "ab" / "ab00000000000000").symlink_to(outside, target_is_directory=True)
    (store.root / "cells" / "cd").symlink_to(outside, target_is_directory=True)
    code, out, _ = invoke(monkeypatch, capsys, "gc", "--store", str(store.root), "--yes")
    assert code == 0 and "deleted 1" in out and untouched(outside)
    assert not os.path.lexists(store.root / "damaged" / "x")


def test_a_study_of_others_that_makes_no_sense_is_a_message(elsewhere, monkeypatch, capsys):
    store, frozen, _ = elsewhere
    for change in (
        {"items": 3}, {"items": [{"kind": "table"}]}, {"needs": None}, {"needs": [[1]]}, {"data": 3}, {"title": None},
        {"items": [{"kind": "check", "evidence": {"needs": [], "fold": {"type": "os.system"}}}]},
    ):  # fmt: skip
        put(store, {**frozen, **change})
        code, _, err = invoke(monkeypatch, capsys, "report", str(store.root))
        assert code == 0 or (code == 1 and err.startswith("robassay: "))
        assert code == 1 or "title" in change or "needs" in change
    (store.root / "studies" / "toy.json").write_text(json.dumps({**sealed(frozen), "title": "another"}))
    code, _, err = invoke(monkeypatch, capsys, "report", str(store.root))
    assert code == 1 and "is damaged (it is not what was written" in err
