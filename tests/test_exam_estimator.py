"""The exam of an estimator finds every broken promise, the wrong sign first of all."""

from __future__ import annotations

import pytest
import torch

from robassay.errors import UsageError
from robassay.estimators import Augmented, Backprop, Cost, Differences, Directed, Estimator, InputNoise, Ruled
from robassay.rng import Stream
from robassay.rules import StraightThrough
from robassay.testing import ContractError, check_estimator, exam_images

ESTIMATORS = [
    Backprop(),
    Backprop(5),
    Backprop(5, "probs"),
    Backprop(5, "logits"),
    Ruled(StraightThrough(), Backprop(2)),
    Augmented(InputNoise(0.02), 3),
    Differences(0.01, 60),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_an_honest_estimator_passes(estimator):
    assert all(r.ok for r in check_estimator(estimator))


class Altered(Estimator):
    """Backprop whose answer is changed."""

    draws = 2

    def __init__(self, change):
        self.change = change

    def __call__(self, model, x, loss, rng):
        return self.change(Backprop(2)(model, x, loss, rng), x)


def leaks(found: Directed, x: torch.Tensor) -> Directed:
    torch.rand(1)
    return found


BROKEN = [
    (lambda f, x: f._replace(gradient=-f.gradient), "wrong sign"),
    (lambda f, x: f._replace(gradient=f.gradient.roll(1, -1)), "cosine"),
    (lambda f, x: f._replace(gradient=f.gradient.sign()), "cosine"),
    (lambda f, x: f._replace(gradient=f.gradient.roll(1, 0)), "cosine"),
    (lambda f, x: f._replace(gradient=f.gradient.flatten(1)), "gradient has shape"),
    (lambda f, x: f._replace(value=-f.value), "value is"),
    (lambda f, x: f._replace(value=f.value.sum()), "value has shape"),
    (lambda f, x: f._replace(logits=f.logits[0]), "logits have shape"),
    (lambda f, x: f._replace(logits=f.logits + 1), "logits differ"),
    (lambda f, x: f._replace(cost=Cost(1, 1)), "cost says"),
    (lambda f, x: (f.value, f.gradient), "returned a tuple"),
    (lambda f, x: f._replace(gradient=f.gradient * torch.rand(1)), "global random state"),
    (leaks, "global random state"),
    (lambda f, x: f._replace(gradient=x.mul_(0.5) * 0 + f.gradient), "changes the images"),
    (lambda f, x: f._replace(gradient=f.gradient * torch.nan), "not finite"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[f"{i}-{m}" for i, (_, m) in enumerate(BROKEN)])
def test_the_exam_finds_a_broken_estimator(change, message):
    with pytest.raises(ContractError, match=message):
        check_estimator(Altered(change))


def test_the_exam_finds_an_average_over_one_draw_in_the_batch():
    """EoT by replication on shared noise is no EoT: every copy sees the same draw."""

    class Replicated(Altered):
        def __call__(self, model, x, loss, rng):
            return Backprop(1)(model, x, loss, Stream())  # the same draw on every stream

    with pytest.raises(ContractError, match="cosine"):
        check_estimator(Replicated(None))


def test_the_exam_refuses_what_it_cannot_examine():
    with pytest.raises(UsageError, match="Estimator"):
        check_estimator(torch.nn.Flatten())
    assert exam_images(3).shape == (3, 3, 4, 4)
