"""Short of memory: passes in parts give the same results, and only those are divided that may be."""

from __future__ import annotations

import json
import types

import pytest
import torch

import robassay as ra
from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.cell import Model, cell
from robassay.chunks import counted
from robassay.classifier import Classifier
from robassay.estimators import Backprop, Ruled
from robassay.models import Quieted, Train
from robassay.nets.bnn import BNND
from robassay.nets.cnn import SmallCNN
from robassay.nets.mlp import MLP
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.rules import Rectangle, Triangle, acting
from robassay.run.devices import TooLarge, check_share, device_of, flags, settle, within_memory
from robassay.run.worker import compute, forget
from robassay.store import Store
from robassay.threat import GoalLoss

DATA = ra.find("digits")
ON = ra.Examples(DATA, "test", 0, 20)
THREAT = ra.Threat("linf", 0.1)
MACHINE = types.SimpleNamespace(rows=10**6, shown=[])
"""How many rows of a pass the memory of this test's device takes, and those it was shown."""


class Tight(Classifier):
    """A small random network; its device runs out of memory as a GPU does."""

    classes = 10
    rows = "independent"

    def __init__(self, stochastic: bool, coupled: bool, late: bool) -> None:
        super().__init__()
        with Stream(("tight",)).active():
            self.first, self.last = torch.nn.Linear(64, 32), torch.nn.Linear(32, 10)
        self.stochastic, self.coupled, self.late = stochastic, coupled, late

    def prefix(self, x):
        return self._features(x) if self.late else x

    def draw(self, h):
        logits = self.last(h if self.late else self._features(h))
        logits = logits - logits.mean(0) if self.coupled else logits
        return logits + torch.randn_like(logits) if self.stochastic else logits

    def _features(self, x):
        MACHINE.shown.append(len(x))
        if len(x) > MACHINE.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …")
        return self.first(x.flatten(1)).tanh()


@cell
class Tightly(Model):
    """Opens a Tight network. With ``late`` noise the large part is the prefix."""

    stochastic: bool = False
    coupled: bool = False
    late: bool = False

    def compute(self, ctx):
        return {"x": torch.zeros(1)}

    def open(self, ctx):
        return Tight(self.stochastic, self.coupled, self.late)


@pytest.fixture(autouse=True)
def _machine():
    MACHINE.rows, MACHINE.shown = 10**6, []
    forget()
    yield
    forget()


def attacked(model: Model, **fields):
    craft = ra.Craft((model,), ON, PGD(steps=3), THREAT, White(Backprop(**fields)))
    return [model, craft, ra.Score(model, craft, repeats=3)]


def bytes_of(cells, folder, rows: int) -> tuple[list[bytes], list[dict]]:
    MACHINE.rows, MACHINE.shown = rows, []
    forget()
    store = Store(folder)
    for one in cells:
        done = compute(one, store, torch.device("cpu"))
        assert done.error is None, done.error
    files = [(store.folder(c.key) / "out.safetensors").read_bytes() for c in cells]
    return files, [store.about(c.key) for c in cells]


@pytest.mark.parametrize(
    ("model", "rows"), [(Tightly(), 19), (Tightly(), 5), (Tightly(stochastic=True, late=True), 1)], ids=str
)
def test_short_memory_halves_the_passes_and_changes_no_byte(tmp_path, model, rows):
    whole, about = bytes_of(attacked(model), tmp_path / "whole", 10**6)
    assert set(MACHINE.shown) >= {20} and all("rows_per_pass" not in one for one in about)
    parts, about = bytes_of(attacked(model), tmp_path / "parts", rows)
    assert whole == parts
    fitting = next(n for n in (20, 10, 5, 2, 1) if n <= rows)
    assert [one.get("rows_per_pass") for one in about[1:]] == [fitting, fitting]
    assert max(n for n in MACHINE.shown if n <= rows) == fitting


@pytest.mark.parametrize("model", [Tightly(stochastic=True), Tightly(coupled=True), Tightly(coupled=True, late=True)])
def test_what_cannot_be_divided_fails_with_advice_instead_of_other_noise(tmp_path, model):
    MACHINE.rows = 10
    done = compute(attacked(model)[1], store := Store(tmp_path / "s"), torch.device("cpu"))
    assert done.too_large and "cannot be divided without changing its result" in done.error
    assert "--gpu 1" in done.error and "\n" not in done.error
    # Once more after memory was released; once more with an empty prefix divided, which the noisy model has.
    assert MACHINE.shown == [20] * (2 if model.coupled else 3)
    assert store.failures()


def test_memory_is_released_first_and_a_cell_that_then_fits_is_not_divided(tmp_path):
    """What lies around may have been the reason: random numbers begin anew, too."""
    calls = []

    def work():
        with Stream(("cell", "x")).active():
            drawn = torch.rand(1).item()
            calls.append(drawn)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return drawn

    released = []
    assert within_memory(work, lambda: released.append(1)) == (calls[0], None)
    assert calls[0] == calls[1] and released == [1]


def test_no_row_left_to_give_up(tmp_path):
    MACHINE.rows = 0
    done = compute(attacked(Tightly())[1], Store(tmp_path / "s"), torch.device("cpu"))
    assert done.too_large and "even with 1 rows a pass" in done.error
    assert MACHINE.shown[-1] == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 12 bytes")])
def test_a_computer_short_of_memory_is_told_like_a_gpu(error):
    def work():
        raise error

    with pytest.raises(TooLarge, match="out of memory"):
        within_memory(work, lambda: None)


def test_other_errors_are_not_tried_again():
    calls = []

    def work():
        calls.append(1)
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(work, lambda: None)
    assert len(calls) == 1


@pytest.mark.parametrize("net", [SmallCNN(), MLP(), BNND()], ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("rule", [None, Rectangle()], ids=["own rule", "attacker's rule"])
def test_gradients_in_parts_are_those_of_whole_passes(net, rule):
    """Own networks on 8×8 images: 7 rows at a time, so that the last part is smaller."""
    with Stream(("net",)).active():
        model = net.build((1, 8, 8), 10).eval().requires_grad_(False)
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    estimator = Backprop() if rule is None else Ruled(rule, Backprop())
    goal = ra.Goal(torch.arange(20) % 10)

    def direction():
        return estimator(model, x, GoalLoss(goal, "ce"), Stream(("d",)))

    whole = direction()
    with counted() as rows:
        direction()
        assert rows.largest == 20 and rows.halve() and rows.limit == 10
        rows.limit = 7
        parts = direction()
        assert rows.divided
    assert whole.gradient.abs().max() > 0
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-4, atol=1e-7)


def test_parts_keep_the_rule_of_their_forward_pass():
    """The gradient is asked for where the attacker's rule is no longer in force, as in one of autograd's threads."""
    with Stream(("net",)).active():
        model = BNND().build((1, 8, 8), 10).eval().requires_grad_(False)
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def gradient(rule):
        image = x.clone().requires_grad_()
        with acting(rule):
            out = model.fold(model.features(image), 1)[0]
        return torch.autograd.grad(out[:, 0].sum(), image)[0]

    whole = gradient(Triangle(0.3))
    assert not torch.allclose(whole, gradient(Rectangle(2.0)), rtol=1e-2)
    with counted() as rows:
        rows.limit = 7
        parts = gradient(Triangle(0.3))
        assert rows.divided
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)


def test_training_is_never_divided():
    """Batch norm's statistics are those of a batch; the gradient of weights would be lost."""
    with Stream(("net",)).active():
        model = SmallCNN().build((1, 8, 8), 10)
    x = torch.rand(20, 1, 8, 8)
    with counted() as rows:
        rows.limit = 5
        model.train()
        model(x).sum().backward()
        model.fold(x.requires_grad_(), 1).sum().backward()
        model.eval()
        model.fold(x, 1).sum().backward()
        assert not rows.divided and rows.largest == 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.grad is not None)


def test_cells_that_run_no_network_claim_no_gpu():
    train = Train(MLP(), DATA, Recipe(epochs=1))
    assert device_of(train, "cuda") == device_of(ra.Score(train, ON), "cuda:1"[:4]) == "cuda"
    assert device_of(Quieted(train), "cuda") == "cpu"


def test_a_share_is_in_range_and_a_promised_gpu_must_be_there(monkeypatch):
    for share in (0.0, -1.0, 1.5):
        with pytest.raises(ra.UsageError, match="share of a GPU"):
            check_share(share)
    check_share(0.25)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ra.UsageError, match="--gpu 0"):
        settle(torch.device("cuda"))
    settle(torch.device("cpu"))
    assert flags(torch.device("cpu")) == {}


def test_settled_flags_are_stated(monkeypatch):
    """As on a machine with a GPU; what torch is told is put back."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        settle(torch.device("cuda"))
        said = flags(torch.device("cuda"))["flags"]
        assert said["deterministic"] and not said["benchmark"] and not said["tf32"]
        json.dumps(said)
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn = torch.backends.cudnn
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
