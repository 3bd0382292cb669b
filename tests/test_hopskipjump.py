"""HopSkipJump: the exact distance on a linear model in both norms, a normal that points the right way."""

from __future__ import annotations

import pytest
import torch
from test_boundary import attacked, linear

from robassay.access import Decisions
from robassay.attacks.accept import Single
from robassay.attacks.decisions import Begun, Numbers, Questions
from robassay.attacks.hopskipjump import HopSkipJump, _Hops
from robassay.errors import UsageError
from robassay.rng import Stream
from robassay.testing import check_attack
from robassay.threat import Goal, Threat

RNG = Stream(("test", "hopskipjump"))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_reaches_the_distance_of_a_linear_boundary(norm):
    model, x, y, exact = linear()
    threat = Threat(norm)
    if norm == "linf":
        w = model.layers[1].weight[0] - model.layers[1].weight[1]
        exact = exact * w.norm() / w.abs().sum()
    before = x.clone()
    x_adv, _ = attacked(HopSkipJump(queries=4000), model, x, Goal(y), threat)
    assert (model(x_adv).argmax(1) != y).all()
    assert torch.equal(x, before)
    assert (x_adv >= 0).all() and (x_adv <= 1).all()
    ratio = threat.size(x_adv, x) / exact
    assert ratio.min() >= 0.999
    assert ratio.mean() <= (1.03 if norm == "l2" else 1.1)


def test_the_estimated_normal_is_the_models():
    """On the boundary of a linear model the cosine with w is about √(2n / (2n + πd)), here .95."""
    model, x, y, exact = linear()
    w = model.layers[1].weight[1] - model.layers[1].weight[0]
    toward = torch.where(y == 0, 1.0, -1.0)[:, None] * w / w.norm()
    now = x + ((1 + 1e-5) * exact[:, None] * toward).reshape(x.shape)
    ask = Questions(Decisions().open([model], len(x)), x, Goal(y), RNG, 2000, Single())
    every = torch.ones(len(x), dtype=torch.bool)
    hops = _Hops(ask, Begun(now.clone(), every, every), Threat("l2"), Numbers(x, RNG, 2000), 0.05)
    hops.now = now
    found = hops._normal(torch.arange(len(x)), 1000).flatten(1)
    assert ((found * toward).sum(1) > 0.9).all()


def test_bad_settings_are_explained():
    model, x, y, _ = linear()
    with pytest.raises(UsageError, match="first ≤ most"):
        HopSkipJump(first=10, most=5)
    with pytest.raises(UsageError, match="l0"):
        attacked(HopSkipJump(), model, x, Goal(y), Threat("l0", 3))


@pytest.mark.parametrize("threat", [Threat("l2"), Threat("linf"), Threat("linf", 0.1)], ids=str)
def test_it_passes_the_exam(threat):
    check_attack(HopSkipJump(queries=200, first=20), threat)
