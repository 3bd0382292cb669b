"""Odd models: each is audited for what it is, or refused with a message that says what to write instead."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import robassay
from robassay.classifier import Wrapped
from robassay.data import find, pixels
from robassay.errors import RobassayError, UsageError
from robassay.probe import as_classifier, changing, probe
from robassay.rng import Stream


class Linear(nn.Module):
    """One layer between two functions: what is odd is around it."""

    def __init__(self, before=lambda x: x, after=lambda z: z, layer: nn.Linear | None = None) -> None:
        super().__init__()
        self.layer = layer or nn.Linear(64, 10)
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(self.layer(self.before(x).flatten(1)))


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    images = find("digits").split("test")
    return pixels(images.x[:24]), images.y[:24]


@pytest.fixture(scope="module")
def trained() -> nn.Linear:
    """A linear classifier of digits; frozen, so that no test changes it for another."""
    images = find("digits").split("train")
    x, y = pixels(images.x).flatten(1), images.y
    layer = nn.Linear(64, 10)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # whatever other tests have drawn
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(layer(x), y).backward()
        optimizer.step()
    return layer.requires_grad_(False)


def audited(module: nn.Module, data, examples: int = 24, **options) -> dict:
    return robassay.audit(module, data, linf=0.15, examples=examples, draws=4, quiet=True, **options)


@pytest.fixture(scope="module")
def plain(trained, digits) -> dict:
    """What an audit says of the classifier as it is."""
    return audited(Linear(layer=trained), digits)


def check(result, name: str) -> dict:
    return next((c for c in result["checks"] if c["name"] == name), {"flag": False, "answer": ""})


# ------------------------------------------------------------------------------------------------------------ outputs


def test_probabilities_are_audited_on_their_logarithms(trained, digits, plain, capsys, tmp_path):
    """It is said at once, and in the store, so that a report of a finished audit can say it again."""
    soft = audited(Linear(layer=trained, after=lambda z: z.softmax(-1)), digits, store=tmp_path)
    assert "returns probabilities" in capsys.readouterr().err
    assert sum("logarithms" in f.read_text(encoding="utf-8") for f in tmp_path.rglob("cell.json")) == 1
    assert soft["clean"] == plain["clean"] and check(soft, "probabilities")["flag"]
    # Logarithms of a softmax are the logits up to a constant per image: every loss has the same gradient.
    assert abs(soft["robust"]["value"] - plain["robust"]["value"]) <= 2 / 24
    assert abs(soft["claimed"]["value"] - plain["claimed"]["value"]) <= 2 / 24


def test_the_proof_of_a_model_that_returns_probabilities_attacks_their_logarithms(trained, tmp_path):
    """A whole audit, and its proof in a process of its own (about 10 s)."""
    source = "import torch\ndef build():\n    return torch.nn.Sequential({})\n".format(
        "torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Softmax(-1)"
    )
    (tmp_path / "mine.py").write_text(source)
    save_file({f"1.{name}": value for name, value in trained.state_dict().items()}, tmp_path / "w.safetensors")
    proof = tmp_path / "proof.py"
    options = {"weights": str(tmp_path / "w.safetensors"), "linf": 0.15, "examples": 12, "quiet": True}
    result = robassay.audit(f"{tmp_path / 'mine.py'}:build", proof=proof, **options)
    carried = [a["robust"]["value"] for a in result["attacks"] if a["gradients"] > 0]
    done = subprocess.run([sys.executable, str(proof)], capture_output=True, text=True, check=True)
    left = float(done.stdout.split("this file: ")[1].split(" %")[0]) / 100
    assert ".log()" in proof.read_text(encoding="utf-8") and abs(left - min(carried)) <= 1 / 12
    assert left <= result["clean"]["value"] - 0.5


def test_cross_entropy_of_probabilities_is_that_of_the_logits(trained, digits):
    x, y = digits
    module = Linear(layer=trained, after=lambda z: z.softmax(-1))
    model = as_classifier(module, probe(module, x), x)
    assert torch.allclose(F.cross_entropy(model(x), y), F.cross_entropy(Linear(layer=trained)(x), y), atol=1e-5)
    certain = Linear(layer=trained, after=lambda z: F.one_hot(z.argmax(1), 10).float())
    assert as_classifier(certain, probe(certain, x), x)(x).isfinite().all()  # log 0 is no logit


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (lambda z: (z, z.mean()), ["a tuple of 2", "class Logits", "self.net(x)[0]"]),
        (lambda z: (z.flatten(1, -1)[..., None], z), ["a tuple of 2", "self.net(x)[1]"]),
        (lambda z: {"features": z, "logits": z}, ["dict with keys features, logits", "self.net(x)['logits']"]),
        (lambda z: z.argmax(1), ["int64", r"shape (24,)", "what the argmax was taken of"]),
        (lambda z: z.round().long(), ["int64", ".float()"]),
        (lambda z: z[:, 0], ["shape (24,)", "torch.stack([-z, z], 1)"]),
        (lambda z: z[:, :1], ["at least two classes", "torch.cat([-z, z], 1)"]),
        (lambda z: z[..., None, None], ["shape (24, 10, 1, 1)", ".flatten(1)"]),
        (lambda z: z.detach().numpy(), ["a ndarray", "small wrapper module"]),
    ],
)
def test_what_is_no_logits_is_refused_with_what_to_write(after, words, digits):
    x, _ = digits
    with pytest.raises(UsageError) as caught:
        probe(Linear(after=after), x)
    assert all(word.replace("24", str(len(x))) in str(caught.value) for word in words), caught.value


def test_the_audit_refuses_a_tuple_in_the_same_words(trained, digits):
    with pytest.raises(UsageError, match=r"tuple of 2.*(?s:.*)self\.net\(x\)\[0\]"):
        audited(Linear(layer=trained, after=lambda z: (z, z)), digits)


def test_nan_logits_on_some_images_name_their_number(trained, digits):
    x, _ = digits
    bright = x[:, 0].mean((1, 2))
    limit = float(bright[10:].sort().values[-3])
    few = int((bright > limit).sum())
    module = Linear(
        layer=trained, before=lambda x: torch.where(x.mean((1, 2, 3), keepdim=True) > limit, torch.nan, 1.0) * x
    )
    assert 0 < few < 24
    with pytest.raises(RobassayError, match=r"NaN logits for \d+ of \d+ images"):
        audited(module, digits)


# --------------------------------------------------------------------------------------------- noise and hidden state


def test_dropout_left_on_is_random_can_be_switched_off_and_is_cut_before_it(trained, digits):
    class Left(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 10)

        def forward(self, x):
            return self.head(F.dropout(torch.relu(self.body(x.flatten(1))), 0.3, training=True))

    found = probe(Left(), digits[0])
    assert found.stochastic and found.independent and found.split == 1 and not found.quiets
    layer = nn.Dropout(0.2)
    layer.train(True).eval = lambda: layer  # what people do to keep it on
    layer.train = lambda mode=True: layer
    module = nn.Sequential(nn.Flatten(), trained, layer, nn.Linear(10, 10))
    found = probe(module.eval(), digits[0])
    assert found.stochastic and found.quiets and found.independent and found.split == 2
    result = audited(nn.Sequential(nn.Flatten(), layer, trained), digits)
    assert result["stochastic"] and result["draws"] == 4


def test_a_module_with_state_is_named_with_what_changes(trained, digits, capsys):
    class Counting(Linear):
        calls, seen = 0, torch.zeros(1)

        def forward(self, x):
            self.calls += 1
            self.seen = self.seen + len(x)
            return super().forward(x) + 1e-3 * self.calls

    result = audited(Counting(layer=trained), digits, examples=12)
    told = capsys.readouterr().err
    assert "keeps state" in told and "its forward changes calls, seen" in told
    assert check(result, "reproducible")["flag"] and result["clean"]["value"] > 0.7

    class Seeded(Linear):
        def __init__(self, **options):
            super().__init__(**options)
            self.own = torch.Generator().manual_seed(0)

        def forward(self, x):
            return super().forward(x) + torch.randn(10, generator=self.own)

    assert changing(Seeded(), digits[0]) == ["own"]
    found = probe(Seeded(), digits[0])
    assert found.stochastic and not found.reproducible and not found.independent and found.split == 0


def test_a_forward_that_writes_to_its_input_changes_no_image_of_the_caller(trained, digits):
    module = Linear(layer=trained, before=lambda x: x.mul_(2).sub_(0.5))
    same = Linear(layer=trained, before=lambda x: x * 2 - 0.5)
    before = digits[0].clone()
    found = probe(module, digits[0])
    assert not found.stochastic and found.differentiable and torch.equal(digits[0], before)
    model = as_classifier(module, found, digits[0])
    assert torch.equal(model(digits[0]), same(digits[0])) and torch.equal(digits[0], before)
    assert torch.equal(model(digits[0]), model(digits[0]))


def refusing(z):
    if len(z) == 1:
        raise ValueError("Expected more than 1 value per channel")
    return z


@pytest.mark.parametrize("after", [torch.squeeze, refusing])
def test_a_module_that_cannot_take_a_single_image_gets_it_twice(after, trained, digits):
    x, _ = digits
    module = Linear(layer=trained, after=after)
    found = probe(module, x)
    assert not found.alone and not found.coupled
    model = as_classifier(module, found, x)
    assert torch.allclose(model(x[:1]), Linear(layer=trained)(x[:1]), atol=1e-5)
    noisy = Linear(layer=trained, after=lambda z: after(z) + torch.randn_like(z))
    model = as_classifier(noisy, probe(noisy, x), x)
    assert model.cut is not None and model(x[:1]).shape == (1, 10)


# ----------------------------------------------------------------------------------------------------------- gradients


def through_numpy(x):
    return torch.from_numpy(np.round(x.numpy() * 8) / 8)


@torch.no_grad()
def without_grad(x):
    return x * 1.0


@pytest.mark.parametrize(
    ("before", "opaque"), [(torch.Tensor.detach, False), (without_grad, False), (through_numpy, True)]
)
def test_a_blocked_gradient_is_found_and_needs_no_gradient_from_then_on(before, opaque, trained, digits):
    x, _ = digits
    module = Linear(layer=trained, before=before)
    found = probe(module, x)
    assert not found.differentiable and found.opaque is opaque
    model = as_classifier(module, found, x)
    image = x.clone().requires_grad_()
    assert not model(image).requires_grad and torch.allclose(model(image), module(x))


def test_numpy_inside_is_audited_without_a_gradient_and_said_so(trained, digits):
    result = audited(Linear(layer=trained, before=through_numpy), digits, examples=12)
    assert check(result, "differentiable")["flag"]
    assert result["robust"]["value"] <= result["clean"]["value"] - 0.2


# ----------------------------------------------------------------------------------------------------- precision, size


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_in_other_precisions_are_fed_their_own(kind, trained, digits):
    layer = nn.Linear(64, 10)
    layer.load_state_dict(trained.state_dict())
    module = Linear(layer=layer).to(kind)
    found = probe(module, digits[0])
    assert found == probe(Linear(layer=trained), digits[0])  # rounding is neither coupling nor noise
    soft = probe(Linear(layer=layer.to(kind), after=lambda z: z.softmax(-1)), digits[0])
    assert soft.probabilities
    logits = as_classifier(module, found, digits[0])(digits[0])
    assert logits.dtype == torch.float32 and torch.allclose(logits, Linear(layer=trained)(digits[0]), atol=0.1)


def test_bfloat16_is_audited_like_float32(trained, digits, plain):
    layer = nn.Linear(64, 10)
    layer.load_state_dict(trained.state_dict())
    result = audited(Linear(layer=layer.bfloat16()), digits)
    assert round(24 * abs(plain["clean"]["value"] - result["clean"]["value"]), 3) <= 1, "more than one image of 24"
    assert round(24 * abs(plain["robust"]["value"] - result["robust"]["value"]), 3) <= 2


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 224, 224)])
def test_image_sizes(shape):
    net = nn.Sequential(nn.Conv2d(shape[0], 2, 7, stride=6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    module = Linear(layer=nn.Linear(8, 1000), before=net, after=lambda z: z + 0.1 * torch.randn_like(z))
    x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(0))
    found = probe(module, x)
    assert found.classes == 1000 and found.stochastic and found.differentiable
    # The cut is after the linear layer: small features, whatever the size of the image.
    assert found.split == 6 and found.independent


@pytest.mark.parametrize(("shape", "classes"), [((3, 64, 64), 2), ((1, 8, 8), 1000)])
def test_two_and_a_thousand_classes_are_audited(shape, classes):
    """The label is read off one pixel, which the attacker may change by too little: 100 % whatever is done."""

    class Reading(nn.Module):
        def forward(self, x):
            codes = torch.arange(classes, device=x.device) / (classes - 1)
            return -(x[:, :1, 0, 0] - codes).abs() * 50

    x = torch.rand(12, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % 2 * (classes - 1)
    x[:, 0, 0, 0] = (y > 0).float()
    result = robassay.audit(Reading(), (x, y), linf=1e-4, examples=12, draws=2, quiet=True)
    assert result["clean"]["value"] == 1 and result["robust"]["value"] == 1
    assert result["verdict"] in ("no_flaw_found", "undecided")


# ---------------------------------------------------------------------------------------------------------- accuracies


def test_a_constant_model_has_the_accuracy_of_its_class_and_no_attack_lowers_it(digits):
    constant = Linear(after=lambda z: torch.zeros_like(z).index_fill(1, torch.tensor([3]), 1.0))
    result = audited(constant, digits, examples=12)
    share = float((digits[1][:12] == 3).float().mean())
    assert result["clean"]["value"] == pytest.approx(share, abs=1e-6) == result["robust"]["value"]
    assert result["verdict"] in ("no_flaw_found", "undecided") and check(result, "differentiable")["flag"]


def test_a_model_at_chance_is_audited_to_the_end(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result = audited(Linear(), digits)
    assert result["clean"]["value"] < 0.4 and result["robust"]["value"] <= result["clean"]["value"]
    assert result["robust"]["value"] < 0.1 and result["verdict"] != "artefact"


def test_labels_beyond_the_models_classes_are_refused(digits):
    with pytest.raises(UsageError, match=r"label \d, the model has 3 logits"):
        audited(Linear(layer=nn.Linear(64, 3)), digits)


def test_logits_come_back_as_floats_on_the_images_device(digits):
    module = Linear(after=lambda z: z.double().to("cpu"))
    model = Wrapped(module, 10, stochastic=False)
    assert model(digits[0]).dtype == torch.float32 and model(digits[0]).device == digits[0].device


def test_a_fixed_device_that_is_not_here_is_explained(digits):
    with pytest.raises(UsageError, match=r"moves tensors to a device on its own(?s:.*)\.to\(x\.device\)"):
        probe(Linear(before=lambda x: x.to("cuda:99")), digits[0])


def test_draws_of_one_stream_are_the_same_whatever_the_module_does_to_its_input(digits):
    module = Linear(before=lambda x: x.add_(0.1), after=lambda z: z + torch.randn_like(z))
    model = as_classifier(module, probe(module, digits[0]), digits[0])
    found = [model.sample(model.prefix(digits[0]), 6, Stream(("again",))) for _ in range(2)]
    assert torch.equal(*found)
