"""The command line from describing to exporting, an interrupted run, and a report on a machine without torch."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robassay import cli
from robassay.store import Store

HERE = Path(__file__).parent
STUDY = str(HERE / "small_study.py")


ATTACKS = {
    "fgsm", "r-fgsm", "bim", "pgd", "apgd", "cw", "modcw", "boundary", "hopskipjump", "square", "one-pixel", "uniform",
    "gaussian", "jpeg",
}  # fmt: skip


def invoke(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["robassay", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    assert stop.value.code == 0, captured.err
    return captured.out


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """The small study at smoke scale, carried out once."""
    folder = tmp_path_factory.mktemp("cli") / "s"
    line = [sys.executable, "-m", "robassay.cli", "run", STUDY, "--scale", "smoke", "--store", str(folder)]
    environment = {**os.environ, "TERM": "xterm-256color"}
    done = subprocess.run([*line, "--workers", "0"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr
    return folder


def test_run_prints_a_table_of_its_claims_or_json_and_nothing_else(store, monkeypatch, capsys, tmp_path):
    page = tmp_path / "page.html"
    words = ("run", STUDY, "--scale", "smoke", "--store", str(store), "--quiet", "--report", str(page))
    printed = invoke(monkeypatch, capsys, *words)
    assert "PASS" in printed and "Is the MLP above chance?" in printed and f"report: {page}" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    page.unlink()
    found = json.loads(invoke(monkeypatch, capsys, *words, "--json"))
    assert found["checks"][0]["outcome"] == "PASS" and found["tables"] and "galleries" not in found
    assert page.is_file()


def test_plan_and_status_say_what_is_there(store, monkeypatch, capsys, tmp_path):
    planned = json.loads(
        invoke(monkeypatch, capsys, "plan", STUDY, "--scale", "smoke", "--store", str(tmp_path / "new"), "--json")
    )
    assert planned["todo"] == len(planned["cells"]) == 20
    assert not (tmp_path / "new").exists()
    after = invoke(monkeypatch, capsys, "status", STUDY, "--scale", "smoke", "--store", str(store))
    assert "20 of 20 cells done, 0 to compute" in after
    other_scale = invoke(monkeypatch, capsys, "status", STUDY, "--scale", "small", "--store", str(store))
    assert "10 of 20 cells done" in other_scale and f"go on with: robassay run {STUDY}" in other_scale


def test_weights_written_by_one_command_are_taken_by_another(store, monkeypatch, capsys, tmp_path):
    folder, new = str(tmp_path / "weights"), str(tmp_path / "new")
    told = invoke(monkeypatch, capsys, "weights", STUDY, folder, "--scale", "smoke", "--store", str(store))
    assert "trained networks" in told and (tmp_path / "weights" / "index.json").is_file()
    run = ("run", STUDY, "--scale", "smoke", "--store", new, "--workers", "1", "--quiet")
    invoke(monkeypatch, capsys, *run, "--adopt", folder)
    trained = [f for f in (tmp_path / "new").glob("cells/*/*/cell.json") if "adopted" in json.loads(f.read_text())]
    assert len(trained) == len(list((tmp_path / "weights").glob("*.safetensors"))) > 0
    whole = {f.parent.name: f.parent for f in Path(store).glob("cells/*/*/out.safetensors")}
    for file in (tmp_path / "new").glob("cells/*/*/out.safetensors"):
        assert file.read_bytes() == (whole[file.parent.name] / "out.safetensors").read_bytes()


def test_export_writes_numbers_with_interval_n_and_keys(store, monkeypatch, capsys, tmp_path):
    invoke(monkeypatch, capsys, "export", "small", "--store", str(store), "--to", str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    cell = found["tables"][0]["cells"][0][0]
    assert cell.keys() >= {"value", "low", "high", "n", "published", "keys"} and cell["n"] == 40
    assert cell["published"] == 0.99 and Store(store).has(cell["keys"][0])
    assert found["provenance"]["missing"] == 0 and found["provenance"]["machines"]
    assert found["provenance"]["data"][0]["name"] == "digits"
    kept = Store(store)
    spent = sum(kept.about(key)["seconds"] for key in kept.done())  # trainings and attacks, too
    assert found["provenance"]["hours"] * 3600 == pytest.approx(spent)
    assert found["checks"][0]["outcome"] == "PASS"
    rows = list(csv.DictReader((tmp_path / "out" / "t1.csv").open(encoding="utf-8")))
    assert len(rows) == 6 and float(rows[0]["value"]) == pytest.approx(cell["value"])


def test_results_to_be_committed_go_under_their_scale_and_must_be_complete(store, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    invoke(monkeypatch, capsys, "export", "small", "--store", str(store), "--results")
    assert (tmp_path / "results" / "smoke" / "small.json").is_file()
    broken = tmp_path / "broken"
    shutil.copytree(store, broken)
    keys = json.loads((broken / "studies" / "small.json").read_text())["needs"]
    shutil.rmtree(Store(broken).folder(keys[0]))
    monkeypatch.setattr(sys, "argv", ["robassay", "export", "small", "--store", str(broken), "--results"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "1 cells of 'small' are missing" in capsys.readouterr().err


def test_a_copied_store_is_reported_without_torch_or_the_users_code(store, tmp_path):
    """A process in which torch cannot be imported (about 2 s)."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(store, copy)
    code = "import sys; sys.modules['torch'] = None; from robassay.cli import main; main()"
    page = tmp_path / "page.html"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(copy), "--out", str(page)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert "A small study" in text and "Is the MLP above chance?" in text and "data:image/png" in text


LIGHT = """
import sys
for name in ("torch", "sklearn", "joblib", "pyarrow", "pandas", "polars"):
    sys.modules[name] = None
from robassay.cli import main
main()
"""


def test_a_copied_store_is_read_with_seven_light_packages_and_gives_the_same_page(store, tmp_path):
    """What the README names for it is enough: of a store elsewhere the page is equal but for its time."""
    shutil.copytree(store, tmp_path / "copy")

    def read(code: str, *words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", code, *words]
        return subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)

    pages = []
    for code, name in ((LIGHT, "light"), ("from robassay.cli import main; main()", "full")):
        done = read(code, "report", "copy", "--out", f"{name}.html")
        assert done.returncode == 0, done.stderr
        text = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        pages.append(re.sub(r"<time .*?</time>", "", text))
        assert len(pages[-1]) < len(text)
    assert pages[0] == pages[1]
    for words in (("export", "small", "--store", "copy", "--to", "figures"), ("status", "--store", "copy")):
        done = read(LIGHT, *words)
        assert done.returncode == 0, done.stderr
    done = read(LIGHT, "list", "papers")
    assert done.returncode == 1 and "this command needs torch" in done.stderr and "Traceback" not in done.stderr


def test_a_store_of_several_studies_says_what_each_is(store, tmp_path, monkeypatch, capsys):
    shutil.copytree(store, tmp_path / "copy")
    place = Store(tmp_path / "copy")
    place.save_study("other", {**place.study("small"), "name": "other", "title": "Quite another"})
    for words, why in (((), "which study?"), (("--study", "smal"), "no study 'smal'.")):
        monkeypatch.setattr(sys, "argv", ["robassay", "report", str(place.root), *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr().err
        assert stop.value.code == 2 and why in said and "other: Quite another" in said and "small: A small" in said


def test_kill_9_in_the_middle_of_a_run_changes_no_bit(tmp_path):
    """Three processes train and attack on digits (about 12 s): whole, killed, resumed."""
    line = [sys.executable, "-m", "robassay.cli", "run", STUDY, "--workers", "0", "--quiet", "--store"]
    subprocess.run([*line, str(tmp_path / "whole")], check=True, capture_output=True)
    cut = tmp_path / "cut"
    process = subprocess.Popen([*line, str(cut)], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    # In the middle of a training: a checkpoint is there, the cell is not.
    while time.monotonic() < until and not list(cut.glob("scratch/*/checkpoint.pt")):
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {key: Store(cut).folder(key).stat().st_mtime_ns for key in Store(cut).done()}
    subprocess.run([*line, str(cut)], check=True, capture_output=True)
    one, two = Store(tmp_path / "whole"), Store(cut)
    assert one.done() == two.done() and len(before) < len(one.done())
    for key in one.done():
        assert (one.folder(key) / "out.safetensors").read_bytes() == (two.folder(key) / "out.safetensors").read_bytes()
    assert before == {key: two.folder(key).stat().st_mtime_ns for key in before}, "a finished cell was written again"
    assert not list(cut.glob("scratch/*"))


def test_ctrl_c_stops_cleanly_and_keeps_what_is_done(tmp_path):
    """A run with a worker process is interrupted (about 8 s)."""
    store = tmp_path / "s"
    # As from a terminal: tests started in the background inherit an ignored SIGINT, which Python would keep.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from robassay.cli import main; main()"
    )
    line = [sys.executable, "-c", code, "run", STUDY, "--workers", "1", "--store", str(store)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(store.glob("scratch/*/checkpoint.pt")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "what was finished is kept" in errors and "Traceback" not in errors


def test_a_group_is_computed_at_once_and_each_study_has_its_report(tmp_path, monkeypatch, capsys):
    """Two studies that share a network: one plan, then a page for each; the second time nothing is left to do."""
    from robassay import studies

    other = tmp_path / "other_study.py"
    text = Path(STUDY).read_text(encoding="utf-8").replace('ra.Study("small"', 'ra.Study("other"')
    other.write_text(text.replace("0.2)", "0.3)"), encoding="utf-8")
    monkeypatch.setattr(studies, "members", lambda name: (STUDY, f"{other}") if name == "papers" else ())
    store = tmp_path / "store"
    line = ("run", "papers", "--scale", "smoke", "--workers", "0", "--store", str(store), "--quiet")
    printed = invoke(monkeypatch, capsys, *line)
    assert printed.count("report: ") == 2
    pages = {file.name: file.read_text(encoding="utf-8") for file in (store / "reports").iterdir()}
    assert pages.keys() == {"small.html", "other.html"} and all("Missing:" not in page for page in pages.values())
    cells = sorted(store.glob("cells/*/*"))
    assert invoke(monkeypatch, capsys, *line) == printed and sorted(store.glob("cells/*/*")) == cells
    monkeypatch.setattr(sys, "argv", ["robassay", *line, "--report", str(tmp_path / "one.html")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "--report names one file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("nets", {"mlp", "small-cnn", "lenet++", "bsn-2", "lif"}),
        ("attacks", ATTACKS),
        ("defences", {"a2snn", "adversarial"}),
        ("policies", {"once", "mean-of", "vote-of", "rejecting"}),
        ("estimators", {"backprop", "ruled", "augmented", "differences"}),
        ("data", {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "pcam"}),
        ("papers", set()),
    ],
)
def test_list_names_parts_with_summary_and_source(kind, names, monkeypatch, capsys):
    found = json.loads(invoke(monkeypatch, capsys, "list", kind, "--json"))
    assert {e["name"] for e in found} >= names
    found = [e for e in found if e["name"] not in ("two-steps", "halves", "breaks-out")]  # other tests' own parts
    assert all(e.keys() == {"name", "summary", "source"} and e["summary"] and e["source"] for e in found)
    invoke(monkeypatch, capsys, "list", kind)


def test_every_command_has_help_with_an_example(monkeypatch, capsys):
    for command in ("demo", "audit", "compare", "check", "plan", "run", "status", "report", "export", "list"):
        assert f"robassay {command}" in invoke(monkeypatch, capsys, command, "--help")


GOOD_PART = """
import robassay as ra

@ra.part
class TwoSteps(ra.Attack):
    '''Sign steps that share the radius.'''

    access = ra.GradientAccess
    steps: int = 2

    def __call__(self, access, x, goal, threat, rng):
        x_adv = x
        for i in range(self.steps):
            found = access.direction(x_adv, goal.cross_entropy, rng.child(i))
            x_adv = threat.project(x_adv + threat.eps / self.steps * found.gradient.sign(), x)
        return x_adv
"""


def test_check_examines_a_users_parts(tmp_path, monkeypatch, capsys):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(GOOD_PART)
    bad.write_text(GOOD_PART.replace("TwoSteps", "TooFar").replace("return x_adv", "return x_adv + threat.eps"))
    printed = invoke(monkeypatch, capsys, "check", str(good))
    assert "ok   two-steps" in printed and "FAIL" not in printed
    monkeypatch.setattr(sys, "argv", ["robassay", "check", str(bad)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1 and "FAIL too-far" in capsys.readouterr().out


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    """The README's blocks of Python work; the one on spiking networks is tested with the adapters (about 3 s)."""
    import re

    import torch
    from torch import nn

    text = (HERE.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    names = {
        "my_module": nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "x": torch.rand(200, 1, 8, 8),
        "y": torch.arange(200) % 10,
    }
    exec(blocks[0], names)
    mine = tmp_path / "mine.py"
    mine.write_text(blocks[2])
    from robassay.exams import examine

    assert all(one["ok"] for one in examine(str(mine)))
