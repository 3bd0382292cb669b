"""From a user's file to a verdict: plain, masked, random and gradient-free modules, by command and in Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import robassay
from robassay import zoo
from robassay.auditing import describe_audit
from robassay.battery import Known
from robassay.cells import Examples
from robassay.data import find, pixels
from robassay.threat import Threat

USER = """
import torch
from torch import nn
import helper

class Net(nn.Module):
    def __init__(self, scale=1.0, noise=0.0, blocked=False):
        super().__init__()
        self.body = helper.body()
        self.scale, self.noise, self.blocked = scale, noise, blocked

    def forward(self, x):
        if self.noise:
            x = x + self.noise * (torch.rand_like(x) - 0.5)
        if self.blocked:
            x = x.detach()
        return self.scale * self.body(x)

def plain(): return Net()
def masked(): return Net(scale=100.0)
def random(): return Net(noise=0.5)
def blocked(): return Net(blocked=True)
"""
HELPER = """
from torch import nn
def body():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
"""
KEYS = {
    "schema", "verdict", "cause", "stochastic", "clean", "claimed", "adequate", "robust", "gap", "winner", "checks",
}  # fmt: skip


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """A user's folder: a file, a module beside it, trained weights."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "mine.py").write_text(USER)
    (folder / "helper.py").write_text(HELPER)
    data = find("digits")
    images = data.split("train")
    x, y = pixels(images.x), images.y
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(body.parameters(), 5e-3)
        for _ in range(300):
            rows = torch.randint(len(y), (128,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(body(x[rows]), y[rows]).backward()
            optimizer.step()
    state = {f"body.{name}": value for name, value in body.state_dict().items()}
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pt")
    return folder


def command(user: Path, elsewhere: Path, build: str, *words: str) -> tuple[int, dict, str]:
    """Run `robassay audit` from another directory: exit code, the JSON it wrote, what it printed."""
    out = elsewhere / "out.json"
    line = [sys.executable, "-m", "robassay.cli", "audit", f"{user / 'mine.py'}:{build}", "--linf", "0.2"]
    line += ["--examples", "60", "--workers", "0", "--json", str(out), *words]
    done = subprocess.run(line, cwd=elsewhere, capture_output=True, text=True, check=False, env={**os.environ})
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(out.read_text()) if out.is_file() else {}, done.stdout + done.stderr


def test_a_plain_module_from_another_directory(user, tmp_path):
    """A whole audit in a process of its own (about 5 s)."""
    page = tmp_path / "page.html"
    words = ("--weights", str(user / "w.safetensors"), "--report", str(page), "--card", str(tmp_path / "card.svg"))
    code, result, printed = command(user, tmp_path, "plain", *words)
    assert code == 0 and result.keys() >= KEYS and result["schema"] == 1
    for name in ("clean", "claimed", "adequate", "robust", "gap"):
        assert result[name].keys() >= {"value", "low", "high", "n"} and result[name]["n"] == 60
    assert result["stochastic"] is False and result["clean"]["value"] > 0.85
    assert result["robust"]["value"] < 0.3
    assert {one["id"] for one in result["evidence"]} == {"eps", "steps", "landscape"} and len(result["checklist"]) == 11
    assert "verdict" in printed and "\x1b[" not in printed
    assert "claimed" in (tmp_path / "card.svg").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>".upper()) or "<html" in page.read_text()


def test_logits_times_100_are_found_out_and_fail_a_pipeline(user, tmp_path):
    """A whole audit in a process of its own (about 5 s)."""
    words = ("--weights", str(user / "w.pt"), "--fail-on", "artefact,overstated")
    code, result, _ = command(user, tmp_path, "masked", *words)
    assert code == 3
    assert result["verdict"] == "artefact" and result["cause"] in ("masking", "both")
    assert result["claimed"]["value"] > result["robust"]["value"] + 0.3
    assert next(c for c in result["checks"] if c["name"] == "saturated")["flag"]


def test_randomness_inside_forward_is_found_without_being_told(user, tmp_path):
    """A whole audit of a random module, pass by pass, in a process of its own (about 8 s)."""
    words = ("--weights", str(user / "w.safetensors"), "--draws", "20")
    code, result, _ = command(user, tmp_path, "random", *words)
    assert code == 0 and result["stochastic"] is True and result["draws"] == 20


def test_a_module_without_gradient_is_audited_with_differences_and_said_so(user, tmp_path):
    """A whole audit by finite differences in a process of its own (about 10 s)."""
    code, result, _ = command(user, tmp_path, "blocked", "--weights", str(user / "w.safetensors"))
    assert code == 0
    assert next(c for c in result["checks"] if c["name"] == "differentiable")["flag"]
    assert result["robust"]["value"] < result["clean"]["value"] - 0.3


def test_python_gives_the_same_object_as_the_command(user, tmp_path):
    """One audit in this process and the same by command: equal rates to the bit."""
    words = ("--weights", str(user / "w.safetensors"))
    _, by_command, _ = command(user, tmp_path, "plain", *words)
    result = robassay.audit(
        f"{user / 'mine.py'}:plain", weights=str(user / "w.safetensors"), linf=0.2, examples=60, quiet=True
    )
    same = KEYS - {"command"}
    assert {k: result[k] for k in same} == {k: by_command[k] for k in same}
    assert "<" in result._repr_html_() and result["verdict"] in str(result)


def test_a_module_and_images_in_memory(user):
    from robassay.given import load_weights
    from robassay.registry import load_name

    module = load_weights(load_name(user / "mine.py", "plain")(), user / "w.safetensors")
    images = find("digits").split("test")
    x, y = pixels(images.x[:40]), images.y[:40]
    before = x.clone()
    result = robassay.audit(module, (x, y), linf=0.2, examples=40, quiet=True)
    assert result["clean"]["n"] == 40 and result["robust"]["value"] < 0.4
    assert torch.equal(x, before) and all(p.grad is None for p in module.parameters())


def test_modules_that_differ_only_in_an_attribute_are_different(user, tmp_path):
    """A plain number is neither in the state dict nor in the printed form; one store must keep the two apart."""
    from robassay.given import load_weights
    from robassay.registry import load_name

    images = find("digits").split("test")
    data = (pixels(images.x[:40]), images.y[:40])
    results = {}
    for build in ("plain", "masked", "random"):
        module = load_weights(load_name(user / "mine.py", build)(), user / "w.safetensors")
        results[build] = robassay.audit(module, data, linf=0.2, examples=40, draws=4, store=tmp_path / "s", quiet=True)
    assert results["masked"]["claimed"]["value"] > results["plain"]["claimed"]["value"] + 0.3
    assert [results[b]["stochastic"] for b in results] == [False, False, True]


def test_several_training_seeds_at_once(user, tmp_path):
    """Two audits in a process of its own (about 6 s)."""
    words = ("--weights", str(user / "w.safetensors"), "--weights", str(user / "w.pt"))
    code, result, _ = command(user, tmp_path, "plain", *words)
    assert code == 0 and len(result["audits"]) == 2
    assert [a["title"] for a in result["audits"]] == ["mine.py:plain w.safetensors", "mine.py:plain w.pt"]


@pytest.mark.parametrize("budget", ["quick", "standard"])
@pytest.mark.parametrize("stochastic", [False, True])
def test_all_slices_of_an_attack_are_judged_by_as_many_draws(budget, stochastic):
    """Also those that an attack on the first hundred images leaves as they are."""
    on = Examples(find("digits"), "test", 0, 250)
    known = Known(stochastic=stochastic, differentiable=True)
    item = describe_audit(zoo.model("binary-stochastic"), on, Threat("linf", 0.1), budget, known=known)
    assert {name: len({s.repeats for s in scores}) for name, scores in item.battery.items()} == dict.fromkeys(
        item.battery, 1
    )
    if budget == "standard":
        (walk,) = (scores for name, scores in item.battery.items() if "first 100" in name)
        assert [isinstance(s.on, Examples) for s in walk] == [False, True, True]
