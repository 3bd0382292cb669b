"""The exam of a classifier finds every broken promise, and passes honest networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_nets import WEIGHTS, Deterministic, Net, Shared, dropout_net

from robassay.classifier import CannotQuiet, Classifier, Mixture, Quiet, Wrapped
from robassay.errors import UsageError
from robassay.testing import ContractError, ExamNet, check_classifier, exam_images

X = exam_images(8)
CLAIMS = {
    "answers": "returns finite logits (B, classes)",
    "bits": "same stream, same bits",
    "stochastic": "stochastic says whether passes differ",
    "prefix": "forward is draw after prefix, and prefix is deterministic",
    "inputs": "leaves its inputs as they are",
    "rows": "rows says whether rows get noise of their own",
    "coupled": "coupled says whether batch mates matter",
    "quiet": "quiet is deterministic",
    "gradient": "the gradient reaches the image",
    "alarms": "its detectors refuse an image always or never",
}


class OwnGenerator(Net):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def noise(self, h):
        return torch.randn(len(h), 4, generator=self.generator)


class Membrane(Deterministic):
    """A membrane that survives the call."""

    def __init__(self):
        super().__init__()
        self.v = 0.0

    def noise(self, h):
        self.v = 0.5 * self.v + h.mean().item()
        return torch.tensor([self.v, 0, 0, 0])


class Counter(Deterministic):
    """State in a buffer that does not reach the logits yet."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def noise(self, h):
        self.seen += len(h)
        return 0.0


class Denies(Net):
    stochastic = False


class Silent(Net):
    def noise(self, h):
        return 0.0


class NoisyPrefix(Net):
    def prefix(self, x):
        return x + torch.randn_like(x)


class OtherForward(Net):
    def forward(self, x):
        return 2 * self.draw(self.prefix(x))


class InPlace(Net):
    def noise(self, h):
        h += 0.25 * torch.randn_like(h)
        return 0.0


class SharedCalledIndependent(Shared):
    rows = "independent"


class PartlyShared(Net):
    """Noise of its own for every row, and a share that the whole batch has in common (a fifth of the variance)."""

    def noise(self, h):
        return torch.randn(len(h), 4) + 0.5 * torch.randn(1, 4)


class SharedScale(Net):
    def noise(self, h):
        return torch.randn(len(h), 4) * (1 + 2 * (torch.rand(1) < 0.5))


class Antithetic(Net):
    def noise(self, h):
        return torch.cat([z := torch.randn(-(-len(h) // 2), 4), -z])[: len(h)]


class BatchNormed(Classifier):
    classes = 4

    def __init__(self, training):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean += 0.4
        self.train(training)

    def draw(self, h):
        return self.norm(h).flatten(1) @ WEIGHTS


class BatchSpread(Net):
    """Noise between the batch's extremes, as random spiking has it."""

    def noise(self, h):
        units = self.linear(h)
        return units.min() + (units.max() - units.min()) * torch.rand(len(h), 4)


class SharedBatchMean(Shared):
    def noise(self, h):
        return super().noise(h) + 4 * h.mean()


class RandomQuiet(Net):
    def quiet(self, h):
        return self.draw(h)


class Nan(Net):
    def linear(self, h):
        return super().linear(h) * torch.nan


class Wide(Net):
    classes = 9


class Raises(Net):
    def draw(self, h):
        raise ValueError("no such layer")


class NanGradient(Deterministic):
    def linear(self, h):
        return super().linear((h * 0).sqrt() + h.detach())


class RandomAlarms(Net):
    def alarms(self, x):
        return torch.randn(len(x), 2)


class FlatAlarms(Net):
    def alarms(self, x):
        return x.flatten(1).mean(1)


BROKEN = [
    (OwnGenerator(), "bits", "global generator"),
    (Membrane(), "bits", "membrane"),
    (Counter(), "bits", "buffers seen"),
    (BatchNormed(training=True), "bits", "norm is a batch norm in training mode"),
    (BatchNormed(training=True), "coupled", "batch mates"),
    (Denies(), "stochastic", "stochastic = True"),
    (Silent(), "stochastic", "equal to the bit"),
    (NoisyPrefix(), "prefix", "prefix is random"),
    (OtherForward(), "prefix", "Do not override forward"),
    (InPlace(), "inputs", "in place"),
    (SharedCalledIndependent(), "rows", "they share the noise"),
    (PartlyShared(), "rows", "not independent"),
    (SharedScale(), "rows", "not independent"),
    (Antithetic(), "rows", "not independent"),
    (BatchSpread(), "coupled", "coupled = True"),
    (SharedBatchMean(), "coupled", "coupled = True"),
    (RandomQuiet(), "quiet", "CannotQuiet"),
    (Nan(), "answers", "NaN"),
    (Wide(), "answers", r"expected \(8, 9\)"),
    (Raises(), "answers", "no such layer"),
    (NanGradient(), "gradient", "NaN"),
    (RandomAlarms(), "alarms", "alarms are random"),
    (FlatAlarms(), "alarms", r"expected \(8, detectors\)"),
]


@pytest.mark.parametrize(("model", "claim", "message"), BROKEN, ids=[f"{type(m).__name__}-{c}" for m, c, _ in BROKEN])
def test_the_exam_finds_the_broken_promise(model, claim, message):
    before = X.clone()
    with pytest.raises(ContractError, match=message) as caught:
        check_classifier(model, X)
    assert torch.equal(X, before)
    results = {r.promise: r for r in caught.value.results}
    assert not results[CLAIMS[claim]].ok
    assert type(model).__name__ in str(caught.value)


def test_the_exam_reports_all_failures_together():
    class Several(SharedCalledIndependent):
        def quiet(self, h):
            return self.draw(h)

    with pytest.raises(ContractError, match="breaks 2 of 10 promises") as caught:
        check_classifier(Several(), X)
    assert [r.promise for r in caught.value.results if not r.ok] == [CLAIMS["rows"], CLAIMS["quiet"]]


class RareEvents(Net):
    """Noise that is seldom and large: its sample variance is a bad judge."""

    def noise(self, h):
        return 50.0 * (torch.rand(len(h), 4) < 0.004)


class Bernoulli(Net):
    def noise(self, h):
        return (torch.rand(len(h), 4) < h.flatten(1)[:, :4]).float()


class Coupled(BatchSpread):
    coupled = True


HONEST = [
    ExamNet(),
    ExamNet(noise=0.5),
    Net(),
    Shared(),
    Deterministic(),
    RareEvents(),
    Bernoulli(),
    Coupled(),
    BatchNormed(training=False),
    Wrapped(dropout_net(), 4, stochastic=True),
    Mixture([Net(), Deterministic()]),
    Mixture([Net(), Shared()]),
    Quiet(Net()),
]


@pytest.mark.parametrize("model", HONEST, ids=[f"{i}-{type(m).__name__}" for i, m in enumerate(HONEST)])
def test_an_honest_classifier_passes(model):
    results = check_classifier(model, X)
    assert len(results) == len(CLAIMS) and all(r.ok for r in results)


def test_the_exam_remarks_what_is_no_failure():
    class Blocked(Deterministic):
        def linear(self, h):
            return super().linear((h > 0.5).float())

    class Modest(Net):
        rows = "shared"

    class Unquiet(Net):
        def quiet(self, h):
            raise CannotQuiet("no")

    for model, claim, word in (
        (Blocked(), "gradient", "no gradient reaches"),
        (Modest(), "rows", "rows = 'independent'"),
        (Unquiet(), "quiet", "cannot be quieted"),
    ):
        found = {r.promise: r.detail for r in check_classifier(model, X)}
        assert word in found[CLAIMS[claim]]
    assert {r.promise: r.detail for r in check_classifier(Shared(), X)}[CLAIMS["rows"]] == ""


def test_the_exam_refuses_what_it_cannot_examine():
    with pytest.raises(UsageError, match="Wrapped"):
        check_classifier(nn.Flatten(), X)
    with pytest.raises(UsageError, match="two images"):
        check_classifier(Net(), X[:1])
