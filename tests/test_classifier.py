"""The classifier contract: draws, folds, mixtures, noise switched off."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_nets import Deterministic, Net, Shared, dropout_net

import robassay.classifier as contract
from robassay.classifier import CannotQuiet, Classifier, Mixture, Quiet, Wrapped
from robassay.errors import RobassayError, UsageError
from robassay.rng import Stream
from robassay.testing import ExamNet, exam_images

X = exam_images(8)


# ------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("net", [Net(), Shared()], ids=["independent", "shared"])
def test_sample_has_a_row_per_draw(net):
    logits = net.sample(X, 5, Stream(("a",)))
    assert logits.shape == (5, 8, 4)
    assert len({draw[0, 0].item() for draw in logits}) == 5
    assert torch.equal(logits, net.sample(X, 5, Stream(("a",))))
    assert not torch.equal(logits, net.sample(X, 5, Stream(("b",))))


def test_folded_draws_stand_in_the_right_places():
    class Plain(Deterministic):
        stochastic, rows = True, "independent"

    net = Plain()  # without noise every draw of an image is the image's logits
    assert net.groups(X, 7) == [7]
    assert torch.allclose(net.sample(X, 7, Stream()), net.linear(X).expand(7, -1, -1), atol=1e-6)


@pytest.mark.parametrize("most", [1, 384, 385, 800, 2000, 10**9])
def test_groups_add_up_and_stay_small(most, monkeypatch):
    monkeypatch.setitem(contract.FOLD_ELEMENTS, "cpu", most)
    groups = Net().groups(X, 11)  # X has 384 elements
    assert sum(groups) == 11 and min(groups) >= 1
    assert all(k == 1 or k * X.numel() <= most for k in groups)
    assert len(groups) == -(-11 // min(11, max(1, most // 384)))
    assert Shared().groups(X, 11) == [1] * 11
    assert Deterministic().groups(X, 11) == [1]
    assert sum(p.shape[0] for p in Net().passes(X, 11, Stream())) == 11


def test_folding_independent_rows_is_statistically_the_loop(monkeypatch):
    def moments(elements):
        monkeypatch.setitem(contract.FOLD_ELEMENTS, "cpu", elements)
        drawn = Net().sample(X, 4000, Stream((elements,))) - Net().linear(X)
        centred = drawn - drawn.mean(0)
        return drawn.mean(0), centred.flatten(1).T @ centred.flatten(1) / 4000

    for mean, covariance in (moments(1), moments(10**6)):
        assert mean.abs().max() < 5 / 4000**0.5
        assert (covariance - torch.eye(32)).abs().max() < 6 * (2 / 4000) ** 0.5


def test_shared_noise_is_drawn_once_per_draw():
    noise = Shared().sample(X, 6, Stream()) - Shared().linear(X)
    assert torch.allclose(noise, noise[:, :1].expand_as(noise), atol=1e-5)
    assert noise[:, 0].std(0).min() > 0.1


def test_earlier_draws_do_not_depend_on_how_many_follow():
    assert torch.equal(Shared().sample(X, 3, Stream()), Shared().sample(X, 5, Stream())[:3])


def test_a_deterministic_classifier_is_asked_once():
    net, asked = ExamNet(), Stream()
    assert net.sample(X, 9, asked).shape == (9, 8, 4)
    assert net.forwards == 8
    assert len(list(net.passes(X, 9, asked))) == 1


def test_a_caller_that_stops_keeps_no_global_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stopped = Shared().passes(X, 4, Stream())
    next(stopped)
    assert torch.equal(torch.get_rng_state(), before)

    kept = []
    with pytest.raises(ValueError) as caught:
        for logits in Shared().passes(X, 4, Stream()):
            kept.append(logits)
            raise ValueError
    assert caught and torch.equal(torch.get_rng_state(), before)  # although the traceback keeps the generator alive


def test_nan_logits_and_wrong_shapes_are_errors():
    class Bad(Deterministic):
        def draw(self, h):
            return torch.where(torch.arange(len(h))[:, None] % 4 == 1, torch.nan, self.linear(h))

    with pytest.raises(RobassayError, match="NaN logits for 2 of 8 images"):
        Bad().sample(X, 2, Stream())

    class Wide(Deterministic):
        classes = 7

    with pytest.raises(RobassayError, match=r"shape \(8, 4\), expected \(8, 7\)"):
        Wide().sample(X, 1, Stream())


# ----------------------------------------------------------------------------------------------------------- mixtures


class Constant(Classifier):
    """Answers one class whatever the image, and the image's number as a tag in the last logit."""

    classes = 4

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def draw(self, h):
        logits = torch.zeros(len(h), 4)
        logits[:, self.answer] = 9.0
        logits[:, 3] = h.flatten(1)[:, 0]
        return logits


def test_a_mixture_draws_a_member_per_row_uniformly():
    x = torch.arange(40.0).reshape(40, 1, 1, 1) / 40
    mixture = Mixture([Constant(0), Constant(1), Constant(2)])
    logits = mixture.sample(x, 600, Stream())
    counts = logits[..., :3].argmax(-1).flatten().bincount(minlength=3).float()
    expected = 40 * 600 / 3
    assert ((counts - expected) ** 2 / expected).sum() < 20  # chi-square, 2 degrees of freedom
    assert torch.equal(logits[..., 3], x.flatten().expand(600, 40))  # every row got its own answer back
    # Members of batch mates are drawn independently: a pass with one member for all would make this 0 or 1.
    share = (logits[..., :3].argmax(-1) == 0).float().mean(1)
    assert 0.05 < share.std() < 0.1


def test_a_mixture_promises_what_all_members_keep():
    assert Mixture([Deterministic(), Deterministic()]).rows == "independent"
    assert Mixture([Net(), Deterministic()]).rows == "independent"
    assert Mixture([Net(), Shared()]).rows == "shared"
    assert not Mixture([Net(), Net()]).coupled
    assert Mixture([Deterministic(), ExamNet(coupled=True)]).coupled
    assert Mixture([Deterministic()]).stochastic
    for members in ([], [Net(), ExamNet(classes=3)]):
        with pytest.raises(UsageError, match="mixture"):
            Mixture(members)


# -------------------------------------------------------------------------------------------------- quiet and wrapped


def test_quiet_is_a_deterministic_model_of_the_same_weights():
    quiet = Quiet(Net())
    assert not quiet.stochastic and quiet.classes == 4
    assert torch.equal(quiet.sample(X, 3, Stream())[2], Net().linear(X))
    assert Quiet(ExamNet(coupled=True)).coupled
    assert torch.equal(Quiet(Deterministic())(X), Deterministic()(X))
    with pytest.raises(CannotQuiet):
        Quiet(Mixture([Net(), Net()]))(X)


def test_wrapped_switches_dropout_off_and_on_again():
    model = Wrapped(dropout_net(), 4, stochastic=True)
    assert not torch.equal(model(X), model(X))
    quiet = Quiet(model)
    assert torch.equal(quiet(X), quiet(X))
    assert not torch.equal(model(X), model(X))

    noisy = Wrapped(dropout_net(noisy=True), 4, stochastic=True)
    with pytest.raises(CannotQuiet, match="still random"):
        Quiet(noisy)(X)
    assert noisy.module[2].training  # switched on again although it failed


def test_wrapped_takes_other_precisions_and_names_wrong_outputs():
    double = Wrapped(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).double(), 4, stochastic=False)
    assert double(X).dtype == torch.float32
    for output, word in (
        (torch.zeros(8, 4, dtype=torch.int64), "int64"),
        (torch.zeros(8), r"shape \(8,\)"),
        ((torch.zeros(8, 4),), "tuple of 1"),
        ({"logits": torch.zeros(8, 4)}, "dict with keys logits"),
        (None, "NoneType"),
    ):
        module = nn.Flatten()
        module.forward = lambda x, output=output: output
        with pytest.raises(UsageError, match=word):
            Wrapped(module, 4, stochastic=False)(X)
