"""The classifier contract, and the exam that finds broken promises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import robassay.classifier as contract
from robassay.classifier import CannotQuiet, Classifier, Mixture, Quiet, Wrapped
from robassay.errors import RobassayError, UsageError
from robassay.rng import Stream
from robassay.testing import ContractError, ExamNet, check_classifier, exam_images

X = exam_images(8)
WEIGHTS = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
BY_FORWARD = "forward is draw after prefix, and prefix is deterministic"
CLAIMS = {
    "answers": "returns finite logits (B, classes)",
    "bits": "same stream, same bits",
    "stochastic": "stochastic says whether passes differ",
    "prefix": BY_FORWARD,
    "inputs": "leaves its inputs as they are",
    "rows": "rows says whether rows get noise of their own",
    "coupled": "coupled says whether batch mates matter",
    "quiet": "quiet is deterministic",
    "gradient": "the gradient reaches the image",
}


class Net(Classifier):
    """Linear with Gaussian logit noise, one draw per row; the parent of all that follows."""

    classes, stochastic, rows = 4, True, "independent"

    def draw(self, h):
        return self.linear(h) + self.noise(h)

    def linear(self, h):
        return h.flatten(1) @ WEIGHTS

    def noise(self, h):
        return torch.randn(len(h), 4)

    def quiet(self, h):
        return self.linear(h)


class Shared(Net):
    rows = "shared"

    def noise(self, h):
        return torch.randn(1, 4).expand(len(h), 4)


class Deterministic(Net):
    stochastic, rows = False, "shared"

    def noise(self, h):
        return 0.0


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


class AlwaysDropout(nn.Dropout):
    """Dropout that stays on in eval mode, as Monte-Carlo dropout is written."""

    def train(self, mode: bool = True):
        return super().train(True)


def dropout_net(noisy: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(48, 16), AlwaysDropout(0.5), nn.Linear(16, 4)]
    return nn.Sequential(*layers, Jitter()) if noisy else nn.Sequential(*layers)


class Jitter(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


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


# ---------------------------------------------------------------------------------------------------------- the exam


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

    with pytest.raises(ContractError, match="breaks 2 of 9 promises") as caught:
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
