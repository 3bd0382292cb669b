"""The zoo: its weights are there, its pairs decide alike where they must, and its truth is true."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import robassay
from robassay import cli, zoo
from robassay.cells import Examples
from robassay.classifier import Classifier
from robassay.data import find, pixels
from robassay.errors import RobassayError, UsageError
from robassay.nets.ops import spike
from robassay.rng import Stream
from robassay.rules import Rectangle, StraightThrough, Triangle, acting
from robassay.run.worker import LocalContext
from robassay.store import Store
from robassay.zoo import registry
from robassay.zoo.layers import Jpeg, Levels, NoisyBackward, Ruling, Tempered, Thermometer, Times, Winners

NETS = [(name, seed) for name in zoo.ENTRIES for seed in range(zoo.SEEDS)]
DELTA = 0.05


@pytest.fixture(scope="module")
def images():
    found = Examples(find("digits"), "test", 0, 200).load()
    return pixels(found.x), found.y


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Networks of the zoo by name and seed, each opened once."""
    store, kept = Store(tmp_path_factory.mktemp("zoo") / "s"), {}

    def of(name: str, seed: int, bare: bool = False) -> Classifier:
        cell = zoo.model(name, seed, bare)
        if cell not in kept:
            kept[cell] = LocalContext(cell, store, torch.device("cpu")).open(cell)
        return kept[cell]

    return of


class Linear(Classifier):
    """Logits are the image's pixels."""

    classes = 4

    def draw(self, h):
        return h.flatten(1)


def test_weights_are_small_and_none_is_left_over():
    files = {path.name for path in registry.WEIGHTS.glob("*.safetensors")}
    assert files == set(zoo.index()["weights"])
    assert sum((registry.WEIGHTS / file).stat().st_size for file in files) < 1.5e6


@torch.no_grad()
def test_every_network_opens_with_the_accuracy_that_is_stated(opened, images):
    x, y = images
    for name, seed in NETS:
        model, stated = opened(name, seed), zoo.index()["truth"][name][seed]["clean"]
        logits = model.sample(model.prefix(x), 10, Stream(("zoo", name, seed)))
        accuracy = float((logits.argmax(-1) == y).float().mean())
        assert stated["low"] <= accuracy <= stated["high"] and stated["n"] == len(y), (name, seed)
        assert accuracy > 0.8, (name, seed)


@torch.no_grad()
def test_pairs_decide_alike_on_every_image(opened, images):
    """Also between the classes: on images as they are, on noise, and halfway between digits."""
    x = images[0]
    many = torch.cat([x, torch.rand(200, 1, 8, 8, generator=Stream(("noise",)).generator()), (x + x.flip(0)) / 2])
    alike = [(e.name, e.same, seed) for e in zoo.ENTRIES.values() if e.same for seed in range(zoo.SEEDS)]
    assert len(alike) >= 18
    for name, same, seed in alike:
        one, other = (opened(n, seed)(many).argmax(1) for n in (name, same))
        assert torch.equal(one, other), (name, seed)


def test_masked_networks_hide_more_than_steps_explain_and_honest_ones_do_not():
    """By measurement, for every seed: what is said to be masked hides more than δ for certain."""
    for name, seed in NETS:
        told = zoo.index()["truth"][name][seed]
        assert (told["hidden"]["low"] > DELTA) == zoo.ENTRIES[name].masked, (name, seed)
        assert len(told["left"]) == told["best"]["n"] == 200
        assert np.mean(told["left"]) / 100 == pytest.approx(told["best"]["value"], abs=0.005)


def test_there_are_pairs_of_both_truths():
    for entry in zoo.ENTRIES.values():
        assert zoo.ENTRIES[entry.pair].masked != entry.masked, entry.name
    for family in {e.family for e in zoo.ENTRIES.values() if e.same}:
        assert all(zoo.ENTRIES[e.same].trained == e.trained for e in zoo.ENTRIES.values() if e.same), family


def test_quantised_hardened_is_as_robust_as_what_it_is_made_of(images):
    """Rounding to the levels that digits have leaves every image of the ball in the ball: robust by construction."""
    x, front = images[0], Levels(16)
    generator = Stream(("ball",)).generator()
    eps = zoo.ENTRIES["quantised-hardened"].eps
    assert eps == zoo.ENTRIES["hardened"].eps
    for sign in (torch.ones_like(x), -torch.ones_like(x), torch.rand(x.shape, generator=generator) * 2 - 1):
        seen = front((x + eps * sign).clamp(0, 1))
        assert float((seen - x).abs().max()) <= eps
    for seed in range(zoo.SEEDS):
        truth = {name: zoo.index()["truth"][name][seed]["best"] for name in ("hardened", "quantised-hardened")}
        assert truth["quantised-hardened"]["value"] >= truth["hardened"]["value"] - 0.02
        assert truth["quantised-hardened"]["low"] > 0.4


def test_the_gradient_of_a_front_is_0_unless_it_is_straight():
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    for front in (Levels(3), Jpeg(75), Thermometer(4)):
        (gradient,) = torch.autograd.grad(front(x).sum(), x)
        assert not gradient.any()
    (through,) = torch.autograd.grad(Levels(3, straight=True)(x).sum(), x)
    assert torch.equal(through, torch.ones_like(x))
    assert torch.equal(Levels(3, straight=True)(x), x + (Levels(3)(x) - x))


def test_thermometer_by_hand():
    x = torch.tensor([0.3, 0.4, 0.9, 0.0]).view(1, 1, 2, 2).requires_grad_()
    bits = Thermometer(4)(x).view(4, 4).T
    assert bits.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    soft = Thermometer(4, soft=True)(x)
    assert torch.equal(soft.view(4, 4).T, bits)
    (slope,) = torch.autograd.grad(soft.sum(), x)
    assert slope.flatten()[:3].tolist() == [4, 4, 4]  # every pixel lies on the slope of one bit


def test_jpeg_is_what_a_file_would_lose():
    """Against Pillow, which may round otherwise only what lies halfway. No pixel here is clipped to black or white."""
    x = 0.3 + 0.4 * torch.rand(50, 1, 8, 8, generator=Stream(("jpeg",)).generator())
    x = (255 * x).round() / 255
    for quality in (30, 75):
        front = Jpeg(quality)
        ours = (255 * front(x)).round().to(torch.int64)
        files = []
        for one in x:
            kept = io.BytesIO()
            Image.fromarray((255 * one[0]).round().to(torch.uint8).numpy()).save(kept, "jpeg", quality=quality)
            files.append(torch.from_numpy(np.array(Image.open(kept)).astype(np.int64))[None])
        theirs = torch.stack(files)

        def cosines(image, front=front):
            return front.cosines @ (image.float() - 128) @ front.cosines.T / front.table

        exact, differ = cosines(255 * x), cosines(ours).round() != cosines(theirs).round()
        assert float(differ.float().mean()) < 0.01
        assert ((exact[differ] - exact[differ].floor() - 0.5).abs() < 0.02).all()
        alike = ~differ.flatten(1).any(1)
        assert int(alike.sum()) > 30 and int((ours - theirs)[alike].abs().max()) <= 1
        assert float((ours - 255 * x).abs().mean()) > 1


def test_winners_take_all_by_hand():
    x = torch.tensor([[3.0, -1.0, 2.0, 0.0], [-4.0, -1.0, -2.0, -3.0]])
    assert Winners(0.5)(x).tolist() == [[3, 0, 2, 0], [0, -1, -2, 0]]


def test_only_the_gradient_of_a_noisy_backward_is_disturbed():
    x = torch.rand(3, 1, 8, 8, requires_grad=True)
    front, weight = NoisyBackward(10.0), torch.rand(3, 1, 8, 8)
    assert torch.equal(front(x), x)
    with Stream(("backward",)).active():
        found = torch.stack([torch.autograd.grad((front(x) * weight).sum(), x)[0] for _ in range(400)])
    noise = (found - weight).flatten(2).norm(dim=2) / weight.flatten(1).norm(dim=1)
    assert float(noise.square().mean().sqrt()) == pytest.approx(10.0, rel=0.02)
    assert float((found.mean(0) - weight).abs().max()) < 10 * float(weight.flatten(1).norm(dim=1).max()) / 8 / 20 * 5


def test_what_stands_around_a_network():
    x = torch.tensor([[1.0, 2.0, 0.0, -1.0]]).view(1, 1, 2, 2)
    assert Times(Linear(), 30.0)(x).tolist() == [[30, 60, 0, -30]]
    assert torch.allclose(Tempered(Linear(), 0.5)(x), torch.tensor([[2.0, 4.0, 0.0, -2.0]]).softmax(1))


def test_an_attacker_s_rule_goes_before_the_network_s_own():
    class Steps(Linear):
        def draw(self, h):
            return spike(h.flatten(1), Triangle(1.0))

    def gradient(model):
        x = torch.tensor([0.005, 0.3, 0.0, 0.8]).view(1, 1, 2, 2).requires_grad_()
        return torch.autograd.grad(model(x).sum(), x)[0].flatten().tolist()

    narrow = Ruling(Steps(), Rectangle(0.02))
    assert gradient(narrow) == pytest.approx([50, 0, 50, 0])
    assert gradient(Steps()) == pytest.approx([0.995, 0.7, 1.0, 0.2])
    with acting(StraightThrough()):
        assert gradient(narrow) == [1, 1, 1, 1]


def test_what_the_zoo_does_not_have_is_said():
    with pytest.raises(UsageError, match="plain-x100"):
        zoo.model("plain-x10")
    with pytest.raises(UsageError, match="seeds 0 to 2"):
        zoo.model("plain", 3)


def test_radius_and_claim_are_the_zoo_s_own_unless_given():
    cell, *own = zoo.asked("zoo:quantised-hardened", None, None, "", 2)
    assert cell == zoo.model("quantised-hardened", 2) and own == [0.15, "square:queries=1000"]
    assert zoo.asked("zoo:plain", None, None, "")[1:] == (0.2, "")
    assert zoo.asked("zoo:plain", 0.1, None, "fgsm")[1:] == (0.1, "fgsm")
    assert zoo.asked("zoo:plain", None, 0.5, "")[1] is None


def test_other_weights_than_the_index_names_are_refused(tmp_path, monkeypatch):
    cell = zoo.model("plain", 0)
    content = bytearray((registry.WEIGHTS / cell.file).read_bytes())
    content[-1] ^= 1
    (tmp_path / cell.file).write_bytes(content)
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path)
    with pytest.raises(RobassayError, match="not what the zoo's index says"):
        LocalContext(cell, Store(tmp_path / "s"), torch.device("cpu")).open(cell)


def test_identity_is_the_network_and_its_weights():
    keys = {zoo.model(name, seed, bare).key for name, seed in NETS for bare in (False, True)}
    assert len(keys) == 2 * len(NETS)


def run(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["robassay", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_a_network_of_the_zoo_is_audited_by_its_name(tmp_path, monkeypatch, capsys):
    out = tmp_path / "a.json"
    words = ("audit", "zoo:plain-x100", "--seed", "1", "--examples", "30", "--workers", "0", "--quiet")
    assert run(monkeypatch, *words, "--json", str(out), "--store", str(tmp_path / "s")) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["threat"] == {"norm": "linf", "eps": 0.2} and found["title"] == "zoo:plain-x100 1"
    assert found["cause"] == "masking" and "logits × 100" in found["network"]
    assert "masking" in capsys.readouterr().out


def test_a_network_of_the_zoo_is_audited_in_python():
    result = robassay.audit("zoo:plain-x100", examples=20, draws=2, workers=0, quiet=True)
    assert result["cause"] == "masking" and result["threat"]["eps"] == 0.2


def test_the_zoo_refuses_what_it_cannot_do(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "audit", "zoo:plain", "--weights", "w.safetensors", "--store", str(tmp_path / "s")) == 2
    assert "Leave --weights out" in capsys.readouterr().err
    assert run(monkeypatch, "audit", "zoo:plane", "--store", str(tmp_path / "s")) == 2
    assert "Did you mean 'plain'?" in capsys.readouterr().err


def test_the_zoo_is_listed_with_its_truth(monkeypatch, capsys):
    assert run(monkeypatch, "list", "zoo", "--json") == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed["plain"]["truth"] == "honest" and listed["plain-x100"]["truth"] == "masked"
    assert set(listed) == set(zoo.ENTRIES)
