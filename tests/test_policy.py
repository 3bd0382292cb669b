"""Policies: how draws become a decision."""

from __future__ import annotations

import pytest
import torch

from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.policy import MeanOf, Once, Rejecting, Untied, VoteOf
from robassay.rng import Stream
from robassay.threat import REJECT

# Three draws of one image over three classes. Two draws lean to 0, one is certain of 1: the vote says 0; the mean
# probability is .45 for class 0, .52 for class 1; the mean logits are 2 and 1.73, for class 0.
DISAGREEING = torch.tensor([[[3.0, 2.3, -9.0]], [[3.0, 2.3, -9.0]], [[0.0, 0.6, -9.0]]])


def test_once_takes_the_largest_logit_and_the_smaller_label_of_equals():
    logits = torch.tensor([[[0.0, 2.0, 2.0], [5.0, 1.0, 5.0], [-3.0, -2.0, -1.0]]])
    assert Once().decide(logits).tolist() == [1, 0, 2]
    assert Once().decide(logits).dtype == torch.int64


def test_untied_refuses_equal_largest_logits_only():
    logits = torch.tensor([[[0.0, 0.0, 0.0], [5.0, 1.0, 5.0], [1.0, 1.0, 2.0], [-3.0, -2.0, -1.0]]])
    assert Untied().decide(logits).tolist() == [REJECT, REJECT, 2, 2]
    with pytest.raises(UsageError, match="one draw"):
        Untied(2)


def test_mean_of_probabilities_and_of_logits_differ():
    logits = torch.tensor([[[10.0, 0.0]], [[-3.0, 0.0]], [[-3.0, 0.0]]])
    # Mean logits: 4/3 > 0. Mean probability of class 0: (1 + .047 + .047) / 3 = .365.
    assert MeanOf(3, "logits").decide(logits).item() == 0
    assert MeanOf(3, "probs").decide(logits).item() == 1


def test_mean_of_logits_is_not_the_vote():
    logits = torch.tensor([[[10.0, 0.0]], [[-3.0, 0.0]], [[-3.0, 0.0]]])
    assert VoteOf(3).decide(logits).item() == 1
    assert VoteOf(3).decide(DISAGREEING).item() == 0
    assert MeanOf(3, "logits").decide(DISAGREEING).item() == 0


def test_vote_counts_labels_and_ties_go_to_the_smaller_one():
    labels = torch.tensor([[2, 1, 0], [1, 1, 2], [2, 0, 2], [1, 2, 0]])  # four draws, three images
    logits = torch.nn.functional.one_hot(labels, 3).float()
    assert VoteOf(4).decide(logits).tolist() == [1, 1, 0]


@pytest.mark.parametrize("policy", [Once(), MeanOf(4), MeanOf(4, "logits"), VoteOf(4)], ids=repr)
def test_an_image_is_decided_alone(policy):
    logits = torch.randn(policy.draws, 9, 5, generator=torch.Generator().manual_seed(0))
    together = policy.decide(logits)
    assert together.tolist() == [policy.decide(logits[:, i : i + 1]).item() for i in range(9)]


def test_rejecting_refuses_what_is_unsure_in_the_mean():
    sure, unsure = [9.0, 0.0], [0.1, 0.0]
    logits = torch.tensor([[sure, unsure, sure], [sure, unsure, unsure]])
    policy = Rejecting(MeanOf(2), confidence=0.9)
    assert policy.draws == 2
    assert policy.decide(logits).tolist() == [0, REJECT, REJECT]
    assert Rejecting(VoteOf(2), confidence=0.0).decide(logits).tolist() == [0, 0, 0]
    assert policy.decide(logits).dtype == torch.int64


def test_rejections_survive_an_outer_policy():
    logits = torch.tensor([[[0.1, 0.0], [9.0, 0.0]]])
    assert Rejecting(Rejecting(Once(), 0.9), 0.2).decide(logits).tolist() == [REJECT, 0]


def test_impossible_policies_are_refused():
    for make in (
        lambda: Once(2),
        lambda: MeanOf(0),
        lambda: VoteOf(-1),
        lambda: MeanOf(3, "votes"),
        lambda: Rejecting(Once(), 1.5),
        lambda: Rejecting(Once(), float("nan")),
    ):
        with pytest.raises(UsageError, match="Write"):
            make()


def test_a_deterministic_classifier_decides_alike_under_every_policy():
    class Fixed(Classifier):
        classes = 3

        def draw(self, h):
            return h.flatten(1)

    model, x = Fixed(), torch.randn(5, 3, 1, 1)
    for policy in (Once(), MeanOf(7), MeanOf(7, "logits"), VoteOf(7)):
        assert policy.decide(model.sample(x, policy.draws, Stream())).tolist() == x.flatten(1).argmax(1).tolist()
