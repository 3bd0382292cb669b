"""The proof of an audit: a file of plain torch that stands without robassay, and says the same number."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file
from torch import nn

import robassay
from robassay import cli
from robassay.access import White
from robassay.auditing import describe_audit
from robassay.battery import Known
from robassay.cells import Examples
from robassay.classifier import Wrapped
from robassay.data import find, pixels
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.given import given
from robassay.intervals import rate
from robassay.proof import check_provable, write_proof
from robassay.registry import load_name
from robassay.rng import Stream
from robassay.study import Audit
from robassay.threat import Goal, Threat

ROOT = Path(__file__).parents[1]
DIGITS = find("digits")
BLOCKED = ("robassay", "safetensors", "numpy", "sklearn", "pyarrow", "scipy")
USER = """
import torch
from torch import nn
import helper

class Net(nn.Module):
    def __init__(self, scale=1.0, noise=0.0, blocked=False, wide=False):
        super().__init__()
        self.body = helper.body()
        self.scale, self.noise, self.blocked = scale, noise, blocked

    def forward(self, x):
        if self.noise:
            x = x + self.noise * torch.randn_like(x)
        if self.blocked:
            x = x.detach()
        return self.scale * self.body(x)

def plain(): return Net()
def masked(): return Net(scale=100.0)
def noisy(): return Net(noise=0.25)
def blocked(): return Net(blocked=True)
def double(): return Net().double()
"""
HELPER = """
from torch import nn
def body():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """A user's folder: a file, a module beside it, weights in three forms."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "mine.py").write_text(USER)
    (folder / "helper.py").write_text(HELPER)
    images = DIGITS.split("train")
    x, y = pixels(images.x), images.y
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.Adam(body.parameters(), 1e-2)
        for _ in range(200):
            rows = torch.randint(len(y), (128,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(body(x[rows] + 0.2 * torch.randn(128, 1, 8, 8)), y[rows]).backward()
            optimizer.step()
    state = {f"body.{name}": value.detach() for name, value in body.state_dict().items()}
    save_file(state, folder / "w.safetensors")
    save_file({name: value.double() for name, value in state.items()}, folder / "double.safetensors")
    torch.save(state, folder / "w.pt")
    torch.save({"state_dict": state}, folder / "nested.pt")
    return folder


def planned(
    user: Path, build: str = "plain", weights: str | None = "w.safetensors", stop: int = 45, **more: object
) -> Audit:
    """An audit of 40 digits, the sixth to the one before ``stop``, that is only described."""
    on = Examples(DIGITS, "test", 5, stop)
    model = given(str(user / "mine.py"), build, None if weights is None else str(user / weights), on)
    threat = more.pop("threat", Threat("linf", 0.1))
    return describe_audit(model, on, threat, **more)  # type: ignore[arg-type]


def made_up(item: Audit, winner: str, left: float = 0.1, stochastic: bool = False) -> dict:
    """A result in which one attack leaves ``left`` and all others more."""
    names = ["claimed", "adequate", *item.battery]
    values = {name: left + 0.01 * i for i, name in enumerate([winner, *(n for n in names if n != winner)])}
    attacks = [{"name": n, "robust": {"value": v, "low": v, "high": v, "n": 40}} for n, v in values.items()]
    shown = attacks[0]["robust"]
    return {"attacks": attacks, "winner": winner, "stochastic": stochastic, "draws": 10, "checks": [], "robust": shown}


def alone(file: Path, *words: str, told: list[str] | None = None) -> str:
    """What a proof prints in a process of its own, where nothing but torch can be imported."""
    block = f"import sys, runpy; sys.modules.update(dict.fromkeys({BLOCKED}))"
    code = f"{block}; runpy.run_path({str(file)!r}, {{}}, '__main__')"
    line = [sys.executable, "-W", "ignore", "-c", code, *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd="/", env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    if told is not None:
        told.append(done.stderr)
    return done.stdout


def run_here(file: Path) -> dict:
    """The names of a proof after it has run in this process; the user's modules are forgotten again."""
    path = list(sys.path)
    try:
        with torch.random.fork_rng():
            return runpy.run_path(str(file))
    finally:
        sys.path[:] = path
        for name in ("mine", "helper", "elsewhere"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("build", ["plain", "masked", "noisy"])
def test_the_file_stands_alone_and_says_what_the_audit_says(user, tmp_path, build):
    """An audit, and its proof in a process where only torch can be imported (about 5 s each)."""
    proof = tmp_path / "deep" / "proof.py"
    weights = str(user / "w.safetensors")
    eps = 0.12 if build == "noisy" else 0.06
    result = robassay.audit(
        f"{user / 'mine.py'}:{build}",
        weights=weights,
        linf=eps,
        examples=60,
        draws=30,
        claimed="pgd:draws=5",
        proof=proof,
        quiet=True,
    )
    carried = [a["robust"] for a in result["attacks"] if a["name"].startswith(("claimed", "PGD"))]
    told = min(carried, key=lambda rate: rate["value"])
    assert 0.1 < told["value"] < 0.9, "a number that could be missed"
    progress: list[str] = []
    shown = alone(proof, told=progress)
    assert re.fullmatch(r"([\r\n]\d+ of 60, \d+ s left )+\n", progress[0])
    assert progress[0].endswith("60 of 60, 0 s left \n")
    value, low, high = (float(v) / 100 for v in re.findall(r"[\d.]+", shown.splitlines()[0])[:3])
    assert low <= told["value"] <= high and told["low"] <= value <= told["high"]
    assert f"n = 60, {30 if build == 'noisy' else 1} fresh draws" in shown
    assert f"the audit: {100 * told['value']:.1f} %" in shown and f"{100 * result['robust']['value']:.1f} %" in shown
    if build == "masked":
        assert result["claimed"]["value"] > high, "the proof shows what the claim hides"
    text = proof.read_text(encoding="utf-8")
    assert alone(proof, "--help").strip() == text.split('"""')[1].strip()
    assert result["winner"] in text and "Images 0 to 59 of digits (test, checksum" in text
    assert "import robassay" not in text and len(text.splitlines()) <= 77
    assert len([one for one in text.split('"""')[2].splitlines() if one.strip()]) <= 60


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "claimed",
    [
        "pgd:loss=ce,steps=7",
        "pgd:loss=scaled_ce,steps=7",
        "pgd:loss=margin,steps=7",
        "pgd:loss=dlr,steps=7",
        "pgd:loss=ce,steps=7,momentum=0.9",
        "fgsm:loss=margin",
        "bim:steps=4",
        "bim:steps=4,step=0.03",
    ],
)
def test_its_images_are_those_of_the_attack_to_the_bit(user, tmp_path, norm, claimed):
    """Without random start every step is determined; the file's images must be robassay's own."""
    threat = Threat("linf", 0.1) if norm == "linf" else Threat("l2", 0.8)
    item = planned(user, claimed=claimed + ",random_start=false" * claimed.startswith("pgd"), threat=threat)
    write_proof(item, made_up(item, "claimed"), tmp_path / "proof.py")
    found = run_here(tmp_path / "proof.py")
    craft = item.claimed[0].on
    module = item.claimed[0].target.network(torch.device("cpu"))
    images = item.claimed[0].examples.load()
    x = pixels(images.x)
    opened = White(Backprop()).open([Wrapped(module, 10, False).requires_grad_(False)], len(x))
    expected = craft.attack(opened, x, Goal(images.y), threat, Stream(("oracle",)))
    assert torch.equal(found["x"], x) and torch.equal(found["images"]["y"], images.y)
    assert torch.allclose(found["made"], expected, atol=1e-6 if norm == "linf" else 2e-5)
    assert bool(threat.holds(found["made"], x).all()) and not torch.equal(found["made"], x)
    assert found["images"]["index"].tolist() == list(range(5, 45))
    right = (module(expected).argmax(-1) == images.y).double().mean().item()
    assert found["p"] == pytest.approx(right)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_restarts_and_best_iterates_of_a_random_net_stay_in_the_ball_and_are_as_strong(user, tmp_path, norm):
    threat = Threat("linf", 0.1) if norm == "linf" else Threat("l2", 0.8)
    item = planned(user, "noisy", threat=threat)
    result = made_up(item, "PGD-40 scaled_ce", stochastic=True)
    write_proof(item, result, tmp_path / "proof.py")
    found = run_here(tmp_path / "proof.py")
    assert bool(threat.holds(found["made"], found["x"]).all())
    assert (found["RESTARTS"], found["EOT"], found["JUDGE"], len(found["kept"])) == (2, 5, 10, 4)
    right = torch.cat(found["right"], 1)
    assert right.shape == (10, 40)
    ours = rate(right.double().numpy())
    assert (found["low"] / 100, found["high"] / 100) == pytest.approx((ours.low, ours.high), abs=0.01)
    craft, y = item.battery["PGD-40 scaled_ce"][0].on, found["images"]["y"]
    net = Wrapped(item.claimed[0].target.network(torch.device("cpu")).requires_grad_(False), 10, True)
    own = craft.attack(craft.access.open([net], 40), found["x"], Goal(y), threat, Stream(("oracle",)))
    left = [torch.stack([net(z).argmax(-1) == y for _ in range(300)]).double().mean() for z in (own, found["made"])]
    assert abs(left[0] - left[1]) < 0.04, "as strong as robassay's own, on these images"


@pytest.mark.parametrize(
    ("build", "weights"), [("plain", "w.pt"), ("plain", "nested.pt"), ("plain", None), ("double", "double.safetensors")]
)
def test_weights_of_every_form_are_read(user, tmp_path, build, weights):
    item = planned(user, build, weights, claimed="fgsm")
    write_proof(item, made_up(item, "claimed"), tmp_path / "proof.py")
    found = run_here(tmp_path / "proof.py")
    module = item.claimed[0].target.network(torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(found["net"].parameters(), module.parameters(), strict=True))
    assert found["made"].dtype == torch.float32


def test_all_images_of_an_audit_are_in_it(user, tmp_path):
    """An audit goes through its images in slices of a hundred."""
    item = planned(user, stop=235)
    assert len(item.clean) == 3
    write_proof(item, made_up(item, "claimed"), tmp_path / "proof.py")
    images = load_safetensors(tmp_path / "proof-images.safetensors")
    assert images["index"].tolist() == list(range(5, 235)) and torch.equal(images["y"], DIGITS.split("test").y[5:235])
    assert "Images 5 to 234 of digits" in " ".join((tmp_path / "proof.py").read_text(encoding="utf-8").split())


def test_a_file_that_has_moved_is_named(user, tmp_path):
    (tmp_path / "elsewhere.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
    )
    item = planned(user)
    model = given(str(tmp_path / "elsewhere.py"), "build", None, item.claimed[0].examples)
    item = describe_audit(model, item.claimed[0].examples, item.threat)
    (tmp_path / "proofs").mkdir()
    proof = tmp_path / "proofs" / "proof.py"
    write_proof(item, made_up(item, "adequate"), proof)
    assert '"../elsewhere.py"' in proof.read_text()
    (tmp_path / "elsewhere.py").rename(tmp_path / "gone.py")
    with pytest.raises(SystemExit, match=r"not there: .*elsewhere\.py.*correct its path at the top of"):
        run_here(proof)


def test_a_winner_that_it_cannot_carry_is_named_with_the_reason(user, tmp_path):
    item = planned(user, known=Known(stochastic=False, spiking=True))
    result = made_up(item, "sweep: bptr")
    told = write_proof(item, result, tmp_path / "proof.py")
    assert told.startswith("the proof is claimed, which leaves 11.0 %") and "sweep: bptr, leaves 10.0 %" in told
    assert "not carried: its gradient is that of robassay's ruled" in told
    text = " ".join((tmp_path / "proof.py").read_text(encoding="utf-8").split())
    assert "the strongest single attack, sweep: bptr, leaves 10.0 %" in text
    item = planned(user, claimed="square:queries=5")
    told = write_proof(item, made_up(item, "claimed"), tmp_path / "proof.py")
    assert "it is square" in told and told.startswith("the proof is PGD-40 ce")
    item = planned(user, claimed="pgd:average=probs")
    assert "that of averaged probs" in write_proof(item, made_up(item, "claimed"), tmp_path / "proof.py")


def test_what_cannot_be_proven_is_refused_with_the_reason(user, tmp_path):
    item, proof = planned(user), tmp_path / "proof.py"
    check_provable(item, proof)
    for file in (user / "mine.py", tmp_path / "proof.txt", tmp_path / "proof"):
        with pytest.raises(UsageError, match="no place for a proof"):
            check_provable(item, file)
    blind = planned(user, "blocked", known=Known(stochastic=False, differentiable=False, opaque=True))
    with pytest.raises(UsageError, match=r"claimed: its gradient is that of robassay's differences"):
        write_proof(blind, made_up(blind, "claimed"), proof)
    (tmp_path / "random.py").write_text("from torch import nn\ndef build(): return nn.Linear(64, 10)\n")
    model = given(str(tmp_path / "random.py"), "build", None, item.claimed[0].examples)
    with pytest.raises(UsageError, match=r"no module.s name of its own"):
        check_provable(describe_audit(model, item.claimed[0].examples, item.threat), proof)
    assert not proof.exists()


def in_memory(user: Path, build: str) -> nn.Module:
    """A trained network of the user's that no file can be asked for."""
    module = load_name(user / "mine.py", build)()
    module.load_state_dict(load_safetensors(user / "w.safetensors"))
    return module


@pytest.mark.parametrize("build", ["masked", "noisy"])
def test_a_network_that_no_file_builds_lies_beside_its_proof(user, tmp_path, build):
    """An audit of a module in memory, and its proof in a process of torch alone (about 5 s each)."""
    proof, images = tmp_path / "proof.py", DIGITS.split("test")
    n = 60 if build == "noisy" else 110  # two slices
    data = (pixels(images.x[:n]), images.y[:n])
    module = in_memory(user, build)
    result = robassay.audit(
        module, data, linf=0.1, examples=n, draws=30, claimed="pgd:draws=5", proof=proof, quiet=True
    )
    assert 0.1 < result["robust"]["value"] < 0.9, "a number that could be missed"
    shown = alone(proof)
    value, low, high = (float(v) / 100 for v in re.findall(r"[\d.]+", shown.splitlines()[0])[:3])
    told = result["robust"]
    assert low <= told["value"] <= high and told["low"] <= value <= told["high"]
    assert f"n = {n}, {30 if build == 'noisy' else 1} fresh draws" in shown
    if build == "masked":
        assert value == pytest.approx(told["value"], abs=1e-3) and result["claimed"]["value"] > high
    (tmp_path / "proof-network.pt2").unlink()
    with pytest.raises(SystemExit, match=r"not there: .*proof-network\.pt2"):
        run_here(proof)


def test_a_file_that_needs_robassay_is_proven_by_its_program(user, tmp_path):
    """A user's file of one of robassay's networks; an audit of 20 images (about 3 s)."""
    text = "import robassay as ra\nfrom robassay.nets.cnn import SmallCNN\n"
    (tmp_path / "own.py").write_text(text + "def build(): return SmallCNN(4, 16).build((1, 8, 8), 10)\n")
    proof = tmp_path / "proof.py"
    robassay.audit(f"{tmp_path / 'own.py'}:build", linf=0.05, examples=20, proof=proof, quiet=True, workers=0)
    assert "own.py" not in proof.read_text() and alone(proof).startswith("this file: ")


def test_where_no_attack_can_be_carried_its_images_are(user, tmp_path):
    """An audit without a gradient, its proof in a process with torch alone, and one with a forged image (about 8 s)."""
    proof = tmp_path / "proof.py"
    result = robassay.audit(
        f"{user / 'mine.py'}:blocked",
        weights=str(user / "w.safetensors"),
        linf=0.12,
        examples=40,
        proof=proof,
        quiet=True,
    )
    assert 0.05 < result["robust"]["value"] < 0.9, "a number that could be missed"
    shown = alone(proof)
    exactly = f"{100 * result['robust']['value']:.1f} %"
    assert shown.startswith(f"this file: {exactly}") and f"{exactly} " in shown.splitlines()[1]
    text = proof.read_text(encoding="utf-8")
    assert "grad(" not in text and "the images that the strongest attack on each has made" in " ".join(text.split())
    images = load_safetensors(tmp_path / "proof-images.safetensors")
    assert float((images["made"] - images["x"] / 255).abs().max()) <= 0.12 + 1e-6
    images["made"][3, 0, 2, 2] = (images["x"][3, 0, 2, 2] / 255 + 0.5) % 1
    save_file(images, tmp_path / "proof-images.safetensors")
    with pytest.raises(SystemExit, match="outside of the ball"):
        run_here(proof)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_clean_for_ruff(user, tmp_path, norm):
    """As a project's own file would have to be, for each loss and both balls."""
    for loss in ("ce", "scaled_ce", "margin", "dlr"):
        item = planned(user, threat=Threat(norm, 0.1), claimed=f"pgd:loss={loss},momentum=0.5,keep=best")
        write_proof(item, made_up(item, "claimed"), tmp_path / f"proof_{loss}.py")
    for words in (("check", "--no-cache"), ("format", "--check", "--no-cache")):
        line = [sys.executable, "-m", "ruff", *words, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_writes_it_and_says_which_attack_it_is(user, tmp_path, monkeypatch, capsys):
    """A whole audit of 20 images in this process (about 2 s); two networks have no common proof."""
    proof, weights = tmp_path / "proof.py", str(user / "w.safetensors")
    words = ["audit", f"{user / 'mine.py'}:plain", "--linf", "0.1", "--examples", "20", "--workers", "0", "--quiet"]
    words += ["--store", str(tmp_path / "s"), "--weights", weights, "--proof", str(proof)]
    monkeypatch.setattr(sys, "argv", ["robassay", *words, "--weights", str(user / "w.pt")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "Give one --weights" in capsys.readouterr().err and not proof.exists()
    monkeypatch.setattr(sys, "argv", ["robassay", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and f"{proof}: the proof is " in shown and "claimed: pgd:steps=10,step=0.01," in shown
    assert proof.is_file() and (tmp_path / "proof-images.safetensors").is_file()
