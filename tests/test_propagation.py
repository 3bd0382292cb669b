"""How a change passes through layers, by hand; and networks behind rounded pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.cell import Model, cell
from robassay.cells import Craft, Examples
from robassay.classifier import Classifier
from robassay.data import find, pixels
from robassay.errors import UsageError
from robassay.nets.backbone import Plain
from robassay.nets.encoders import Direct, Poisson
from robassay.nets.normalise import Normalise
from robassay.nets.spikes import Spikes
from robassay.nets.spiking import SpikingClassifier
from robassay.propagation import Layer, Propagation, _Sum, activity
from robassay.quantised import Quantised, Rounded
from robassay.run import carry_out
from robassay.run.worker import LocalContext
from robassay.store import Store
from robassay.threat import Threat
from tests.toy_nets import Linear

ON = Examples(find("digits"), "test", 0, 5)


def chain(weight: torch.Tensor, normalise: bool = False) -> Plain:
    """ReLU(W x), then zeros."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    front = [Normalise((0.5,), (0.5,))] if normalise else []
    return Plain(nn.Sequential(*front, nn.Flatten(), layer, nn.ReLU()), len(weight), 10, bias=False).eval()


@cell
class Toy(Model):
    """A network of one layer with fixed weights: of ReLU, or spiking."""

    spikes: Spikes | None = None
    scale: float = 1.0

    def compute(self, ctx):
        return {"toy": torch.tensor(1)}

    def open(self, ctx) -> Classifier:
        weight = torch.rand(6, 64, generator=torch.Generator().manual_seed(1)) * self.scale
        plain = chain(weight)
        return plain if self.spikes is None else SpikingClassifier(plain, self.spikes, (1, 8, 8)).eval()


def craft(eps: float) -> Craft:
    return Craft((Toy(),), ON, PGD(steps=1, keep="last"), Threat("linf", eps), White())


def computed(store: Store, cell_: Propagation | Layer) -> dict[str, np.ndarray]:
    done = carry_out([cell_], store, 0, silent=True)
    assert not done.failed, done.failed
    return store.read(cell_.key)


def test_activity_is_normalised_pixels_and_every_layer():
    model = chain(torch.tensor([[1.0, 0, 0], [0, -1, 0]]), normalise=True)
    x = torch.tensor([[[[1.0, 1.0, 0.5]]]])
    first, layer = activity(model, x)
    assert first.flatten().tolist() == [1, 1, 0] and layer.tolist() == [[1, 0]]
    with pytest.raises(UsageError, match="no layer of ReLU"):
        activity(Linear(), torch.zeros(1, 1, 2, 3))


def test_spikes_are_counted_over_all_parts_of_the_steps(monkeypatch: pytest.MonkeyPatch):
    """Input .35 and .55 at threshold 1 without leak: 3 and 5 spikes in ten steps; in parts of one step as at once."""
    spiking = SpikingClassifier(chain(torch.eye(2)), Spikes(steps=10, encoder=Direct()), (1, 1, 2)).eval()
    x = torch.tensor([[[[0.35, 0.55]]]])
    with torch.no_grad():
        whole = activity(spiking, x)
        monkeypatch.setattr("robassay.nets.parts.BARE_VALUES", 1)
        parted = activity(spiking, x)
    assert whole[1].tolist() == parted[1].tolist() == [[3, 5]] and len(parted) == 2


def test_relu_passes_half_of_a_change_as_half(tmp_path: Path):
    """All weights and pixels are positive: the layer is linear, its relative size computed by hand."""
    store, on = Store(tmp_path), craft(0.2)
    whole, half = (computed(store, Propagation(Toy(), on, share))["relative"] for share in (1.0, 0.5))
    assert whole.shape == (2, 5) and half == pytest.approx(whole / 2, rel=1e-4)
    made = store.read(on.key)
    x, moved = pixels(torch.from_numpy(made["x"])), torch.from_numpy(made["x_adv"])
    weight = torch.rand(6, 64, generator=torch.Generator().manual_seed(1))
    after = [(v.flatten(1) @ weight.T).relu() for v in (x, moved)]
    assert whole[1] == pytest.approx(((after[1] - after[0]).norm(dim=1) / after[0].norm(dim=1)).numpy(), rel=1e-4)
    assert whole[0] == pytest.approx(((moved - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).numpy(), rel=1e-4)
    once = computed(store, Layer(Propagation(Toy(), on), 1))
    assert once["l2"] == pytest.approx(whole[1]) and once["labels"].tolist() == ON.load().y.tolist()
    wrong = Layer(Propagation(Toy(), on), 2)
    assert "layers 0 (its pixels) to 1" in carry_out([wrong], store, 0, silent=True).failed[wrong.key]


def test_the_noise_of_few_passes_is_taken_out():
    """Of n vectors the squared size of their mean: (1,0) and (0,1) share nothing, two of (3,4) are 25."""
    apart, alike = _Sum(), _Sum()
    for one, other in ((torch.tensor([[1.0, 0]]), apart), (torch.tensor([[0.0, 1]]), apart)):
        other.add(one)
    for _ in range(2):
        alike.add(torch.tensor([[3.0, 4.0]]))
    assert apart.square(2).tolist() == [0] and alike.square(2).tolist() == [25]
    single = _Sum()
    single.add(torch.tensor([[3.0, 4.0]]))
    assert single.square(1).tolist() == [25]


def test_a_random_network_meets_the_same_draws_and_no_change_is_none(tmp_path: Path):
    spikes = Spikes(steps=20, encoder=Poisson())
    store, still = Store(tmp_path), craft(0.0)
    none = computed(store, Propagation(Toy(spikes, 0.03), still, passes=3))["relative"]
    assert (none == 0).all()
    found = computed(store, Propagation(Toy(spikes, 0.03), craft(0.2), passes=20))["relative"]
    exact = computed(store, Propagation(Toy(None, 0.03), craft(0.2)))["relative"]
    assert found[0] == pytest.approx(exact[0], rel=1e-4)
    # Far below its ceiling a soft-reset neuron without leak is linear in the mean: 400 steps are near the limit.
    assert found[1].mean() == pytest.approx(exact[1].mean(), rel=0.15)


def test_silence_is_no_number_and_arguments_are_checked(tmp_path: Path):
    silent = computed(Store(tmp_path), Propagation(Toy(Spikes(steps=5, encoder=Direct()), 1e-6), craft(0.2)))
    assert np.isnan(silent["relative"][1]).all() and not np.isnan(silent["relative"][0]).any()
    for given in ({"share": 0.0}, {"share": 1.5}, {"passes": 1}):
        with pytest.raises(UsageError, match="0 < share ≤ 1"):
            Propagation(Toy(), craft(0.2), **given)


# ---------------------------------------------------------------------------------------------------------- quantised


def test_pixels_are_rounded_and_the_gradient_passes():
    inner = Linear(pixels=3)
    model = Rounded(inner, 3)
    x = torch.tensor([[[[0.2, 0.3, 0.8]]]], requires_grad=True)
    assert model.rounded(x).flatten().tolist() == pytest.approx([0, 0.5, 1])
    logits = model(x)
    assert torch.allclose(logits, inner(torch.tensor([[[[0, 0.5, 1]]]])))
    (gradient,) = torch.autograd.grad(logits[0, 1], x)
    assert torch.allclose(gradient.flatten(), inner.weight[1])


def test_256_levels_are_those_of_a_file_and_two_are_black_and_white(tmp_path: Path):
    of_a_file = torch.arange(256)[None, None, None] / 255
    assert torch.allclose(Rounded(Linear(pixels=256), 256).rounded(of_a_file), of_a_file, atol=1e-7)
    assert set(Rounded(Linear(), 2).rounded(torch.rand(50)).tolist()) == {0, 1}
    spiking = Toy(Spikes(steps=5))
    store = Store(tmp_path)
    carry_out([spiking], store, 0, silent=True)
    opened = LocalContext(spiking, store, torch.device("cpu")).open(Quantised(spiking, 4))
    assert isinstance(opened, Rounded) and opened.stochastic and opened.rows == "independent"
    longer = opened.lasting(9)
    assert isinstance(longer, Rounded) and longer.levels == 4 and longer.inner.spikes.steps == 9
    with pytest.raises(UsageError, match="levels=1"):
        Quantised(spiking, 1)
