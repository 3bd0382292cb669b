"""From a network trained with its own library, saved as weights, to a verdict: one per framework, and raw networks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import peers
import pytest
import torch
from torch import nn

import robassay
from robassay.adapters import Adapted
from robassay.auditing import describe_network
from robassay.cells import Examples
from robassay.data import find
from robassay.errors import UsageError
from robassay.given import given, held, load_weights
from robassay.registry import load_name

EXAMPLES = Path(__file__).parents[1] / "examples"
ON = Examples(find("digits"), "test", 0, 30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains an example's network once: (file, weights)."""
    folder = tmp_path_factory.mktemp("spiking")

    def train(framework: str) -> tuple[str, str]:
        pytest.importorskip(framework)
        file, weights = EXAMPLES / f"{framework}_digits.py", folder / f"{framework}.safetensors"
        with torch.random.fork_rng():
            load_name(file, "train")(str(weights), batches=80)
        return str(file), str(weights)

    return train


@pytest.mark.parametrize("framework", ["spikingjelly", "norse"])
def test_a_network_trained_with_its_own_library_is_audited(framework, trained):
    """Training and a whole audit (about 4 s)."""
    file, weights = trained(framework)
    result = robassay.audit(f"{file}:build", weights=weights, linf=0.1, examples=20, draws=4, workers=0, quiet=True)
    assert result["clean"]["value"] > 0.8
    assert result["robust"]["value"] < result["clean"]["value"] - 0.2
    assert result["stochastic"] == (framework == "norse")
    assert framework in result["network"] and "8 steps" in result["network"]


def test_by_command_too(trained, tmp_path):
    """Training, and a whole audit in a process of its own (about 6 s)."""
    file, weights = trained("snntorch")
    out = tmp_path / "out.json"
    line = [sys.executable, "-m", "robassay.cli", "audit", f"{file}:build", "--weights", weights, "--linf", "0.1"]
    line += ["--data", "digits", "--examples", "20", "--workers", "0", "--json", str(out)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    result = json.loads(out.read_text())
    assert result["clean"]["value"] > 0.8 and result["robust"]["value"] < result["clean"]["value"] - 0.2
    assert "snntorch" in result["network"]


USER = """
import torch
from torch import nn
import snntorch

class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.fc.weight.data *= 5
        self.lif = snntorch.Leaky(beta=0.9)

    def forward(self, x):
        total = 0
        for _ in range(4):
            spikes, mem = self.lif(self.fc(x.flatten(1)))
            total = total + mem
        return total

def whole(): return Whole()
def step(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), snntorch.Leaky(beta=0.9, init_hidden=True))
"""


def test_a_raw_network_is_adapted_where_it_says_itself_how_time_runs(tmp_path):
    """The user's network never resets its neurons: adapted, it is a function of the image all the same."""
    pytest.importorskip("snntorch")
    file = tmp_path / "mine.py"
    file.write_text(USER)
    model = given(str(file), "whole", None, ON)
    opened = model.network(torch.device("cpu"))
    assert isinstance(opened, Adapted) and opened.steps is None and not opened.stochastic
    assert "snntorch" in describe_network(model)
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(opened(x), opened(x))
    with pytest.raises(UsageError, match=r"robassay\.adapt\(net, framework='snntorch', steps=8.*Say how many"):
        given(str(file), "step", None, ON)


def test_a_raw_network_in_memory_is_adapted_too():
    pytest.importorskip("spikingjelly")
    with pytest.raises(UsageError, match="framework='spikingjelly'"):
        held(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), peers.layer("spikingjelly")), ON)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert held(plain, ON).module is plain


def test_weights_fit_with_and_without_the_adapters_prefix(tmp_path):
    pytest.importorskip("snntorch")
    from safetensors.torch import save_file

    model = robassay.adapt(peers.net("snntorch"), "snntorch", 4, shape=peers.SHAPE)
    changed = {name: value + 1 if "weight" in name else value for name, value in model.module.state_dict().items()}
    save_file(changed, tmp_path / "own.safetensors")
    save_file({f"module.{n}": v.clone() for n, v in changed.items()}, tmp_path / "whole.safetensors")
    for file in ("own", "whole"):
        fresh = robassay.adapt(peers.net("snntorch"), "snntorch", 4, shape=peers.SHAPE)
        load_weights(fresh, tmp_path / f"{file}.safetensors")
        assert torch.equal(fresh.module[1].weight, changed["1.weight"])


def test_equal_weights_with_other_steps_or_encoders_are_other_models():
    pytest.importorskip("snntorch")
    nets = [
        robassay.adapt(peers.net("snntorch"), "snntorch", steps, encoder, shape=peers.SHAPE)
        for steps, encoder in ((4, "direct"), (5, "direct"), (4, "poisson"), (4, "direct"))
    ]
    keys = [held(net, ON).key for net in nets]
    assert len(set(keys)) == 3 and keys[0] == keys[3]


def test_the_readmes_example_runs():
    pytest.importorskip("snntorch")
    text = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    (block,) = [b.split("```")[0] for b in text.split("```python\n")[1:] if "ra.adapt" in b.split("```")[0]]
    names = {"net": lambda: peers.net("snntorch")}
    exec(block, names)
    model = names["build"]()
    assert isinstance(model, Adapted) and model.steps == 25 and model.stochastic
