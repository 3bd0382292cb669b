"""What an attack does with a goal that makes no sense and with a network that answers nonsense."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robassay.access import Decisions, Scores, White
from robassay.attacks.apgd import APGD
from robassay.attacks.boundary import Boundary
from robassay.attacks.cw import CW
from robassay.attacks.gradient import BIM, FGSM, PGD
from robassay.attacks.hopskipjump import HopSkipJump
from robassay.attacks.square import Square
from robassay.cells import Craft, Examples
from robassay.classifier import Wrapped
from robassay.errors import AttackWarning, UsageError
from robassay.estimators import Backprop
from robassay.given import held, held_data
from robassay.goals import GivenTarget, LeastLikely, RandomTarget, Untargeted
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.threat import Goal, Threat

RNG = Stream(("test", "attack inputs"))
SHAPE = (1, 4, 4)
GRADIENT = [FGSM(), BIM(), PGD(steps=5), PGD(steps=5, momentum=0.9), APGD(steps=10), CW(search=2, steps=10)]


class Net(nn.Module):
    """Three classes by a fixed linear layer; a spoilt corner pixel can make some of its numbers NaN."""

    def __init__(self, spoil: str = "") -> None:
        super().__init__()
        with RNG.child("weights").active():
            self.layer = nn.Linear(16, 3)
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        marked = (x[:, 0, 0, 0] > 0.9).float()[:, None]
        if self.spoil == "gradient":  # 0 where marked, but the slope of the root is infinite there, and 0 · ∞ is NaN
            logits = logits + 0 * ((1 - marked) * x.flatten(1)[:, :1]).clamp_min(0).sqrt()
        if self.spoil == "logits":
            logits = logits + torch.where(x.flatten(1)[:, 1:2] > 0.55, torch.nan, 0.0)
        return logits.softmax(-1) if self.spoil == "softmax" else logits


def images(n: int) -> Tensor:
    x = 0.3 + 0.2 * torch.rand(n, *SHAPE, generator=RNG.child("x").generator())
    x[0, 0, 0, 0] = 1.0
    return x


def crafted(attack: Any, model: nn.Module, x: Tensor, goal: Goal, access: Any = None) -> tuple[Tensor, Any]:
    threat = Threat("l2") if isinstance(attack, (CW, Boundary, HopSkipJump)) else Threat("linf", 0.2)
    opened = (access or White()).open([Wrapped(model.requires_grad_(False), 3, stochastic=False)], len(x))
    return attack(opened, x, goal, threat, RNG), opened


def labels(x: Tensor) -> Tensor:
    return Net()(x).argmax(1).detach()


# ------------------------------------------------------------------------------------------------------------- goals


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(4, 1, dtype=torch.int64), r"int64 of shape \(4, 1\)"),
        (torch.zeros(4), "float32"),
        (torch.zeros((), dtype=torch.int64), r"shape \(\)"),
        (torch.zeros(4, 3, dtype=torch.int64), r"one_hot.argmax"),
    ],
)
def test_labels_of_another_shape_are_refused(given: Tensor, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Goal(given)


@pytest.mark.parametrize("attack", [*GRADIENT, Square(queries=10), Boundary(queries=60), HopSkipJump(queries=60)])
@pytest.mark.parametrize("n", [1, 3])
def test_another_number_of_labels_is_refused_instead_of_broadcast(attack: Any, n: int) -> None:
    access = Scores() if isinstance(attack, Square) else Decisions() if hasattr(attack, "starts") else White()
    with pytest.raises(UsageError, match=f"{n} labels, the batch has 5 images"):
        crafted(attack, Net(), images(5), Goal(torch.zeros(n, dtype=torch.int64)), access)


def test_a_target_equal_to_the_true_label_is_refused_or_replaced() -> None:
    y, x = torch.tensor([0, 1, 2, 1]), images(4)
    with pytest.raises(UsageError, match="2 of 4 images are of class 1, which is the target"):
        GivenTarget(1).goal(y, 3, None, x, RNG)
    assert GivenTarget(1, instead=0).goal(y, 3, None, x, RNG).labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(UsageError, match="classes 0 to 2"):
        GivenTarget(3).goal(y, 3, None, x, RNG)
    with pytest.raises(UsageError, match="the target itself"):
        GivenTarget(1, instead=1)
    opened = White().open([Wrapped(Net(), 3, stochastic=False)], 4)
    for aim in (RandomTarget(), LeastLikely()):
        goal = aim.goal(y, 3, opened, x, RNG)
        assert goal.targeted and (goal.labels != y).all()


def test_every_aim_hands_its_confidence_on() -> None:
    opened = White().open([Wrapped(Net(), 3, stochastic=False)], 4)
    for aim in (Untargeted(kappa=2.5), RandomTarget(kappa=2.5), LeastLikely(kappa=2.5), GivenTarget(1, 0, kappa=2.5)):
        assert aim.goal(torch.tensor([0, 1, 2, 1]), 3, opened, images(4), RNG).kappa == 2.5


def test_random_targets_are_uniform_and_belong_to_their_images() -> None:
    x = torch.rand(3000, 1, 2, 2, generator=RNG.child("many").generator())
    y = torch.zeros(3000, dtype=torch.int64)
    found = RandomTarget().goal(y, 4, None, x, RNG).labels
    counts = found.bincount(minlength=4)
    assert counts[0] == 0 and ((counts[1:] - 1000).abs() < 4.5 * (3000 * 2 / 9) ** 0.5).all()
    order = torch.randperm(3000, generator=RNG.child("order").generator())
    assert torch.equal(RandomTarget().goal(y, 4, None, x[order], RNG).labels, found[order])


# -------------------------------------------------------------------------------------------------- nonsense answers


@pytest.mark.parametrize("attack", GRADIENT)
def test_a_nan_gradient_stops_its_own_image_only(attack: Any) -> None:
    x = images(6)
    y = labels(x)
    found, opened = crafted(attack, Net("gradient"), x, Goal(y))
    clean, _ = crafted(attack, Net(), x, Goal(y))
    assert found.isfinite().all()
    assert torch.equal(found[1:], clean[1:])
    assert opened.broken[0] > 0 and (opened.broken[1:] == 0).all()
    if not isinstance(attack, CW):
        assert Threat("linf", 0.2).holds(found, x).all()


def test_a_nan_gradient_is_told_to_the_user_and_kept(tmp_path: Any, capsys: Any) -> None:
    x = images(6)
    on = Examples(held_data(x, labels(x)), "test", 0, 6)
    craft = Craft((held(Net("gradient"), on),), on, FGSM(), Threat("linf", 0.2))
    store, said = Store(tmp_path), "the gradient was NaN or infinite for 1 of 6 images, in 1 steps"
    assert not carry_out([craft], store, 0, quiet=True).failed
    assert capsys.readouterr().err.count(said) == 1
    (about,) = [json.loads(f.read_text()) for f in tmp_path.glob(f"cells/**/{craft.key}/cell.json")]
    assert said in about["warnings"][0]


@pytest.mark.parametrize("attack", [PGD(steps=8), APGD(steps=10), Square(queries=60), CW(search=2, steps=20)])
def test_nan_logits_never_count_as_success(attack: Any) -> None:
    """The net answers NaN for part of the ball; arg-max calls that class 0, which is wrong for these labels."""
    x = images(6)
    y = labels(x)
    assert (y != 0).any()
    net = Net("logits")
    found, _ = crafted(attack, net, x, Goal(y), Scores() if isinstance(attack, Square) else White())
    assert net(found).isfinite().all()


@pytest.mark.parametrize("access", [White(Backprop()), Scores()])
def test_probabilities_are_told_once(access: Any) -> None:
    x = images(6)
    attack = Square(queries=20) if isinstance(access, Scores) else PGD(steps=5)
    with pytest.warns(AttackWarning, match="returns probabilities") as told:
        crafted(attack, Net("softmax"), x, Goal(labels(x)), access)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crafted(attack, Net(), x, Goal(labels(x)), access)


def test_an_image_without_a_start_comes_back_unbroken_and_its_mates_are_not_harmed() -> None:
    class Stubborn(Net):
        def forward(self, x: Tensor) -> Tensor:
            marked = (x[:, 0, 0, 0] > 2).float()[:, None]  # never: every image within the box is of class 0 …
            logits = super().forward(x)
            return logits if self.spoil == "easy" else torch.zeros_like(logits) + torch.tensor([9.0, 0, 0]) + marked

    x = images(4)
    for attack in (Boundary(queries=200), HopSkipJump(queries=200)):
        found, opened = crafted(attack, Stubborn(), x, Goal(torch.zeros(4, dtype=torch.int64)), Decisions())
        assert torch.equal(found, x)
        assert (opened.spent.queries <= 200).all() and (opened.spent.queries > 1).all()
