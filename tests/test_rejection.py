"""Detectors: what they refuse is REJECT wherever a decision is made, and an attacker can evade them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toy_nets import Deterministic, attack

from robassay.access import Decisions, White
from robassay.attacks.apgd import APGD
from robassay.attacks.cw import CW
from robassay.attacks.gradient import BIM, FGSM, PGD, strongest
from robassay.auditing import plan_audit
from robassay.cell import Context, Model, cell
from robassay.cells import Craft, Examples, Score
from robassay.classifier import Classifier, Mixture, Quiet
from robassay.data import find
from robassay.defences.magnet import threshold
from robassay.defences.region import Region
from robassay.errors import RobassayError, UsageError
from robassay.estimators import Augmented, Backprop, Evading, Ruled
from robassay.folds import rows
from robassay.models import Train
from robassay.nets.mlp import MLP
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.testing import check_estimator, exam_images
from robassay.threat import REJECT, Goal, Threat
from robassay.training import Recipe

RNG = Stream(("test",))


class Watched(Classifier):
    """Two pixels a, b: class 1 where a > .5; refused where a and b are .25 apart, and where they sum to 2 almost."""

    classes = 2

    def draw(self, h):
        a, _ = h.flatten(1).unbind(1)
        return torch.stack([torch.zeros_like(a), 10 * (a - 0.5)], 1)

    def alarms(self, x):
        a, b = x.flatten(1).unbind(1)
        return torch.stack([(a - b).abs() - 0.25, a + b - 1.9], 1)


def pairs(*values):
    return torch.tensor(values).reshape(-1, 1, 1, 2)


def test_one_alarm_at_its_threshold_is_enough():
    x = pairs((0.5, 0.5), (0.75, 0.0), (1.0, 1.0), (0.25, 0.5), (0.0, 0.125))
    assert Watched().rejects(x).tolist() == [False, True, True, True, False]
    assert not Deterministic().rejects(exam_images(3)).any() and Deterministic().alarms(exam_images(3)).shape == (3, 0)


def test_a_decision_access_sees_refusals():
    access = Decisions().open([Watched(), Quiet(Watched())], 3)
    decided = access.decisions(pairs((0.6, 0.5), (0.6, 0.0), (0.1, 0.2)), RNG)
    assert decided.tolist() == [[1, REJECT, 0]] * 2


def test_detectors_stay_where_a_model_is_wrapped_and_mixtures_refuse_them():
    x = pairs((0.6, 0.5), (0.6, 0.0))
    assert Region(0.3).around(Watched()).rejects(x).tolist() == [False, True]
    with pytest.raises(UsageError, match="around the mixture"):
        Mixture([Watched(), Watched()]).rejects(x)


# ------------------------------------------------------------------------------------------------------------- judging


class Bright(Classifier):
    """An inner classifier that refuses images of more than so much brightness."""

    def __init__(self, inner, most):
        super().__init__()
        self.inner, self.most, self.classes = inner, most, inner.classes

    def draw(self, h):
        return self.inner(h)

    def alarms(self, x):
        return x.flatten(1).mean(1, keepdim=True) - self.most


@cell
class Guard(Model):
    of: Model
    most: float

    def compute(self, ctx: Context) -> Any:
        return {"guard": torch.tensor(1)}

    def open(self, ctx: Context) -> Classifier:
        return Bright(ctx.open(self.of), self.most)


def test_a_refused_attack_has_failed_and_a_refused_clean_image_is_an_error(tmp_path):
    digits, store = find("digits"), Store(tmp_path / "s")
    trained, on = Train(MLP((30,)), digits, Recipe(epochs=3)), Examples(digits, "test", 0, 80)
    bright = on.load().x.flatten(1).float().mean(1) / 255
    guard = Guard(trained, bright.median().item())
    craft = Craft((trained,), on, FGSM(), Threat("linf", 0.2))
    scores = Score(guard, on), Score(trained, on), Score(guard, craft), Score(trained, craft)
    assert not carry_out(scores, store, 0, quiet=True).failed
    clean, open_clean, attacked, open_attacked = (rows([store.read(s.key)]) for s in scores)
    refused = clean.decisions[0] == REJECT
    assert 30 < refused.sum() <= 41 and (clean.survives()[0][refused] == 0).all()
    assert (clean.decisions[0][~refused] == open_clean.decisions[0][~refused]).all()
    caught = attacked.decisions[0] == REJECT
    assert caught.sum() > 20 and (attacked.survives()[0][caught] == 1).all()
    assert (open_attacked.survives()[0][caught] == 0).any()
    assert (attacked.decisions[0][~caught] == open_attacked.decisions[0][~caught]).all()


# ------------------------------------------------------------------------------------------------------------- evading


def test_evading_adds_the_weighted_alarms_to_loss_and_gradient():
    x, goal = pairs((0.6, 0.1), (0.3, 0.2), (1.0, 0.95)), Goal(torch.tensor([1, 0, 0]))
    plain = Backprop()(Watched(), x, goal.margin, RNG)
    found = Evading(3.0)(Watched(), x, goal.margin, RNG)
    assert torch.allclose(plain.value - found.value, 3 * torch.tensor([0.25, 0.0, 0.05]), atol=1e-6)
    slope = torch.tensor([[1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]).reshape(3, 1, 1, 2)
    assert torch.allclose(plain.gradient - found.gradient, 3 * slope, atol=1e-5)
    assert torch.equal(plain.logits, found.logits)
    assert torch.equal(Evading(0.0)(Watched(), x, goal.margin, RNG).gradient, plain.gradient)


def test_evading_keeps_an_estimators_contract():
    assert all(r.ok for r in check_estimator(Evading(inner=Backprop(3))))
    for weight in (-1.0, math.nan):
        with pytest.raises(UsageError, match="weight"):
            Evading(weight)


X, THREAT = pairs((0.2, 0.2), (0.4, 0.4)), Threat("l2")
GOAL = Goal(torch.zeros(2, dtype=torch.long))


def test_cw_is_detected_until_it_evades_and_then_finds_the_closest_undetected_image():
    plain, _ = attack(CW(), Watched(), X, GOAL, THREAT)
    assert (Watched()(plain).argmax(1) == 1).all()
    assert Watched().rejects(plain).tolist() == [True, False]
    patient = CW(steps=150, abort_early=False)
    aware, _ = attack(patient, Watched(), X, GOAL, THREAT, Evading())
    assert (Watched()(aware).argmax(1) == 1).all() and not Watched().rejects(aware).any()
    # Both conditions bind: a = .5, b = .25. For the other image a = .5 is enough.
    closest = torch.tensor([math.hypot(0.3, 0.05), 0.1])
    assert (THREAT.size(aware, X) >= closest - 1e-4).all() and (THREAT.size(aware, X) <= 1.01 * closest).all()


def test_cw_keeps_no_refused_image_even_where_the_alarms_weigh_little():
    aware, _ = attack(CW(), Watched(), X, GOAL, THREAT, Evading(0.5))
    assert (Watched()(aware).argmax(1) == 1).all() and not Watched().rejects(aware).any()


@pytest.mark.parametrize(
    "method",
    [
        PGD(steps=60, step=0.02, random_start=False),
        PGD(steps=60, step=0.02, restarts=2),
        APGD(steps=100, loss="ce"),
        BIM(steps=60, step=0.02, early=True),
    ],
    ids=["pgd", "restarts", "apgd", "early"],
)
def test_gradient_attacks_keep_an_image_that_passes(method):
    x, goal = pairs((0.2, 0.2)), Goal(torch.tensor([0]))
    aware, _ = attack(method, Watched(), x, goal, Threat("linf", 0.35), Evading())
    assert Watched()(aware).argmax(1).tolist() == [1] and not Watched().rejects(aware).any()
    straight, _ = attack(FGSM(), Watched(), x, goal, Threat("linf", 0.35))
    assert Watched()(straight).argmax(1).tolist() == [1] and Watched().rejects(straight).all()


def test_of_several_candidates_one_that_passes_is_kept():
    seen, passes = pairs((0.9, 0.0)), pairs((0.6, 0.5))
    for estimator, kept in ((Evading(), passes), (Backprop(), seen)):
        access = White(estimator).open([Watched()], 1)
        assert torch.equal(strongest(access, Goal(torch.tensor([0])), [passes, seen], RNG, 5), kept)


def test_an_attacker_who_does_not_evade_is_not_told():
    access = White().open([Watched()], 1)
    assert access.undetected(pairs((0.9, 0.0))).tolist() == [True]
    assert White(Evading()).open([Watched(), Deterministic()], 1).undetected(pairs((0.9, 0.0))).tolist() == [False]


def test_an_estimator_around_an_evading_one_evades():
    for around in (Ruled(inner=Evading()), Augmented(copies=2, inner=Evading())):
        assert around.evades and not White(around).open([Watched()], 1).undetected(pairs((0.9, 0.0))).any()
    assert not Ruled().evades and not Augmented().evades


def test_an_alarm_that_is_no_number_is_one():
    class Broken(Watched):
        def alarms(self, x):
            return torch.full((len(x), 2), torch.nan)

    assert Broken().rejects(pairs((0.1, 0.9))).all()
    with pytest.raises(RobassayError, match="1 of 1000 validation scores are not finite"):
        threshold(torch.cat([torch.rand(999), torch.tensor([torch.nan])]), 0.01)


def test_an_audit_evades_the_detectors_it_finds(tmp_path):
    digits, store = find("digits"), Store(tmp_path / "s")
    trained, on = Train(MLP((30,)), digits, Recipe(epochs=1)), Examples(digits, "test", 0, 40)
    for model, evades in ((Guard(trained, 0.5), True), (trained, False)):
        item = plan_audit(model, on, Threat("linf", 0.1), "quick", 10, 0.05, store, "audit")
        crafts = [e[0].on for e in (item.adequate, *item.battery.values())]
        whites = [c for c in crafts if isinstance(c.access, White) and c.sources == (model,)]
        found = [c.access.estimator.evades for c in whites]
        assert found == [evades] * 8 and not item.claimed[0].on.access.estimator.evades
