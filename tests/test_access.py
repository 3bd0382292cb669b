"""Access: what an attacker may ask, and the count of every question."""

from __future__ import annotations

import pytest
import torch

from robassay.access import (
    Attack,
    DecisionAccess,
    Decisions,
    GradientAccess,
    ScoreAccess,
    Scores,
    White,
    check_match,
)
from robassay.attacks.gradient import FGSM
from robassay.errors import UsageError
from robassay.estimators import Augmented, Backprop, Cost, Differences
from robassay.policy import MeanOf, Once, Rejecting, VoteOf
from robassay.rng import Stream
from robassay.testing import ExamNet, exam_images
from robassay.threat import REJECT, Goal

X = exam_images(6)
GOAL = Goal(torch.tensor([0, 1, 2, 3, 0, 1]))


@pytest.mark.parametrize(
    ("estimator", "noise", "expected"),
    [
        (Backprop(), 0.0, Cost(1, 1)),
        (Backprop(5), 0.0, Cost(1, 1)),  # a deterministic classifier is asked once
        (Backprop(5), 0.5, Cost(5, 5)),
        (Backprop(5, "logits"), 0.5, Cost(10, 5)),
        (Backprop(5, "probs"), 0.0, Cost(2, 1)),
        (Augmented(copies=3, inner=Backprop(2)), 0.5, Cost(8, 6)),
        (Differences(pairs=4, draws=2), 0.5, Cost(18, 0)),
    ],
    ids=repr,
)
def test_every_pass_is_counted(estimator, noise, expected):
    net = ExamNet(noise=noise)
    access = White(estimator).open([net], 6)
    access.direction(X, GOAL.margin, Stream())
    assert access.spent.queries.tolist() == [1] * 6
    assert access.spent.draws.tolist() == [expected.draws] * 6 and access.spent.gradients.tolist() == [expected[1]] * 6
    assert (net.forwards, net.backwards) == (6 * expected.draws, 6 * expected.gradients)


def test_questions_are_counted_for_the_rows_asked_about():
    net = ExamNet(noise=0.5)
    access = White(Backprop(3)).open([net], 6)
    rows = torch.tensor([4, 1])
    access.direction(X[rows], GOAL[rows].margin, Stream(), rows)
    access.logits(X[rows[:1]], Stream(), 7, rows[:1])
    assert access.spent.queries.tolist() == [0, 1, 0, 0, 2, 0]
    assert access.spent.draws.tolist() == [0, 3, 0, 0, 10, 0]
    assert access.spent.gradients.tolist() == [0, 3, 0, 0, 3, 0]
    assert access.spent.draws.sum() == net.forwards


def test_several_models_are_summed_and_each_is_counted():
    nets = [ExamNet(), ExamNet(noise=0.5), ExamNet((3, 4, 4), shift=3.0)]
    access = White(Backprop(4)).open(nets, 6)
    rng = Stream(("a",))
    found = access.direction(X, GOAL.cross_entropy, rng)
    alone = [Backprop(4)(net, X, GOAL.cross_entropy, rng.child("model", i)) for i, net in enumerate(nets)]
    assert torch.allclose(found.gradient, sum(a.gradient for a in alone), atol=1e-6)
    assert torch.allclose(found.value, sum(a.value for a in alone), atol=1e-5)
    assert torch.equal(found.logits, torch.cat([a.logits for a in alone]))
    assert found.cost == Cost(6, 6)
    assert access.spent.draws.tolist() == [6] * 6 and access.spent.queries.tolist() == [3] * 6
    assert access.logits(X, rng, 5).shape == (7, 6, 4)
    assert access.stochastic and not access.coupled
    assert White().open([ExamNet(), ExamNet(coupled=True)], 6).coupled


def test_the_models_of_a_sum_draw_noise_of_their_own():
    twins = [ExamNet(noise=0.5), ExamNet(noise=0.5)]
    logits = White(Backprop()).open(twins, 6).direction(X, GOAL.margin, Stream()).logits
    assert not torch.allclose(logits[0], logits[1])


def test_the_mean_gradient_attack_on_a_mixture_is_its_members_summed():
    """Tan et al. 2020, V: sign of the mean over members of the gradient of the cross-entropy."""
    members = [ExamNet(), ExamNet(classes=4, noise=0.5)]
    access = White(Backprop(20)).open(members, 6)
    found = access.direction(X, GOAL.cross_entropy, Stream()).gradient / 2
    image = X.clone().requires_grad_()
    (quiet,) = torch.autograd.grad(GOAL.cross_entropy(members[0](image)).sum(), image)
    noisy = Backprop(400)(members[1], X, GOAL.cross_entropy, Stream(("b",))).gradient
    cosine = torch.nn.functional.cosine_similarity(found.flatten(1), ((quiet + noisy) / 2).flatten(1))
    assert (cosine > 0.97).all()


def test_scores_are_logits_of_single_passes():
    net = ExamNet(noise=0.5)
    access = Scores(MeanOf(5)).open([net], 6)
    logits = access.scores(X, Stream())
    assert logits.shape == (5, 6, 4) and not logits.requires_grad
    assert access.spent.draws.tolist() == [5] * 6 and net.forwards == 30
    assert access.spent.gradients.sum() == 0
    assert Scores(MeanOf(5)).open([ExamNet()], 6).scores(X, Stream()).shape == (1, 6, 4)


def test_decisions_are_the_policys_labels():
    net = ExamNet(noise=0.5)
    access = Decisions(VoteOf(5)).open([net, ExamNet()], 6)
    found = access.decisions(X, Stream(("a",)), None)
    assert found.shape == (2, 6) and found.dtype == torch.int64
    logits = net.sample(X, 5, Stream(("a", "model", 0)))
    assert torch.equal(found[0], VoteOf(5).decide(logits))
    assert torch.equal(found[1], ExamNet()(X).argmax(1))
    assert access.spent.draws.tolist() == [6] * 6
    refused = Decisions(Rejecting(Once(), 1.0)).open([ExamNet()], 6).decisions(X, Stream())
    assert (refused == REJECT).all()


def test_knowledge_is_enforced_by_type():
    scores, decisions = Scores().open([ExamNet()], 6), Decisions().open([ExamNet()], 6)
    for access, hidden in ((scores, ("direction", "decisions")), (decisions, ("direction", "scores", "logits"))):
        for name in hidden:
            assert name not in dir(access)


def test_an_attack_and_its_access_must_match():
    class Blind(Attack):
        access = None

        def __call__(self, access, x, goal, threat, rng):
            return x

    class ByLabel(Blind):
        access = DecisionAccess

    class ByScore(Blind):
        access = ScoreAccess

    check_match(FGSM(), White())
    check_match(Blind(), None)
    check_match(ByLabel(), Decisions(VoteOf(3)))
    check_match(ByScore(), Scores())
    for attack, access, message in (
        (FGSM(), Scores(), r"FGSM needs access=White\(…\), it was given Scores"),
        (FGSM(), None, "it was given None"),
        (Blind(), White(), "needs access=None, it was given White"),
        (ByLabel(), Scores(), r"needs access=Decisions\(…\)"),
        (ByScore(), White(), r"needs access=Scores\(…\)"),
    ):
        with pytest.raises(UsageError, match=message):
            check_match(attack, access)
    assert (White().label, Scores().label, Decisions().label) == ("white", "scores", "decisions")
    assert isinstance(White().open([ExamNet()], 1), GradientAccess)


def test_access_is_a_value():
    assert White(Backprop(5)) == White(Backprop(5)) != White(Backprop(6))
    assert len({Decisions(Once()), Decisions(Once()), Decisions(VoteOf(3))}) == 2
