"""Spiking networks of Sharmin et al. 2019 and 2020: converted, trained by spikes, and trained behind a conversion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from robassay.augment import Augmentation, Crop, Flip
from robassay.cell import Model, Source
from robassay.cells import Examples, Score
from robassay.converted import Convert, Timed
from robassay.data import find
from robassay.folds import Accuracy, Agreement, Refused
from robassay.models import Train
from robassay.nets.published import BACKPROPAGATED, HYBRID, VGG5, VGG9
from robassay.nets.spikes import Spikes
from robassay.papers.published import table
from robassay.papers.subjects import Subject, is_full
from robassay.policy import Once, Policy, Untied
from robassay.recipe import Recipe
from robassay.study import Curves, Evaluation, Measure, Study, Table

STEPS = 2000
"""Of a converted network, and of setting its thresholds, as published."""
TIMES = (50.0, 200.0, 500.0, 2000.0)
"""Steps after which a converted network is asked."""
SHORT_TIMES = (10.0, 15.0, 25.0, 50.0)
"""Steps after which a hybrid network is asked at scale "small"; it is trained for the third."""
ONCE = Once()
ACCURACY, AGREEMENT, UNDECIDED = "accuracy", "decides as the network of ReLU", "decides nothing"
CONVERTED = Spikes(steps=STEPS)
"""Integrate-and-fire without leak, soft reset, no delay: Sharmin et al. 2019."""

DELAYED = replace(CONVERTED, delay=True, strict=True)
"""With a delay of one step per layer: Sharmin et al. 2020."""


@dataclass(frozen=True)
class Family:
    """A network of ReLU and the spiking networks made from it or in its shape.

    Args:
        name: of the architecture.
        relu: the network of ReLU.
        converted: the same, spiking.
        spiking: trained as a spiking network; its name and itself.
        images: test images for the network of ReLU, the converted and the trained spiking one.
    """

    name: str
    relu: Subject
    converted: Subject
    spiking: tuple[str, Subject]
    images: tuple[int, int, int]

    @property
    def subjects(self) -> dict[str, Subject]:
        """All three by name."""
        name, spiking = self.spiking
        return {
            f"{self.name}, ReLU": self.relu,
            f"{self.name}, converted": self.converted,
            f"{self.name}, {name}": spiking,
        }


def spiking_families(data: Source, scale: str) -> tuple[Family, Family]:
    """VGG9 with spike-based back-propagation and VGG5 with hybrid training, on MNIST or CIFAR-10.

    At scale "small": an eighth of the widths, 10,000 images, 3 × 3 kernels, at most 25 steps in training, converted
    networks judged on 500 images. "smoke" is the same, so small that it learns little and takes seconds.

    Raises:
        UsageError: unknown scale.
    """
    if scale == "smoke":
        return _tiny(_vgg9(data, False)), _tiny(_vgg5(data, False))
    full = is_full(scale)
    return _vgg9(data, full), _vgg5(data, full)


def _tiny(family: Family) -> Family:
    """Digits are small images: an eighth of the widths, a thousand images, a few steps."""
    relu, converted, trained = (subject.model for subject in family.subjects.values())
    assert isinstance(relu, Train) and isinstance(converted, Convert) and isinstance(trained, Train)
    limit = 1000
    relu = replace(relu, limit=limit, recipe=replace(relu.recipe, epochs=4, batch=32, lr=4e-3))
    converted = replace(converted, of=relu, spikes=replace(converted.spikes, steps=30), steps=20, images=16)
    spikes = replace(trained.net.spikes, steps=10)  # type: ignore[attr-defined]
    begin, net = trained.begin, replace(trained.net, spikes=spikes)  # type: ignore[type-var]
    if isinstance(begin, Convert):
        begin = replace(begin, of=relu, spikes=spikes, steps=20, images=16)
        net = begin.net
    recipe = replace(trained.recipe, epochs=1)
    if begin is not None:
        recipe = replace(recipe, batch=32, lr=4e-3, temperature=1 / spikes.steps)
    trained = replace(trained, net=net, begin=begin, limit=limit, recipe=recipe)
    told, (name, _) = "an eighth of the width, 1,000 images", family.spiking
    return Family(
        family.name,
        Subject(relu, family.relu.published, note=told),
        Subject(converted, family.converted.published, note="T = 30"),
        (name, Subject(trained, family.spiking[1].published, note=told)),
        (40, 40, 40),
    )


def spiking_subjects(data: Source, scale: str) -> dict[str, Subject]:
    """The networks of :func:`spiking_families` by name."""
    return {name: subject for family in spiking_families(data, scale) for name, subject in family.subjects.items()}


def _moves(data: Source) -> tuple[Augmentation, ...]:
    """Crops and flips, of pictures of things only."""
    return (Crop(), Flip()) if data.shape[0] == 3 else ()


def _vgg9(data: Source, full: bool) -> Family:
    """Sharmin et al. 2019, §III and Table I; spike-based training by Lee et al. 2020."""
    colour, moves = data.shape[0] == 3, _moves(data)
    # Grey pixels stay as they are: a background of −1 would send negative spikes at every step.
    net = VGG9(normalise="cifar10-wide" if colour else None, spikes=None)
    relu = Recipe(
        epochs=200, batch=128, optimizer="sgd", lr=0.09, milestones=(81, 122), weight_decay=5e-4, augment=moves
    )
    learn = Recipe(epochs=125, batch=16, optimizer="sgd", lr=0.0033, momentum=0.0, weight_decay=5e-4)
    learn = replace(learn, milestones=(70, 100), gamma=0.2, augment=moves)
    spikes, limit, note = replace(BACKPROPAGATED, steps=70), None, "cross-entropy in place of squared error"
    steps, images = STEPS, 512  # which set the thresholds
    if not full:
        net, limit, steps, images = replace(net, width=0.125, kernel=3), 10_000, 500, 64
        relu = Recipe(epochs=10 if colour else 4, batch=64, lr=2e-3, step=3, gamma=0.3)
        # At the rate that MNIST learns with, every neuron falls silent on colour in the first epoch.
        learn = Recipe(epochs=4, batch=16, lr=5e-4 if colour else 2e-3, step=2, gamma=0.3, temperature=0.2)
        # At threshold 1 the deep layers of so narrow a network stay silent, and silence has no gradient.
        spikes = replace(spikes, steps=12, threshold=0.4)
        note = "an eighth of the width, 3 × 3, 10,000 images, 4 of 125 epochs, T = 12, threshold 0.4"
    plain = Train(net, data, relu, limit=limit)
    best = [table("sharmin2019", "I").rate(kind, "CIFAR-10") if colour else None for kind in ("ANN", "SNN-I", "SNN-II")]
    return Family(
        "VGG9",
        Subject(plain, best[0], note="" if full else f"an eighth of the width, 3 × 3, {relu.epochs} of 200 epochs"),
        Subject(Convert(plain, CONVERTED, steps=steps, images=images), best[1], note=f"T = {STEPS:,}"),
        (
            "spike-based back-propagation",
            Subject(Train(replace(net, spikes=spikes), data, learn, limit=limit), best[2], note=note),
        ),
        (10_000, 10_000, 10_000) if full else (10_000, 500, 2000),
    )


def _vgg5(data: Source, full: bool) -> Family:
    """Sharmin et al. 2020, §4: thresholds of a conversion, then training with a surrogate."""
    colour, moves = data.shape[0] == 3, _moves(data)
    net = VGG5(spikes=None)
    relu = Recipe(epochs=300, batch=64, optimizer="sgd", lr=0.01, milestones=(180, 240, 270), weight_decay=5e-4)
    relu = replace(relu, augment=moves)
    learn = Recipe(epochs=50, batch=64, lr=1e-4, weight_decay=5e-4, milestones=(30, 40, 45), gamma=0.2, augment=moves)
    spikes, limit, note = HYBRID, None, "Adam without amsgrad"
    steps, images = STEPS, 512  # which set the thresholds
    if not full:
        net, limit, steps, images = replace(net, width=0.125), 10_000, 500, 64
        relu = Recipe(epochs=10 if colour else 4, batch=64, lr=2e-3, step=3, gamma=0.3)
        learn = Recipe(epochs=3, batch=64, lr=2e-4, step=1, gamma=0.5)
        spikes, note = replace(spikes, steps=25), "an eighth of the width, 10,000 images, 3 of 50 epochs, T = 25"
    learn = replace(learn, temperature=1 / spikes.steps)  # the loss sees the output's potential itself
    plain = Train(net, data, relu, limit=limit)
    begin = Convert(plain, spikes, percentile=100.0, steps=steps, images=images)
    return Family(
        "VGG5",
        Subject(plain, note="" if full else f"an eighth of the width, {relu.epochs} of 300 epochs"),
        Subject(Convert(plain, DELAYED, steps=steps, images=images), note=f"T = {STEPS:,}"),
        ("hybrid", Subject(Train(begin.net, data, learn, limit=limit, begin=begin), note=note)),
        (10_000, 10_000, 10_000) if full else (10_000, 500, 2000),
    )


# -------------------------------------------------------------------------------------------------------------- studies


def networks_s(scale: str, data_dir: Path | None) -> Study:
    """On MNIST."""
    is_full(scale)
    return _study("networks-s", "mnist", "MNIST", scale, data_dir)


def networks_s_cifar10(scale: str, data_dir: Path | None) -> Study:
    """On CIFAR-10."""
    is_full(scale)
    return _study("networks-s-cifar10", "cifar10", "CIFAR-10", scale, data_dir)


def networks_s_digits(scale: str, data_dir: Path | None) -> Study:
    """On digits, at scale "smoke": what Table I of a smoke run takes its figures from."""
    return _study("networks-s-digits", "digits", "digits", scale, data_dir)


def _study(name: str, dataset: str, title: str, scale: str, data_dir: Path | None) -> Study:
    families = spiking_families(data := find(dataset, data_dir), scale)
    caption = f"Sharmin et al. 2019 and 2020: networks of ReLU and spiking networks on {title}"
    times = [_over_time(family, data, title, scale) for family in families]
    items = (_table(caption, data, families), *(item for pair in times for item in pair))
    return Study(name, f"Spiking networks of Sharmin et al. on {title} ({scale})", items, scale=scale)


def _table(caption: str, data: Source, families: tuple[Family, ...]) -> Table:
    """Accuracy, agreement with the network of ReLU on the same images, and how often nothing is decided."""
    rows, entries, published = list[str](), {}, {}
    for family in families:
        for (name, subject), images in zip(family.subjects.items(), family.images, strict=True):
            row = f"{name} ({subject.note})" if subject.note else name
            rows.append(row)
            scores = _judged(subject.model, data, images)
            entries[row, ACCURACY] = Measure((scores,), Accuracy())
            if subject is not family.relu:
                same = _judged(family.relu.model, data, images)
                entries[row, AGREEMENT] = Measure((scores, same), Agreement())
                entries[row, UNDECIDED] = Measure((_judged(subject.model, data, images, Untied()),), Refused())
            if subject.published is not None:
                published[row, ACCURACY] = subject.published
    return Table("spiking", caption, tuple(rows), (ACCURACY, AGREEMENT, UNDECIDED), entries, published)


def _over_time(family: Family, data: Source, title: str, scale: str) -> list[Curves]:
    """Accuracy over the steps of the converted network and of the trained one."""
    _, trained = family.spiking
    steps = trained.model.net.spikes.steps  # type: ignore[attr-defined]
    short = SHORT_TIMES if scale == "small" else (steps / 2, float(steps), 2.0 * steps)
    drawn = ((family.converted, TIMES, family.images[1], "converted"), (trained, short, family.images[2], "trained"))
    found = []
    for subject, times, images, kind in drawn:
        line = tuple(
            Measure((_judged(Timed(subject.model, int(t)), data, min(images, 500)),), Accuracy()) for t in times
        )
        name = f"{family.name.lower()}-{kind}-over-time"
        caption = f"{family.name} on {title}, {kind}: accuracy over the time steps"
        found.append(Curves(name, caption, "time steps", "accuracy", times, {kind: line}))
    return found


def _judged(model: Model, data: Source, images: int, policy: Policy = ONCE) -> Evaluation:
    """Single passes over the first test images."""
    size = 2500 if images > 2000 else 250
    return tuple(Score(model, part, policy, repeats=1) for part in Examples(data, "test", 0, images).slices(size))
