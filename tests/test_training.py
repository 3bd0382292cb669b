"""The training loop: equal bits whatever happens in between, and the promises of its parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import robassay as ra
from robassay.attacks.gradient import FGSM, PGD
from robassay.augment import Affine, Crop, Flip
from robassay.classifier import Classifier, Net
from robassay.data import Images, find, pixels
from robassay.defences.a2snn import A2SNN
from robassay.defences.adversarial import AdversarialTraining
from robassay.errors import RobassayError, UsageError
from robassay.nets.bsn import BSN
from robassay.nets.cnn import SmallCNN
from robassay.nets.lif import LIF
from robassay.nets.mlp import MLP
from robassay.registry import named
from robassay.rng import Stream
from robassay.threat import Goal, Threat
from robassay.training import LOSSES_AT_ONCE, Recipe, restore, train

QUICK = AdversarialTraining(PGD(steps=2, keep="last"), Threat("linf", 0.1))
LATE = dataclasses.replace(QUICK, clean=0.5, warmup=1, labels="predicted")
Arrays = dict[str, Tensor]


def digits(n: int) -> tuple[Images, Images]:
    data = find("digits")
    images, val = data.split("train"), data.split("val")
    return Images(images.x[:n], images.y[:n]), val


def run(net: Net, recipe: Recipe, folder: Path, n: int = 200, key: str = "a", told: Any = None, **more: Any) -> Arrays:
    folder.mkdir(exist_ok=True)
    progress = told or (lambda done, total: None)
    return train(net, (1, 8, 8), 10, *digits(n), recipe, Stream(("test", key)), folder, progress, **more)


def equal(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Killed(Exception):
    """Stands for the end of the process."""


CASES = {
    "adam": (SmallCNN(4), Recipe(epochs=3, batch=64)),
    "sgd": (BSN((20,)), Recipe(epochs=3, batch=64, optimizer="sgd", lr=0.05, step=1, gamma=0.5)),
    "noise": (A2SNN(MLP((20,)), dim=8), Recipe(epochs=3, batch=64, keep="last")),
    "spikes": (LIF((20,), steps=3), Recipe(epochs=3, batch=64, lr=3e-3)),
    "adversary": (SmallCNN(4), Recipe(epochs=3, batch=64, adversary=QUICK)),
    "warm-up": (A2SNN(MLP((20,)), dim=8), Recipe(epochs=3, batch=64, adversary=LATE)),
    "augmented": (SmallCNN(4), Recipe(epochs=3, batch=64, augment=(Affine(shift=1.0), Crop(1), Flip()))),
    "schedule": (MLP((20,)), Recipe(epochs=3, batch=64, milestones=(1, 2), fresh=True, decay=1e-2, temperature=2.0)),
}


def student_of(net: Net) -> dict[str, Any]:
    """Weights to begin with and a teacher, both of the net."""
    with Stream(("first",)).active():
        first, teacher = net.build((1, 8, 8), 10), net.build((1, 8, 8), 10)
    return {"begin": first.state_dict(), "teacher": teacher.eval()}


# All that a recipe can ask for at once.
FULL = dataclasses.replace(
    CASES["schedule"][1], augment=CASES["augmented"][1].augment, adversary=LATE, optimizer="sgd", lr=0.05
)
CASES["student"] = (A2SNN(MLP((20,)), dim=8), FULL)
MORE = {"student": student_of(CASES["student"][0])}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("killed_after", [2, 6])
def test_an_interrupted_run_ends_with_the_same_bits(case: str, killed_after: int, tmp_path: Path) -> None:
    (net, recipe), more = CASES[case], MORE.get(case, {})
    whole = run(net, recipe, tmp_path / "whole", **more)

    def killing(done: int, total: int) -> None:
        assert total == 12
        if done == killed_after:
            raise Killed

    with pytest.raises(Killed):
        run(net, recipe, tmp_path / "cut", told=killing, **more)
    torch.rand(3)  # the process that goes on has another past
    steps: list[int] = []
    resumed = run(net, recipe, tmp_path / "cut", told=lambda done, total: steps.append(done), **more)
    assert steps == list(range(1 + killed_after // 4 * 4, 13))
    assert equal(whole, resumed)


def test_the_stream_and_nothing_else_decides_the_bits(tmp_path: Path) -> None:
    net, recipe = CASES["noise"]
    first = run(net, recipe, tmp_path / "1")
    before = torch.get_rng_state()
    again = run(net, recipe, tmp_path / "2")
    assert torch.equal(before, torch.get_rng_state())
    assert equal(first, again)
    assert not equal(first, run(net, recipe, tmp_path / "3", key="b"))


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    net, recipe = CASES["adam"]
    first = run(net, recipe, tmp_path)
    assert equal(first, run(net, recipe, tmp_path, told=pytest.fail))


def test_training_learns_and_says_how(tmp_path: Path) -> None:
    found = run(SmallCNN(8), Recipe(epochs=12, batch=32, lr=3e-3), tmp_path, n=600)
    loss, accuracy = found["history/train_loss"], found["history/val_accuracy"]
    assert loss.shape == accuracy.shape == (12,)
    assert loss[-1] < 0.3 * loss[0] and accuracy[-1] > accuracy[0] and accuracy.max() > 0.88
    assert accuracy[int(found["history/epoch"])] == accuracy.max()
    assert all(t.is_contiguous() and not t.requires_grad and t.device.type == "cpu" for t in found.values())


def test_the_kept_weights_are_of_the_kept_epoch(tmp_path: Path) -> None:
    def kept(epochs: int, keep: Any) -> Arrays:
        # A learning rate that grows until it spoils what was learnt.
        recipe = Recipe(epochs=epochs, batch=16, lr=2e-3, step=1, gamma=2.5, keep=keep)
        return run(SmallCNN(4), recipe, tmp_path / f"{epochs}{keep}", n=100)

    best = kept(8, "best")
    accuracy, epoch = best["history/val_accuracy"], int(best["history/epoch"])
    assert epoch == max(i for i, a in enumerate(accuracy) if a == accuracy.max()) < 7
    model = restore(SmallCNN(4), (1, 8, 8), 10, best)
    val = digits(1)[1]
    assert (model(pixels(val.x)).argmax(1) == val.y).double().mean() == accuracy.max()
    last = kept(epoch + 1, "last")
    assert int(last["history/epoch"]) == epoch
    assert all(torch.equal(best[k], last[k]) for k in best if k.startswith("weight/"))


def test_a_restored_classifier_is_ready_and_frozen(tmp_path: Path) -> None:
    net = A2SNN(MLP((20,)), dim=8)
    found = run(net, Recipe(epochs=1), tmp_path)
    before = torch.get_rng_state()
    model = restore(net, (1, 8, 8), 10, found)
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(t, found["weight/" + name]) for name, t in model.state_dict().items())


def test_regularizer_and_projection_take_part(tmp_path: Path) -> None:
    def size(entropy: float) -> float:
        net = A2SNN(MLP((20,)), dim=8, entropy=entropy, wca=0.0)
        found = run(net, Recipe(epochs=4, batch=32, lr=5e-2, keep="last"), tmp_path / str(entropy))
        assert torch.allclose(found["weight/head.weight"].norm(dim=1), torch.ones(10))
        return float(found["weight/scale"].tril().square().sum())

    assert size(1.0) > 2 * size(0.0)


def test_of_equal_epochs_the_last_is_kept(tmp_path: Path) -> None:
    found = run(MLP((5,)), Recipe(epochs=3, batch=200, lr=1e-12), tmp_path)
    assert len(found["history/val_accuracy"].unique()) == 1
    assert found["history/epoch"] == 2


class Watched(Classifier):
    """Notes the mode and a random number of every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.classes = torch.nn.Linear(64, 10), 10

    def draw(self, h: Tensor) -> Tensor:
        Watching.passes.append((self.training, torch.is_grad_enabled(), torch.rand(()).item()))
        logits: Tensor = self.layer(h.flatten(1))
        return logits


class Watching(Net):
    passes: list[tuple[bool, bool, float]] = []  # noqa: RUF012

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        return Watched()


def test_every_pass_has_noise_of_its_own_and_the_right_mode(tmp_path: Path) -> None:
    Watching.passes.clear()
    run(Watching(), Recipe(epochs=2, batch=100), tmp_path)
    modes = [(training, gradient) for training, gradient, _ in Watching.passes]
    assert modes == [(True, True), (True, True), (False, False)] * 2
    assert len({number for *_, number in Watching.passes}) == 6


def test_rate_falls_in_steps() -> None:
    recipe = Recipe(lr=0.1, step=3, gamma=0.5)
    assert [recipe.rate(e) for e in (0, 2, 3, 6)] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    assert Recipe(lr=0.1).rate(100) == 0.1


# ----------------------------------------------------------------------------------------------- adversarial training


class Spy(ra.Attack):
    """Adds eps to every pixel, and looks around."""

    access = ra.GradientAccess
    calls: list[tuple[bool, Goal]] = []  # noqa: RUF012

    def __call__(self, access: ra.GradientAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        self.calls.append((access.models[0].training, goal))
        return threat.project(x + 1, x)


def test_the_adversary_sees_the_model_in_evaluation_mode_and_leaves_it_as_it_was() -> None:
    Spy.calls.clear()
    model: Classifier = MLP().build((1, 8, 8), 10).train()
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([1, 2, 3, 4])
    found = AdversarialTraining(Spy(), Threat("linf", 0.2)).images(model, x, y, Stream())
    ((training, goal),) = Spy.calls
    assert not training and model.training and not goal.targeted and torch.equal(goal.labels, y)
    assert torch.allclose(found, (x + 0.2).clamp(0, 1))
    assert all(p.grad is None for p in model.parameters())


def test_the_share_of_clean_images_weighs_the_two_losses(tmp_path: Path) -> None:
    def weights(name: str, adversary: AdversarialTraining | None) -> Tensor:
        recipe = Recipe(epochs=1, batch=200, optimizer="sgd", lr=0.1, momentum=0.0, keep="last", adversary=adversary)
        return run(MLP((20,)), recipe, tmp_path / name)["weight/head.weight"].double()

    ball = Threat("linf", 0.2)
    clean, half, attacked = (weights(str(c), AdversarialTraining(FGSM(), ball, clean=c)) for c in (1.0, 0.5, 0.0))
    assert torch.equal(clean, weights("plain", None))
    assert torch.allclose(half, (clean + attacked) / 2, atol=1e-6) and not torch.allclose(clean, attacked, atol=1e-4)


def test_an_adversary_waits_for_its_warm_up(tmp_path: Path) -> None:
    def attacked(warmup: int) -> tuple[list[int], Arrays]:
        Spy.calls.clear()
        recipe = Recipe(epochs=3, batch=100, keep="last", adversary=AdversarialTraining(Spy(), warmup=warmup))
        found = run(MLP((20,)), recipe, tmp_path / str(warmup))
        return [len(goal.labels) for _, goal in Spy.calls], found

    # Two batches of 100 in every attacked epoch, and the validation images after each.
    at_once, late = attacked(0), attacked(2)
    val = len(digits(1)[1].y)
    assert at_once[0] == [100, 100, val] * 3 and late[0] == [val, val, 100, 100, val]
    clean = run(MLP((20,)), Recipe(epochs=2, batch=100, keep="last"), tmp_path / "clean")
    assert torch.equal(late[1]["history/train_loss"][:2], clean["history/train_loss"])


def test_an_adversary_may_lead_away_from_what_the_network_predicts() -> None:
    model = MLP().build((1, 8, 8), 10).train()
    x = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        predicted = model.eval()(x).argmax(1)
    model.train()
    y = (predicted + 1) % 10
    for labels, expected in (("true", y), ("predicted", predicted)):
        Spy.calls.clear()
        adversary = AdversarialTraining(Spy(), clean=0.25, labels=labels)  # type: ignore[arg-type]
        (clean, same), (rest, attacked) = adversary.lessons(model, x, y, 0, Stream())
        ((training, goal),) = Spy.calls
        assert torch.equal(goal.labels, expected) and not training and model.training
        assert (clean, rest) == (0.25, 0.75) and same is x and not torch.equal(attacked, x)


def test_predicted_labels_are_those_of_evaluation_mode_with_noise_of_their_own() -> None:
    class Moody(Classifier):
        """Says 1 in evaluation mode, 0 in training; a third class by chance."""

        classes, stochastic = 3, True

        def draw(self, h: Tensor) -> Tensor:
            lucky = torch.rand(len(h)) < 0.5
            chosen = torch.where(lucky, 2, 0 if self.training else 1)
            return F.one_hot(chosen, 3) + 0.0 * h.flatten(1).sum(1, keepdim=True)

    def labels(key: str) -> list[int]:
        Spy.calls.clear()
        adversary = AdversarialTraining(Spy(), labels="predicted")
        adversary.lessons(Moody().train(), torch.ones(40, 1, 2, 2), torch.zeros(40).long(), 0, Stream((key,)))
        return Spy.calls[0][1].labels.tolist()

    first = labels("a")
    assert set(first) == {1, 2} and first == labels("a") != labels("b")


def test_adversarial_training_makes_robust(tmp_path: Path) -> None:
    threat = Threat("linf", 0.15)
    test = find("digits").split("test")
    x, y = pixels(test.x[:200]), test.y[:200]

    def robust(name: str, adversary: AdversarialTraining | None) -> float:
        recipe = Recipe(epochs=8, batch=64, lr=3e-3, adversary=adversary)
        model = restore(SmallCNN(8), (1, 8, 8), 10, run(SmallCNN(8), recipe, tmp_path / name, n=800))
        access = ra.White().open([model], len(x))
        attacked = PGD(steps=20)(access, x, Goal(y), threat, Stream(("attack",)))
        return (model(attacked).argmax(1) == y).double().mean().item()

    adversary = AdversarialTraining(PGD(steps=4, keep="last"), threat)
    assert robust("adversarial", adversary) > robust("plain", None) + 0.15


def test_an_adversary_without_a_gradient_is_refused() -> None:
    class Blind(ra.Attack):
        access = None

        def __call__(self, access: Any, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
            return x

    with pytest.raises(UsageError, match="needs access=None"):
        AdversarialTraining(Blind())
    with pytest.raises(UsageError, match="share"):
        AdversarialTraining(clean=1.5)
    with pytest.raises(UsageError, match="number of epochs"):
        AdversarialTraining(warmup=-1)
    with pytest.raises(UsageError, match="'true' or 'predicted'"):
        AdversarialTraining(labels="own")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="never attacks"):
        Recipe(epochs=5, adversary=AdversarialTraining(warmup=5))
    assert named("defences", "adversarial") is AdversarialTraining


# ------------------------------------------------------------------------------------------------------------- errors


def test_one_class_no_image_and_foreign_labels_are_refused(tmp_path: Path) -> None:
    images, val = digits(100)
    one = Images(images.x[images.y == 3], images.y[images.y == 3])

    def attempt(images: Images, val: Images) -> None:
        train(MLP(), (1, 8, 8), 10, images, val, Recipe(epochs=1), Stream(), tmp_path, lambda a, b: None)

    with pytest.raises(UsageError, match=r"all .* training images are of class 3"):
        attempt(one, val)
    with pytest.raises(UsageError, match="no training image"):
        attempt(Images(images.x[:0], images.y[:0]), val)
    with pytest.raises(UsageError, match="validate"):
        attempt(images, Images(val.x[:0], val.y[:0]))
    with pytest.raises(UsageError, match=r"labels lie in 7\.\.16"):
        attempt(Images(images.x, images.y + 7), val)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(tmp_path: Path) -> None:
    with pytest.raises(RobassayError, match=r"epoch 1, step \d.*smaller learning rate"):
        run(MLP(), Recipe(epochs=2, batch=16, optimizer="sgd", lr=1e30), tmp_path)


class Breaks(Classifier):
    """Its loss is not a number in one step of one epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self.layer, self.classes = torch.nn.Linear(64, 10), 10
        self.broken, self.now = (epoch, step), (0, 0)

    def begin_epoch(self, epoch: int) -> None:
        self.now = (epoch, 0)

    def after_step(self, rate: float) -> None:
        self.now = (self.now[0], self.now[1] + 1)

    def draw(self, h: Tensor) -> Tensor:
        logits: Tensor = self.layer(h.flatten(1))
        return logits * float("nan") if self.training and self.now == self.broken else logits


@dataclasses.dataclass(frozen=True)
class Breaking(Net):
    epoch: int
    step: int

    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        return Breaks(self.epoch, self.step)


@pytest.mark.parametrize(("step", "noticed"), [(0, 3), (2, 3), (3, 6), (6, 7)])
def test_losses_that_wait_are_checked_in_the_epoch_and_tell_the_step(
    step: int, noticed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def attempt(folder: str) -> None:
        told.clear()
        with pytest.raises(RobassayError, match=f"became nan in epoch 2, step {step + 1}\\."):
            recipe = Recipe(epochs=3, batch=30)  # 7 steps
            run(Breaking(1, step), recipe, tmp_path / folder, told=lambda done, total: told.append(done))

    attempt("cpu")
    assert told[-1] == 7 + step
    monkeypatch.setitem(LOSSES_AT_ONCE, "cpu", 3)
    attempt("gpu")
    assert told[-1] == 7 + noticed - 1


def test_losses_that_wait_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=2, batch=30)
    first = run(MLP((20,)), recipe, tmp_path / "1")
    monkeypatch.setitem(LOSSES_AT_ONCE, "cpu", 3)
    assert equal(first, run(MLP((20,)), recipe, tmp_path / "3"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": 0},
        {"lr": 0},
        {"lr": float("nan")},
        {"optimizer": "adamw"},
        {"keep": "all"},
        {"step": 0},
    ],
)
def test_impossible_recipes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Recipe(**wrong)


def test_the_way_of_a_gpu_learns_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layout and precision, on the CPU: other bits, the same accuracy, and weights that any machine can load."""
    recipe = Recipe(epochs=6, batch=64, lr=5e-3)
    usual = run(SmallCNN(8), recipe, tmp_path / "usual", 600)
    monkeypatch.setattr("robassay.training.FAST", ("cpu",))
    fast = run(SmallCNN(8), recipe, tmp_path / "fast", 600)
    exact = run(LIF((20,), steps=3), recipe, tmp_path / "exact", 600)
    monkeypatch.undo()
    assert equal(exact, run(LIF((20,), steps=3), recipe, tmp_path / "spikes", 600))  # a spike would notice
    assert not equal(usual, fast)
    assert abs(usual["history/val_accuracy"].max() - fast["history/val_accuracy"].max()) < 0.05
    assert usual["history/val_accuracy"].max() > 0.85
    assert all(a.dtype == b.dtype and b.is_contiguous() for a, b in zip(usual.values(), fast.values(), strict=True))
