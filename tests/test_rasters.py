"""Spikes and potentials that are recorded: by hand for one layer, with frameworks, and as they are drawn."""

from __future__ import annotations

import base64
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from test_propagation import ON, Toy
from test_report import HOSTILE, Page, audit, document
from torch import nn

from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.cell import Model, cell, with_needs
from robassay.cells import Craft
from robassay.classifier import Classifier
from robassay.data import pixels
from robassay.document import Document
from robassay.drawn import Raster
from robassay.errors import UsageError
from robassay.evidence import evidence
from robassay.nets.encoders import Direct, Poisson
from robassay.nets.lif import LIF
from robassay.nets.spikes import Spikes
from robassay.rasters import Rasters, _chosen, _even, listened
from robassay.report import render
from robassay.report.trains import of_rates, potential_map, spike_map
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Study
from robassay.threat import Threat

SPIKES = Spikes(steps=12, leak=0.9, threshold=1.0, encoder=Direct())


def computed(one, tmp_path):
    store = Store(tmp_path)
    outcome = carry_out([one], store, 0, silent=True)
    assert not outcome.failed, outcome.failed
    return store.read(one.key)


def craft(target, eps=0.2):
    return Craft((target,), ON, PGD(steps=2), Threat("linf", eps), White())


def by_hand(x: torch.Tensor, spikes: Spikes, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Spikes and potentials (T, neurons) of the toy's layer for one image: v ← leak · v + W x, minus 1 for a spike."""
    weight = (torch.rand(6, 64, generator=torch.Generator().manual_seed(1)) * scale).double().numpy()
    current, v, fired, held = weight @ x.double().flatten().numpy(), np.zeros(6), [], []
    for _ in range(spikes.steps):
        h = spikes.leak * v + current
        fired.append(h >= 1)
        held.append(h)
        v = h - fired[-1]
    return np.array(fired), np.array(held)


def test_spikes_and_potentials_are_those_of_the_equations(tmp_path):
    target = Toy(SPIKES, 0.02)
    one = Rasters(target, craft(target), images=2, neurons=6, traced=3)
    found = computed(one, tmp_path)
    made = Store(tmp_path).read(one.on.key)
    assert found["spikes_0"].shape[:3] == (2, 2, 12) and found["sizes"].tolist() == [6]
    for which, images in enumerate((made["x"] / np.float32(255), made["x_adv"])):
        for i in range(2):
            fired, held = by_hand(torch.from_numpy(images[i]), SPIKES, 0.02)
            assert found["rates"][which, i, 0] == pytest.approx(fired.mean(), abs=1e-6)
            shown = found["spikes_0"][which, i]
            places = [next(k for k in range(6) if np.allclose(held[:, k], trace, atol=1e-4))
                      for trace in found["potentials_0"][which, i].T]  # fmt: skip
            assert len(set(places)) == 3
            for place, row in zip(places, found["traces_0"], strict=True):
                assert (shown[:, row] == fired[:, place]).all(), "a trace is that of the row it says"
    totals = found["spikes_0"].sum((0, 1, 2), dtype=np.int64)
    assert (np.diff(totals) <= 0).all() and found["thresholds"] == [1.0]
    assert not (found["spikes_0"][0] == found["spikes_0"][1]).all(), "the attack changes something here"


def test_clean_and_attacked_meet_the_same_noise(tmp_path):
    target = Toy(Spikes(steps=20, encoder=Poisson()), 0.05)
    found = computed(Rasters(target, craft(target, 1e-9)), tmp_path)
    assert (found["spikes_0"][0] == found["spikes_0"][1]).all() and 0 < found["rates"].mean() < 1


def test_parts_of_the_time_are_put_together(monkeypatch, tmp_path):
    target = Toy(SPIKES, 0.02)
    one = Rasters(target, craft(target))
    whole = computed(one, tmp_path / "whole")
    monkeypatch.setattr("robassay.nets.spiking.part_steps", lambda steps, *_: 5)
    parts = computed(one, tmp_path / "parts")
    assert all((whole[name] == parts[name]).all() for name in ("spikes_0", "rates"))
    assert np.allclose(whole["potentials_0"], parts["potentials_0"], atol=1e-6)


def test_layers_of_one_pass_are_told_apart():
    model = LIF(hidden=(7, 5, 3), steps=4).build((1, 8, 8), 10).eval()
    told = []
    with torch.no_grad(), listened(model, told.append), Stream(("a",)).active():
        model(pixels(ON.load().x))
    assert [(one.place, *one.spikes.shape) for one in told] == [(0, 4, 5, 7), (1, 4, 5, 5), (2, 4, 5, 3)]
    model(pixels(ON.load().x))
    assert len(told) == 3, "nothing is told outside"


def test_even_places_and_the_choice_of_neurons():
    assert _even(3, 4) == [0, 1, 2] and _even(10, 4) == [0, 3, 6, 9] and _even(0, 4) == [] and _even(5, 1) == [0]
    busy = torch.tensor([0.0, 3.0, 1.0, 2.0, 0.0])
    assert _chosen(busy, 9).tolist() == [1, 3, 2], "silent neurons are left out"
    assert _chosen(busy, 2).tolist() == [1, 2]


@cell
class Plainly(Model):
    """A network without neurons."""

    def compute(self, ctx):
        return {"toy": torch.tensor(1)}

    def open(self, ctx) -> Classifier:
        return Toy().open(ctx)


def test_a_network_without_neurons_has_no_layers_and_no_picture(tmp_path):
    one = Rasters(Plainly(), craft(Plainly()))
    found = computed(one, tmp_path)
    assert found["sizes"].size == 0 and found["layers"].size == 0 and found["rates"].shape == (2, 2, 0)
    study = Study("s", "S", (Raster("r", "Spikes", one),))
    assert Document(study.freeze(), Store(tmp_path)).whole()["drawings"] == []
    with pytest.raises(UsageError, match="one image"):
        Rasters(Plainly(), craft(Plainly()), images=0)


@pytest.mark.parametrize("name", ["snntorch", "spikingjelly", "norse"])
def test_networks_of_frameworks_tell_their_spikes(name):
    pytest.importorskip(name)
    from robassay.adapters import adapt

    torch.manual_seed(0)
    model = adapt(framework_net(name), framework=name, steps=6)
    told, kept = [], []

    def note(layer):
        told.append(layer)
        kept.append(layer.potentials())  # at once: a framework overwrites it

    with torch.no_grad(), listened(model, note):
        model(pixels(ON.load().x))
    assert {one.place for one in told} == {0, 1}
    first = torch.cat([one.spikes for one in told if one.place == 0])
    assert first.shape == (6, 5, 12) and set(first.unique().tolist()) == {0.0, 1.0}
    held = torch.cat([k for k, one in zip(kept, told, strict=True) if one.place == 0])
    assert held.shape == (6, 5, 12) and held.std() > 0
    assert told[0].threshold == 1.0


def framework_net(name: str) -> nn.Module:
    """Two layers of neurons behind linear ones."""
    if name == "norse":
        import norse.torch as norse

        layers = (nn.Flatten(), nn.Linear(64, 12), norse.LIFCell(), nn.Linear(12, 10), norse.LIFCell())
        scaled = norse.SequentialState(*layers)
    elif name == "spikingjelly":
        from spikingjelly.activation_based import neuron

        layers = (nn.Flatten(), nn.Linear(64, 12), neuron.LIFNode(), nn.Linear(12, 10), neuron.LIFNode())
        scaled = nn.Sequential(*layers)
    else:
        import snntorch

        first, last = (snntorch.Leaky(0.9, init_hidden=True, output=out) for out in (False, True))
        scaled = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), first, nn.Linear(12, 10), last)
    with torch.no_grad():
        scaled[1].weight.mul_(60)
    return scaled


def drawn(**more) -> dict:
    """One layer of two neurons over four steps, on one image."""
    layer = {"place": 0, "steps": 4, "threshold": 1.0, "spikes": [[[[0, 3], [1]]], [[[], [2]]]], "traces": [0],
             "potentials": [[[[0.0, 1.0, 0.5, 1.0]]], [[[0.0, 0.25, 0.5, 0.75]]]]}  # fmt: skip
    known = {"kind": "raster", "id": "r", "caption": "Spikes", "labels": [3], "decisions": [[3], [5]],
             "rates": [[[0.375]], [[0.125]]], "sizes": [2], "layers": [layer], "keys": ["99aa"]}  # fmt: skip
    return {**known, **more}


def test_a_raster_has_time_to_the_right_and_the_first_neuron_on_top():
    svg = ElementTree.fromstring(str(spike_map(drawn(), 0, 0, 0)))
    uri = svg.find("image").get("href")
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))[..., 3]
    assert (alpha > 0).tolist() == [[True, False, False, True], [False, True, False, False]]
    assert "37.5 % of steps" in svg.get("aria-label") and "attacked" not in svg.get("aria-label")


def test_potentials_stand_at_their_height_beside_the_threshold():
    svg = ElementTree.fromstring(str(potential_map(drawn(), 0, 0)))
    lines = {p.get("class") + str(p.get("stroke-dasharray") or ""): p.get("d") for p in svg.iter("path")}
    clean = [tuple(map(float, point.split())) for point in lines["line"][1:].split("L")]
    attacked = [tuple(map(float, point.split())) for point in lines["line4 3"][1:].split("L")]
    level = float(lines["level"].split()[1].split("H")[0])
    assert clean[1][1] == clean[3][1] == level < clean[2][1] < clean[0][1], "upwards is more"
    assert attacked[2][1] == clean[2][1] and clean[1][0] - clean[0][0] == pytest.approx(64.5, abs=0.2)


def test_the_page_shows_spikes_as_evidence_and_as_a_drawing():
    for known in ({"audits": [audit(evidence=[drawn(caption=HOSTILE)])]}, {"drawings": [drawn(caption=HOSTILE)]}):
        page = render(document(**known))
        assert page.count('class="trains"') == 3 and "<script>alert" not in page
        text = Page(page).text
        assert "class 3; clean taken for 3, attacked for 5" in text and "37.5 %" in text and "99aa" in text
    assert of_rates(drawn()).csv.splitlines()[1] == '"layer 1 of 1, 2 neurons",0.375,0.125'


def test_a_study_draws_what_was_recorded(tmp_path):
    target = Toy(SPIKES, 0.02)
    one = Rasters(target, craft(target))
    held = computed(one, tmp_path)
    (shown,) = Document(Study("s", "S", (Raster("r", "Spikes", one),)).freeze(), Store(tmp_path)).whole()["drawings"]
    (layer,) = shown["layers"]
    for which in (0, 1):
        for i in (0, 1):
            for n, train in enumerate(layer["spikes"][which][i]):
                assert train == np.flatnonzero(held["spikes_0"][which, i, :, n]).tolist()
            for n, trace in enumerate(layer["potentials"][which][i]):
                assert trace == pytest.approx(held["potentials_0"][which, i, :, n].tolist(), abs=1e-3)
    assert json.loads(json.dumps(shown)) == shown


def test_an_audit_of_a_spiking_network_shows_its_spikes():
    known = (Toy(SPIKES), ON, Threat("linf", 0.1), "quick", False)
    with_it = {one.id for one in evidence(*known, spiking=True)}
    assert with_it - {one.id for one in evidence(*known)} == {"spikes"}
    (shown,) = (one for one in evidence(*known, spiking=True) if one.id == "spikes")
    made = {cell_.key for one in evidence(*known) for cell_ in with_needs(one.needs())}
    assert shown.cell.on.key in made, "its images are those of the curve over eps"
