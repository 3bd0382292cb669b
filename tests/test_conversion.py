"""Conversion to spikes: thresholds by hand, the same spikes by both methods, decisions of the network of ReLU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robassay.cells import Examples, Score
from robassay.converted import Convert, Timed
from robassay.data import find, pixels
from robassay.errors import UsageError
from robassay.models import Train
from robassay.nets.backbone import Plain
from robassay.nets.conversion import _Largest, convert
from robassay.nets.encoders import Direct, Latency, Poisson
from robassay.nets.lif import LIF
from robassay.nets.mlp import MLP
from robassay.nets.neurons import neurons
from robassay.nets.published import HYBRID, VGG5, ResNet20
from robassay.nets.resnet import ResNet18
from robassay.nets.spikes import Neurons, Spikes
from robassay.nets.spiking import Spiking, SpikingClassifier
from robassay.nets.vgg import VGG
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.rules import Atan
from robassay.run import carry_out
from robassay.store import Store
from robassay.training import restore, train

DIGIT = (1, 8, 8)
RNG = Stream(("test", "conversion"))
LONG = Spikes(steps=800)


def trained(net: Any, folder: Path, epochs: int = 10) -> tuple[Plain, Tensor]:
    data = find("digits", None)
    recipe = Recipe(epochs=epochs, batch=64, lr=3e-3)
    images, val = data.split("train"), data.split("val")
    arrays = train(net, DIGIT, 10, images, val, recipe, RNG, folder, lambda done, total: None)
    plain = restore(net, DIGIT, 10, arrays)
    assert isinstance(plain, Plain)
    return plain, pixels(data.split("test").x[:100])


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plain, Tensor]:
    """A small VGG5 that reads digits: a few seconds."""
    return trained(VGG(5, width=0.06, normalise="half"), tmp_path_factory.mktemp("vgg"))


def thresholds(model: nn.Module) -> list[float]:
    return [m.threshold.item() for m in model.modules() if isinstance(m, Neurons)]


def logits_of(model: SpikingClassifier, x: Tensor, key: str = "draw") -> Tensor:
    with torch.no_grad(), RNG.child(key).active():
        return model(x)


@pytest.mark.parametrize("delay", [False, True])
def test_thresholds_are_the_largest_input_sums_one_layer_after_the_other(delay: bool) -> None:
    with RNG.active():
        plain = MLP((7, 6, 5)).build((1, 2, 3), 4).eval()
    for p in plain.parameters():
        p.data.mul_(3)
    for m in plain.modules():
        if isinstance(m, nn.Linear):
            nn.init.zeros_(m.bias)
    x = torch.rand(4, 1, 2, 3, generator=RNG.generator())
    found = convert(plain, Spikes(encoder=Direct(), delay=delay), (1, 2, 3), x, 40, RNG)
    spikes, expected = x.flatten(1).expand(40, -1, -1), []
    for layer in [m for m in plain.trunk if isinstance(m, nn.Linear)]:
        sums = spikes @ layer.weight.T
        expected.append(sums.max().item())
        spikes = neurons(sums, 1.0, expected[-1], "soft", Atan(), delay=delay)
    assert thresholds(found) == pytest.approx(expected, rel=1e-5)
    assert len({round(t, 3) for t in expected}) == 3


def test_a_percentile_is_exact_and_resists_one_image() -> None:
    values = torch.randn(20, 500, generator=RNG.generator())
    for percentile, kept in ((100.0, 1), (99.9, 10), (90.0, 1000)):
        found = _Largest(values.numel(), percentile)
        for row in values:
            found.add(row)
        assert found.value == values.flatten().topk(kept).values[-1].item()


def test_one_odd_image_moves_the_maximum_and_not_the_percentile() -> None:
    with RNG.active():
        plain = MLP((2,)).build(DIGIT, 10).eval()
    x = torch.rand(64, *DIGIT, generator=RNG.generator())
    odd = torch.cat([x[:63], (plain.trunk[1].weight[:1] > 0).float().reshape(1, *DIGIT)])
    first = {
        (p, name): thresholds(convert(plain, Spikes(encoder=Direct()), DIGIT, images, 20, RNG, percentile=p))[0]
        for p in (100.0, 99.0)
        for name, images in (("plain", x), ("odd", odd))
    }
    assert first[100.0, "odd"] > 1.2 * first[100.0, "plain"]
    assert abs(first[99.0, "odd"] / first[99.0, "plain"] - 1) < 0.1
    assert first[99.0, "plain"] < first[100.0, "plain"]


@pytest.mark.parametrize("net", [VGG(5, width=0.05, normalise="half"), MLP((12, 9))], ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("pooling", ["graded", "spiking"])
def test_balanced_thresholds_and_normalised_weights_spike_alike(net: Any, pooling: Any) -> None:
    with RNG.active():
        plain = net.build(DIGIT, 10).eval().double()
    x = torch.rand(6, *DIGIT, generator=RNG.generator(), dtype=torch.float64)
    how = Spikes(steps=60, delay=True, pooling=pooling, scale=0.8, leak=0.99)
    found = [convert(plain, how, DIGIT, x, 60, RNG, method).double() for method in ("threshold", "weight")]  # type: ignore[arg-type]
    counts = [_all_spikes(model, x) for model in found]
    assert all(torch.equal(a, b) for a, b in zip(*counts, strict=True)) and all(c.any() for c in counts[0])
    assert all(t in (1.0, 0.75) for t in thresholds(found[1])) and not all(t == 1 for t in thresholds(found[0]))


def _all_spikes(model: SpikingClassifier, x: Tensor) -> list[Tensor]:
    caught: list[Tensor] = []
    handles = [
        m.register_forward_hook(lambda m, i, spikes: caught.append(spikes.sum(0)))
        for m in model.modules()
        if isinstance(m, Neurons)
    ]
    logits_of(model, x)
    for handle in handles:
        handle.remove()
    return caught


# ---------------------------------------------------------------------------------------------------- what it is for


@pytest.mark.parametrize("delay", [False, True])
def test_the_converted_network_decides_as_the_network_of_relu(vgg: tuple[Plain, Tensor], delay: bool) -> None:
    """Logits follow those of the network of ReLU (r > .98) and so do decisions (> 97 %); longer is better."""
    plain, x = vgg
    model = convert(plain, replace(LONG, delay=delay), DIGIT, x[:60], 300, RNG)
    with torch.no_grad():
        expected = plain(x)
    found = {steps: logits_of(model.lasting(steps), x) for steps in (8, 30, 800)}
    flat = torch.stack([found[800].flatten(), expected.flatten()])
    assert torch.corrcoef(flat)[0, 1] > 0.98
    agree = [(logits.argmax(1) == expected.argmax(1)).float().mean().item() for logits in found.values()]
    assert agree[-1] > 0.97
    assert agree[0] < agree[1] + 0.03 and agree[1] <= agree[2] + 0.03 and agree[0] < 0.9


def test_biases_keep_their_share(tmp_path: Path) -> None:
    """Without division by the thresholds in front of them they would drown the input or drown in it."""
    plain, x = trained(MLP((40, 30)), tmp_path)
    for m in plain.modules():
        if isinstance(m, nn.Linear):
            m.bias += 0.15 * torch.randn(m.bias.shape, generator=RNG.generator())
    for how in (LONG, replace(LONG, encoder=Poisson(0.5)), replace(LONG, encoder=Direct())):
        model = convert(plain, how, DIGIT, x[:60], 100, RNG)
        agree = (logits_of(model, x).argmax(1) == plain(x).argmax(1)).float().mean()
        assert agree > 0.96


@pytest.mark.parametrize("pooling", ["graded", "spiking"])
def test_logits_are_those_of_the_network_of_relu_over_all_thresholds(pooling: Any) -> None:
    """Biases and poolings included: rates are activations over the thresholds so far, those of poolings too."""
    with RNG.active():
        front = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
        plain = Plain(nn.Sequential(*front, nn.Linear(64, 20), nn.ReLU()), 20, 10).eval()
        for m in plain.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.uniform_(m.bias, -0.5, 1.0)
    x = torch.rand(20, *DIGIT, generator=RNG.generator())
    how = Spikes(steps=2000, pooling=pooling, encoder=Direct())
    model = convert(plain, how, DIGIT, x, 200, RNG)
    unit = torch.tensor(thresholds(model)).prod()
    with torch.no_grad():
        expected = plain(x)
    assert (logits_of(model, x) * unit - expected).abs().max() < 0.02 * expected.abs().max()


def test_hard_reset_biases_the_rates(vgg: tuple[Plain, Tensor]) -> None:
    """It throws the rest of the membrane away: the soft one follows the network of ReLU more closely."""
    plain, x = vgg
    gaps = []
    for reset in ("soft", "hard"):
        how = replace(LONG, reset=reset, encoder=Direct(), steps=400)  # type: ignore[arg-type]
        found = logits_of(convert(plain, how, DIGIT, x[:60], 100, RNG), x).flatten()
        gaps.append(1 - torch.corrcoef(torch.stack([found, plain(x).flatten()]))[0, 1])
    assert gaps[0] < 0.01 and gaps[1] > 3 * gaps[0]


# ------------------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_converted_is_refused() -> None:
    with RNG.active():
        normed = ResNet18(width=0.05).build((3, 32, 32), 10).eval()
        dead = MLP((4,)).build(DIGIT, 10).eval()
        dead.trunk[1].weight.data.fill_(-1.0)
        dead.trunk[1].bias.data.fill_(-1.0)
    x = torch.rand(2, 3, 32, 32)
    with pytest.raises(UsageError, match="BatchNorm2d cannot be made to spike: a batch norm's"):
        convert(normed, LONG, (3, 32, 32), x, 10, RNG)
    with pytest.raises(UsageError, match="never get a positive input"):
        convert(dead, LONG, DIGIT, x[:, :1, :8, :8], 10, RNG)
    with pytest.raises(UsageError, match="Latency"):
        convert(dead, replace(LONG, encoder=Latency()), DIGIT, x[:, :1, :8, :8], 10, RNG)
    with pytest.raises(UsageError, match="5 layers of neurons"):
        VGG5(0.05, spikes=replace(LONG, steps=5, delay=True)).build(DIGIT, 10)


def test_cells_refuse_what_they_cannot_convert() -> None:
    data, recipe = find("digits", None), Recipe(epochs=1)
    for net, message in ((VGG5(), "already spikes"), (Spiking(), "already spikes"), (LIF(), "is no chain")):
        with pytest.raises(UsageError, match=message):
            Convert(Train(net, data, recipe))
    whole = Train(VGG5(0.05, spikes=None), data, recipe)
    assert Convert(whole).net == VGG5(0.05, spikes=Spikes(steps=2000))
    assert Convert(whole).key != Convert(whole, percentile=99.9).key
    for wrong in ({"method": "none"}, {"steps": 0}, {"percentile": 0.0}, {"images": 0}):
        with pytest.raises(UsageError):
            Convert(whole, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        Timed(whole, 0)


def test_stem_thresholds_of_a_residual_network_are_set_and_those_of_its_blocks_are_not() -> None:
    with RNG.active():
        plain = ResNet20(0.03, spikes=None).build((3, 32, 32), 10).eval()
    assert isinstance(plain, Plain)
    x = torch.rand(2, 3, 32, 32, generator=RNG.generator())
    found = thresholds(convert(plain, Spikes(steps=30, encoder=Poisson(0.9)), (3, 32, 32), x, 3, RNG))
    assert all(t != 1 for t in found[:3]) and found[3:] == [1.0] * 16


# ---------------------------------------------------------------------------------------------------------------- cells


def test_a_conversion_is_a_cell_and_begins_a_training(tmp_path: Path) -> None:
    """Network of ReLU → thresholds → training with surrogates → judged, and run for longer."""
    data = find("digits", None)
    plain = Train(MLP((40,)), data, Recipe(epochs=8, lr=5e-3, batch=64))
    how = replace(HYBRID, steps=15)
    converted = Convert(plain, how, steps=50, images=50)
    hybrid = Train(Spiking(MLP((40,)), how), data, Recipe(epochs=1, lr=1e-4), begin=converted, limit=200)
    on = Examples(data, "test", 0, 200)
    scores = [Score(m, on, repeats=1) for m in (plain, converted, hybrid, Timed(hybrid, 40))]
    store = Store(tmp_path / "store")
    assert not carry_out(scores, store, 0, silent=True).failed
    rates = []
    for score in scores:
        arrays = store.read(score.key)
        rates.append((arrays["decisions"][0] == arrays["labels"]).mean())
    assert rates[0] > 0.8 and rates[2] > 0.6
    before, after = store.read(converted.key), store.read(hybrid.key)
    assert before.keys() <= after.keys()
    held = [name for name in before if "threshold" in name]
    assert held and all((before[name] == after[name]).all() for name in held)
    with pytest.raises(UsageError, match="images"):
        Train(converted.net, data, Recipe(epochs=1), begin=_other_shape(converted))


def _other_shape(converted: Convert) -> Any:
    class Shaped:
        shape, classes, name, checksum = (3, 9, 9), 10, "other", "0"

    class Odd(Convert):
        data = Shaped()  # type: ignore[assignment]

    return Odd(converted.of, converted.spikes)
