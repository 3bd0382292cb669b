"""Bad input: each case has a message that says what is wrong and what to write, and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import robassay
from robassay import cli
from robassay.errors import RobassayError, UsageError

GOOD = """
import torch
from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def colour():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
def number():
    return 3
def needs(width):
    return None
class NaN(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] * float("nan")
def nan():
    return NaN()
class Two(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10], x
def two():
    return Two()
def breaks():
    return nn.Linear(3, 4).wrong
def typed():
    return nn.Linear("a", 3)
def absent():
    return torch.load("none.pt")
ready = nn.Linear(64, 10)
five = 5
"""


def invoke(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["robassay", *words])
    code: object = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return int(code or 0), captured.out, captured.err


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(GOOD)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    save_file(linear.state_dict(), tmp_path / "seven.safetensors")
    torch.save(linear, tmp_path / "whole.pt")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "seven.safetensors").read_bytes()[:40])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROBASSAY_DATA", raising=False)
    return tmp_path


AUDIT = ("audit", "mine.py:build")
CASES = {
    "missing file": (("audit", "none.py:build", "--linf", "0.1"), 2, "No file 'none.py'"),
    "no function named": (("audit", "mine.py", "--linf", "0.1"), 2, "Write FILE.py:build"),
    "no such function": (
        ("audit", "mine.py:make", "--linf", "0.1"),
        2,
        "has no 'make'. It has: NaN, Two, absent, breaks, build",
    ),
    "build wants arguments": (("audit", "mine.py:needs", "--linf", "0.1"), 2, "could not be called as needs()"),
    "build wants arguments: what to write": (("audit", "mine.py:needs", "--linf", "0.1"), 2, "default values"),
    "build raises": (("audit", "mine.py:breaks", "--linf", "0.1"), 2, "fails in line 25: AttributeError"),
    "build raises a TypeError": (("audit", "mine.py:typed", "--linf", "0.1"), 2, "fails in line 27: TypeError"),
    "build misses a file": (("audit", "mine.py:absent", "--linf", "0.1"), 2, "fails in line 29: FileNotFoundError"),
    "a module in build's place": (("audit", "mine.py:ready", "--linf", "0.1"), 2, "def build(): return ready"),
    "a number in build's place": (("audit", "mine.py:five", "--linf", "0.1"), 2, "mine.py:five is a int"),
    "build returns no module": (("audit", "mine.py:number", "--linf", "0.1"), 2, "returned a int"),
    "weights missing": ((*AUDIT, "--linf", "0.1", "--weights", "no.safetensors"), 2, "No weights file"),
    "weights of other shapes": (
        (*AUDIT, "--linf", "0.1", "--weights", "seven.safetensors"),
        2,
        "1.weight is (7, 64) in the file and (10, 64) in the network",
    ),
    "weights cut": ((*AUDIT, "--linf", "0.1", "--weights", "cut.safetensors"), 2, "not a readable safetensors"),
    "a pickle": ((*AUDIT, "--linf", "0.1", "--weights", "whole.pt"), 2, "safetensors.torch.save_file("),
    "wrong channels": (
        ("audit", "mine.py:colour", "--linf", "0.1"),
        2,
        "Its first convolution takes 3 channels, the images have 1",
    ),
    "too few outputs": (("audit", "mine.py:few", "--linf", "0.1"), 2, "the model has 5 logits (labels 0 to 4)"),
    "NaN logits": (("audit", "mine.py:nan", "--linf", "0.1"), 2, "NaN logits for 8 of 8 images"),
    "two outputs": (("audit", "mine.py:two", "--linf", "0.1"), 2, "returned a tuple of 2"),
    "eps zero": ((*AUDIT, "--linf", "0"), 2, "must be positive"),
    "eps negative": ((*AUDIT, "--l2", "-1"), 2, "must be positive"),
    "eps in grey levels": ((*AUDIT, "--linf", "8"), 2, "Did you mean 8/255?"),
    "eps no number": ((*AUDIT, "--linf", "big"), 2, "--linf big is no number"),
    "no threat": (AUDIT, 2, "needs one threat"),
    "two threats": ((*AUDIT, "--linf", "0.1", "--l2", "1"), 2, "needs one threat"),
    "unknown budget": ((*AUDIT, "--linf", "0.1", "--budget", "fast"), 2, "Write quick, standard or thorough"),
    "unknown verdict": ((*AUDIT, "--linf", "0.1", "--fail-on", "bad"), 2, "no such verdict"),
    "unknown data": ((*AUDIT, "--linf", "0.1", "--data", "minst"), 2, "Did you mean 'mnist'?"),
    "data not at hand": ((*AUDIT, "--linf", "0.1", "--data", "cifar10"), 2, "--data-dir"),
    "too many images": ((*AUDIT, "--linf", "0.1", "--examples", "1000"), 2, "the split has 360"),
    "unknown study": (("run", "dmeo"), 2, "Did you mean 'demo'?"),
    "unknown kind": (("list", "attack"), 2, "Did you mean 'attacks'?"),
    "no store": (("report", "nowhere"), 2, "not a robassay store"),
    "unknown option": (("audit", "--fast"), 2, "No such option"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, mine, monkeypatch, capsys):
    words, code, message = CASES[case]
    start = time.monotonic()
    found, _, errors = invoke(monkeypatch, capsys, *words, *(("--workers", "0") if words[0] == "audit" else ()))
    assert message in errors.replace("\n", " ").replace("  ", " ")
    assert found == code
    if case == "data not at hand":
        assert time.monotonic() - start < 5


def test_a_folder_that_is_not_ours_is_left_alone(mine, monkeypatch, capsys):
    code, _, errors = invoke(monkeypatch, capsys, *AUDIT, "--linf", "0.1", "--store", ".", "--workers", "0")
    assert code == 2 and "holds something else" in errors


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.rand(30, 1, 8, 8) * 255, torch.zeros(30, dtype=torch.int64), "divide by 255"),
        (torch.rand(30, 1, 8, 8) - 0.5, torch.zeros(30, dtype=torch.int64), r"\[0, ?1\]"),
        (torch.full((30, 1, 8, 8), np.nan), torch.zeros(30, dtype=torch.int64), "NaN"),
        (torch.rand(30, 64), torch.zeros(30, dtype=torch.int64), "N, C, H, W"),
        (torch.rand(30, 1, 8, 8), torch.full((30,), -3), "-3"),
        (torch.rand(30, 1, 8, 8), torch.zeros(29, dtype=torch.int64), "30 images and 29 labels"),
        (torch.rand(30, 1, 8, 8), torch.zeros(30, dtype=torch.int32), r"y.long\(\)"),
        (np.zeros((30, 1, 8, 8), np.float32), np.zeros(30, np.int64), "torch.from_numpy"),
    ],
)
def test_bad_images_in_memory(x, y, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(UsageError, match=message):
        robassay.audit(model, (x, y), linf=0.1, examples=30, quiet=True)


LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
PAIRS = torch.utils.data.TensorDataset(torch.rand(30, 1, 8, 8), torch.zeros(30, dtype=torch.int64))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": lambda: LINEAR}, "model is a function; .* Call it"),
        ({"model": nn.Linear}, r"robassay.audit\(Linear\(\), …\)"),
        ({"model": 3}, "model is a int"),
        ({"data": torch.utils.data.DataLoader(PAIRS)}, r"data is a DataLoader; .* map\(torch.cat, zip\(\*loader\)\)"),
        ({"data": PAIRS}, "data is a TensorDataset"),
        ({"data": list(PAIRS.tensors)}, r"data is a list of 2. Write \(x, y\)"),
        ({"data": (PAIRS.tensors[0],)}, r"data is a tuple of 1"),
        ({"linf": "8/255"}, "radius '8/255' is a str. Write a number"),
        ({"linf": None, "l2": torch.ones(1)}, "is a Tensor"),
    ],
)
def test_arguments_of_another_kind(given, message):
    whole = {"model": LINEAR, "data": PAIRS.tensors, "linf": 0.1, "examples": 30, "quiet": True, **given}
    with pytest.raises(UsageError, match=message):
        robassay.audit(whole.pop("model"), whole.pop("data"), **whole)


def test_the_recipe_for_a_loader_gives_what_is_asked_for():
    x, y = map(torch.cat, zip(*torch.utils.data.DataLoader(PAIRS, 7), strict=True))
    assert x.shape == (30, 1, 8, 8) and torch.equal(y, PAIRS.tensors[1])


def test_labels_beyond_the_logits_in_memory():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(RobassayError, match="label 12, the model has 10 logits"):
        robassay.audit(model, (torch.rand(30, 1, 8, 8), torch.full((30,), 12)), linf=0.1, examples=30, quiet=True)


def test_a_hub_set_without_a_network_says_what_to_do_within_five_seconds(mine):
    """A subprocess, since the hub's library reads its settings when it is imported (about 2 s)."""
    words = ["audit", "mine.py:build", "--data", "hub:mnist", "--linf", "0.1"]
    closed = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "robassay.cli", *words], env=closed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "robassay[hub]" in done.stderr or "--data-dir" in done.stderr
    assert time.monotonic() - start < 12  # importing torch alone can take several seconds on a busy machine
