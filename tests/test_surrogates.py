"""Estimators for spiking networks: twins, longer runs, averages of rules, and the sweep that an audit takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import robassay as ra
from robassay.analogue import ClipFloor, ReLU, standing_in
from robassay.auditing import describe_audit, threat_of
from robassay.battery import Known
from robassay.cells import Examples
from robassay.data import find, pixels
from robassay.errors import UsageError
from robassay.estimators import Backprop, Ruled
from robassay.folds import rows
from robassay.given import held
from robassay.nets import parts
from robassay.nets.encoders import Direct, Poisson
from robassay.nets.mlp import MLP
from robassay.nets.spikes import Spikes
from robassay.nets.spiking import Spiking
from robassay.rng import Stream
from robassay.rules import RGA, Atan, Rectangle, Spread, StraightThrough, Triangle
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Study
from robassay.surrogates import OWN, SWEPT, Averaged, Extended, Twin, sweep
from robassay.testing import check_estimator
from robassay.threat import Goal
from robassay.verdict import OWN as VERDICTS_OWN
from robassay.verdict import SWEEP

SHAPE = (1, 4, 4)
X = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
LOSS = Goal(torch.arange(6) % 3).cross_entropy
DIRECT = Spikes(steps=8, leak=0.9, reset="hard", encoder=Direct(), rule=Atan(2.0))
RNG = Stream(("surrogates",))


def spiking(spikes=DIRECT, hidden=(20,)):
    with Stream(("net",)).active():
        model = Spiking(MLP(hidden), spikes).build(SHAPE, 3).eval()
    for dense in (m for m in model.modules() if isinstance(m, nn.Linear)):
        dense.weight.data *= 3
    return model


def cosine(a, b):
    return nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))


@pytest.mark.parametrize("estimator", [Twin(), Twin(ClipFloor(8), Backprop(2)), Averaged()], ids=repr)
def test_they_are_honest_on_networks_that_do_not_spike(estimator):
    assert all(r.ok for r in check_estimator(estimator))


@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_the_twins_direction_is_that_of_the_network_of_relu(threshold):
    """Oracle: the same weights in plain layers, the hidden current in units of the threshold."""
    model = spiking(replace(DIRECT, threshold=threshold, encoder=Poisson()))
    first, last = (m for m in model.modules() if isinstance(m, nn.Linear))
    image = X.clone().requires_grad_()
    logits = last((first(image.flatten(1)) / threshold).relu())
    (expected,) = torch.autograd.grad(LOSS(logits).sum(), image)
    found = Twin(ReLU())(model, X, LOSS, RNG)
    assert torch.allclose(found.gradient, expected, atol=1e-6) and expected.any()
    # The encoder's noise is off in the twin and on in what is judged.
    other = Twin(ReLU())(model, X, LOSS, RNG.child("other"))
    assert torch.equal(found.gradient, other.gradient) and not torch.equal(found.logits, other.logits)


def test_a_twin_that_runs_in_parts_has_the_same_direction(monkeypatch):
    """The parts are run again on the way back; they must be the twin's then, too."""
    model = spiking()
    whole = Twin()(model, X, LOSS, RNG)
    monkeypatch.setattr(parts, "PART_VALUES", 3 * model.values * len(X))
    image = X.clone().requires_grad_()
    with standing_in(ReLU()):
        value = LOSS(model(image)).sum()
    # Outside, as a thread of autograd's is.
    (parted,) = torch.autograd.grad(value, image)
    assert torch.allclose(whole.gradient, parted, atol=1e-6)


def test_the_twins_value_and_logits_are_the_spiking_networks():
    model = spiking()
    found = Twin()(model, X, LOSS, RNG)
    with torch.no_grad():
        assert torch.equal(found.logits[0], model(X))
    assert torch.equal(found.value, LOSS(found.logits[0]))


def test_clip_and_floor_by_hand():
    current = torch.tensor([-1.0, 0.05, 0.07, 0.5, 0.95, 2.0], requires_grad=True)
    found = ClipFloor(8)(current)
    assert found.tolist() == pytest.approx([0, 0, 1 / 8, 4 / 8, 1, 1])
    (slope,) = torch.autograd.grad(found.sum(), current)
    assert slope.tolist() == [0, 1, 1, 1, 1, 0]
    with pytest.raises(UsageError, match="levels=0"):
        ClipFloor(0)


def test_a_longer_run_gives_the_direction_and_the_deployed_one_judges():
    model, longer = spiking(), spiking(replace(DIRECT, steps=24))
    found = Extended(24)(model, X, LOSS, RNG)
    assert torch.equal(found.gradient, Backprop()(longer, X, LOSS, RNG).gradient)
    with torch.no_grad():
        assert torch.equal(found.logits[0], model(X)) and not torch.equal(found.logits[0], longer(X))
    with pytest.raises(UsageError, match="has no time steps"):
        Extended(24)(MLP((4,)).build(SHAPE, 3), X, LOSS, RNG)


def test_lif_runs_longer_too():
    from robassay.nets.lif import LIF

    model = LIF((5,), steps=3).build(SHAPE, 3).eval()
    assert model.lasting(7).net.steps == 7 and model.net.steps == 3
    assert model.lasting(7).layers[0].weight is model.layers[0].weight


def test_averaged_directions_weigh_alike_whatever_their_size():
    model = spiking()
    a, b = (Ruled(r)(model, X, LOSS, RNG).gradient for r in (Triangle(0.5), Rectangle(2.0)))
    found = Averaged((Triangle(0.5), Rectangle(2.0)))(model, X, LOSS, RNG)
    size = lambda g: g.flatten(1).abs().mean(1).reshape(-1, 1, 1, 1)
    expected = (a / size(a) + b / size(b)) / 2 * (size(a) + size(b)) / 2
    assert torch.allclose(found.gradient, expected, rtol=1e-4, atol=1e-8)
    assert found.cost == (2, 2)
    one = Averaged((Triangle(0.5),))(model, X, LOSS, RNG)
    assert torch.allclose(one.gradient, a, rtol=1e-5, atol=1e-9)
    with pytest.raises(UsageError, match="one rule at least"):
        Averaged(())


def test_a_width_that_follows_the_potentials():
    """u = −2, 0, 1, 3 has √(mean u²) = √3.5 = 1.871; scaled by 1000 the same share of neurons passes a gradient."""
    u = torch.tensor([-2.0, 0.0, 1.0, 3.0])
    width = 3.5**0.5
    assert Spread()(u).tolist() == pytest.approx([0, 1 / width, (1 - 1 / width) / width, 0])
    assert torch.equal(Spread()(1000 * u) > 0, Spread()(u) > 0) and not (Triangle()(1000 * u) > 0)[2]
    assert Spread()(torch.zeros(3)).isfinite().all()
    assert Ruled(Spread())(spiking(), X, LOSS, RNG).gradient.any()


def test_averaging_over_the_encoders_draws_steadies_the_direction():
    """PROPERTY: EoT over Poisson input is Backprop(draws); two estimates of 40 draws agree, two of one do not."""
    model = spiking(replace(DIRECT, encoder=Poisson()))
    agree = {
        n: cosine(*(Backprop(n)(model, X, LOSS, RNG.child(n, i)).gradient for i in (0, 1))).mean().item()
        for n in (1, 40)
    }
    assert agree[40] > 0.85 and agree[1] < agree[40] - 0.2


def test_the_input_gradient_is_the_transposed_convolution_of_the_potentials():
    """Sharmin et al. 2020: Σₜ dL/dV₁(t), convolved with the turned kernel, is autograd through an identity encoder."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        conv.weight.data *= 4
        net = nn.Sequential(conv, neuron.IFNode(), nn.Flatten(), nn.Linear(96, 3))
    model = ra.adapt(net, "spikingjelly", 12, encoder="poisson", shape=SHAPE)
    caught = []
    conv.register_forward_hook(lambda m, x, v: (v.requires_grad and v.register_hook(caught.append) and None) or None)
    found = Backprop()(model, X, LOSS, RNG).gradient
    assert len(caught) == 12
    by_hand = nn.functional.conv_transpose2d(torch.stack(caught).sum(0), conv.weight, padding=1)
    assert cosine(found, by_hand).min() > 0.9999


# ------------------------------------------------------------------------------------------------------------ sweep


def test_the_sweep_is_the_recommended_one():
    found = sweep(Backprop(3))
    assert next(iter(found)) == OWN == VERDICTS_OWN and found[OWN] == Backprop(3)
    assert {r.width for r in SWEPT.values() if isinstance(r, Triangle)} == {0.1, 0.25, 0.5, 1, 2}
    assert {r.width for r in SWEPT.values() if isinstance(r, Rectangle)} == {0.25, 1}
    assert {r.alpha for r in SWEPT.values() if isinstance(r, Atan)} == {2, 8, 32}
    assert {"bptr", "rga", "straight through", "twin relu", "twin clip-floor"} <= set(found) and len(found) == 16
    assert SWEPT["straight through"] == StraightThrough() and SWEPT["rga"] == RGA()
    assert all(e.draws == 3 for e in found.values())
    model = spiking()
    gradients = {name: e(model, X, LOSS, RNG).gradient for name, e in sweep().items()}
    # Atan(2) is the rule that this network was built with.
    assert torch.equal(gradients[OWN], gradients["atan 2"])
    others = [g for name, g in gradients.items() if name != OWN]
    assert all(g.any() for g in others)
    assert not any(torch.equal(a, b) for i, a in enumerate(others) for b in others[:i])


@pytest.fixture(scope="module")
def masked():
    """A network that has learnt digits, and whose own rule is far too narrow to be followed."""
    images = find("digits").split("train")
    x, y = pixels(images.x), images.y
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Spiking(MLP((60,)), DIRECT).build((1, 8, 8), 10)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(120):
            rows = torch.randint(len(y), (128,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    narrow = replace(DIRECT, rule=Triangle(0.005))
    with torch.random.fork_rng():
        made = Spiking(MLP((60,)), narrow).build((1, 8, 8), 10)
    made.load_state_dict(model.state_dict())
    return made.eval().requires_grad_(False)


def test_a_default_audit_finds_a_network_whose_surrogate_is_masked(masked):
    """A whole audit with its 16 estimators (about 4 s)."""
    result = ra.audit(masked, "digits", linf=0.1, examples=40, workers=0, quiet=True)
    assert result["clean"]["value"] > 0.85
    check = next(c for c in result["checks"] if c["name"] == "surrogate")
    assert check["flag"] and check["value"] > 0.1
    assert result["verdict"] in ("overstated", "artefact") and result["cause"] in ("masking", "both")
    assert result["winner"].startswith(SWEEP) and result["winner"] != SWEEP + OWN


def test_the_audits_union_is_the_worst_case_of_every_image(masked, tmp_path):
    on = Examples(find("digits"), "test", 0, 60)
    audit = describe_audit(held(masked, on), on, threat_of(0.1, None), known=Known(stochastic=False, spiking=True))
    assert sum(name.startswith(SWEEP) for name in audit.battery) == 16
    few = dict(list(audit.battery.items())[2::3])
    audit = replace(audit, battery=few, signals=())
    study, store = Study("audit", "Audit", (audit,)), Store(tmp_path)
    assert not carry_out(study.needs(), store, 0, silent=True).failed
    evaluations = [audit.clean, audit.claimed, audit.adequate, *few.values()]
    right = np.stack([rows([store.read(s.key) for s in e]).survives()[0] for e in evaluations])
    from robassay.document import Document

    found = Document(study.freeze(), store).audits()[0]
    assert found["robust"]["value"] == pytest.approx(right.min(0).mean())
    assert right.min(0).mean() < right.mean(1).min()


def test_networks_that_do_not_spike_are_not_swept():
    from robassay.nets.bsn import BSN
    from robassay.probe import probe

    x = torch.rand(4, *SHAPE)
    assert probe(spiking(), x).spiking
    assert not probe(MLP((4,)).build(SHAPE, 3), x).spiking
    with torch.random.fork_rng():
        assert not probe(BSN((8,)).build(SHAPE, 3).eval(), x).spiking
