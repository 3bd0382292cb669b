"""APGD: exact on linear models, its step control by hand, as strong as the authors' own on deterministic nets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quick import digits_net
from torch import Tensor, nn

from robassay.access import White
from robassay.attacks.apgd import APGD, _State, checkpoints, targeted_dlr
from robassay.attacks.gradient import PGD
from robassay.classifier import Classifier, Wrapped
from robassay.data import find, pixels
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.rng import Stream
from robassay.testing import check_attack
from robassay.threat import Goal, Threat

RNG = Stream(("test", "apgd"))
DIGITS = find("digits").split("test")
X, Y = pixels(DIGITS.x[:150]), DIGITS.y[:150]


def attacked(attack: Any, model: Classifier, threat: Threat, x: Tensor = X, y: Tensor = Y, draws: int = 1) -> Any:
    access = White(Backprop(draws)).open([model], len(x))
    return attack(access, x, Goal(y), threat, RNG), access.spent


def accuracy(model: Classifier, x: Tensor, draws: int = 1) -> float:
    with torch.no_grad():
        logits = model.sample(model.prefix(x), draws, RNG.child("judge"))
    return float((logits.argmax(-1) == Y).float().mean())


def trained(make: Any) -> Classifier:
    """A net on digits, a second of training."""
    return Wrapped(digits_net(make), 10, stochastic=False)


NETS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    "relu": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10)),
    "conv": lambda: nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)),
}


@pytest.fixture(scope="module")
def nets() -> dict[str, Classifier]:
    return {name: trained(make) for name, make in NETS.items()}


def test_checkpoints_follow_the_paper():
    """Shares .22, .41, .57, .70, .80, .87, .93, .99 of 100 steps."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == []


def test_a_stalled_example_goes_back_with_half_the_step():
    now = torch.zeros(2, 1, 1, 1)
    state = _State(now.clone(), now.clone(), now.clone(), torch.ones(2))
    rows = torch.arange(2)
    for height in ((0.0, 0.0), (1.0, 1.0), (2.0, 0.5), (3.0, 0.4), (4.0, 0.3)):
        state.now = torch.tensor(height).reshape(2, 1, 1, 1)
        state.see(rows, state.now, torch.tensor(height), state.now)
    assert state.rises.tolist() == [4, 1]
    state.judge(rows, 4)
    assert state.size.tolist() == [1.0, 0.5]
    assert state.now.flatten().tolist() == [4.0, 1.0] == state.gradient.flatten().tolist()
    state.rises[:] = 4  # rising, but to no new height: halved where the last judgement did not halve
    state.judge(rows, 4)
    assert state.size.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "scaled_ce"])
def test_a_linear_margin_falls_by_exactly_what_the_norm_allows(norm, loss):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(64, 2)
    model = Wrapped(nn.Sequential(nn.Flatten(), layer).requires_grad_(False), 2, stochastic=False)
    x = torch.rand(20, 1, 8, 8, generator=RNG.generator()) * 0.2 + 0.4  # inside the box whatever happens
    y = model(x).argmax(1)
    w = layer.weight[0] - layer.weight[1]
    eps = 0.02 if norm == "linf" else 0.1
    drop = eps * (w.abs().sum() if norm == "linf" else w.norm())
    with torch.no_grad():
        layer.bias[int(y[0])] += 3  # nothing succeeds, so nothing stops early
    y = model(x).argmax(1)
    x_adv, _ = attacked(APGD(steps=20, loss=loss), model, Threat(norm, eps), x, y)
    margin = lambda z: -Goal(y).margin(model(z))
    assert torch.allclose(margin(x) - margin(x_adv), drop.expand(20), rtol=1e-3)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_not_weaker_than_the_authors_apgd(net, loss, nets):
    peer = pytest.importorskip("pyautoattack.autopgd_base")
    model, eps = nets[net], 0.1
    x_adv, spent = attacked(APGD(steps=40, loss=loss), model, Threat("linf", eps))
    theirs = peer.APGDAttack(model, n_iter=40, n_restarts=1, norm="Linf", eps=eps, loss=loss, device="cpu", seed=0)
    found = theirs.perturb(X, Y)
    assert accuracy(model, x_adv) <= accuracy(model, found) + 2 / len(X)  # two images of 150: the starts differ
    assert int(spent.gradients.sum()) <= 41 * len(X)
    assert Threat("linf", eps).holds(x_adv, X).all()


@pytest.mark.parametrize("net", ["relu", "conv"])
def test_targets_are_at_least_as_strong_as_the_authors(net, nets):
    peer = pytest.importorskip("pyautoattack.autopgd_base")
    model, eps = nets[net], 0.1
    x_adv, _ = attacked(APGD(steps=20, loss="dlr", targets=9), model, Threat("linf", eps))
    theirs = peer.APGDAttack_targeted(model, n_iter=20, n_restarts=1, norm="Linf", eps=eps, device="cpu", seed=0)
    assert accuracy(model, x_adv) <= accuracy(model, theirs.perturb(X, Y)) + 2 / len(X)


def test_targeted_dlr_equals_its_formula():
    logits = torch.tensor([[3.0, 1.0, 2.0, -1.0, 0.0]])
    found = targeted_dlr(torch.tensor([0]), torch.tensor([3]))(logits)
    assert found.item() == pytest.approx((-1 - 3) / (3 - (1 + 0) / 2))


class Noisy(nn.Module):
    """A net whose input is disturbed: logits of x + sd · n."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.3 * torch.randn_like(x))


def test_on_a_random_net_it_is_not_weaker_than_pgd_at_equal_cost(nets):
    model = Wrapped(Noisy(nets["relu"].module), 10, stochastic=True)
    threat = Threat("linf", 0.15)
    apgd, spent = attacked(APGD(steps=30, loss="margin"), model, threat, draws=5)
    pgd, _ = attacked(PGD(steps=30, loss="margin"), model, threat, draws=5)
    assert accuracy(model, apgd, 50) <= accuracy(model, pgd, 50) + 0.03
    # 30 gradients, one look at the end, and the choice between best and last.
    assert set(spent.gradients.tolist()) == {150} and set(spent.draws.tolist()) == {30 * 5 + 5 + 2 * 20}


def test_a_given_start_is_used_by_the_first_restart(nets):
    model, threat = nets["relu"], Threat("linf", 0.1)
    strong, _ = attacked(APGD(steps=60, loss="ce"), model, threat)
    for attack in (APGD(steps=1), PGD(steps=1)):
        access = White(Backprop()).open([model], len(X))
        access.start = strong
        continued = attack(access, X, Goal(Y), threat, RNG)
        assert accuracy(model, continued) <= accuracy(model, strong)


def test_momentum_moves_along_the_accumulated_gradient(nets):
    plain, _ = attacked(PGD(steps=10, loss="dlr"), nets["conv"], Threat("linf", 0.1))
    heavy, _ = attacked(PGD(steps=10, loss="dlr", momentum=1.0), nets["conv"], Threat("linf", 0.1))
    assert not torch.equal(plain, heavy)
    assert abs(accuracy(nets["conv"], heavy) - accuracy(nets["conv"], plain)) < 0.1


def test_bad_settings_are_explained(nets):
    with pytest.raises(UsageError, match="steps ≥ 1"):
        APGD(steps=0)
    with pytest.raises(UsageError, match="chooses its targets itself"):
        access = White().open([nets["relu"]], len(X))
        APGD(targets=3)(access, X, Goal(Y, targeted=True), Threat("linf", 0.1), RNG)


def test_it_passes_the_exam():
    check_attack(APGD(steps=20, loss="margin"))
