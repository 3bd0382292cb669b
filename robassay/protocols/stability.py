"""How far decisions stand still when nobody attacks: Gaussian noise of a length, JPEG. Ge et al. 2020, §5.3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from robassay.attacks.noise import JPEG, Gaussian
from robassay.calm import Steady
from robassay.cell import Model
from robassay.cells import Disturbed, Examples, Score
from robassay.folds import Accuracy, Refused, Stability
from robassay.policy import Policy
from robassay.protocols.parts import SLICE, clean
from robassay.study import Curves, Evaluation, Measure, Table
from robassay.threat import Threat

LENGTHS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
QUALITIES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
NOISES = 20
Schemes = Mapping[str, tuple[Model, Policy]]
"""Models by name, each with the way it decides."""

Several = Mapping[str, Sequence[tuple[Model, Policy]]]
"""The same with several models of every scheme."""
OWN = 5
"""Decisions about the clean image that are references, where several models are averaged."""


def accuracies(id: str, caption: str, schemes: Schemes, images: Examples) -> Table:
    """Accuracy of every scheme on the clean images, and what it refuses: one that always says the same is stable."""
    entries = {}
    for name, (model, policy) in schemes.items():
        own = clean(model, images, policy)
        entries[name, "accuracy"] = Measure((own,), Accuracy())
        entries[name, "refused"] = Measure((own,), Refused())
    return Table(id, caption, tuple(schemes), ("accuracy", "refused"), entries)


def gaussian(id: str, caption: str, schemes: Schemes, images: Examples, lengths: tuple[float, ...] = LENGTHS) -> Curves:
    """Share of decisions that stay the same under Gaussian noise scaled to an exact L2 length, then cut to the box.

    20 draws of noise per image, the same for all schemes. The reference is the scheme's own decision about the clean
    image: at length 0 a deterministic scheme stands still, a random one need not. Two refusals agree.
    """
    return _curves(id, caption, "L2 of Gaussian noise", schemes, images, lengths, _noises(images, lengths))


def jpeg(id: str, caption: str, schemes: Schemes, images: Examples, qualities: tuple[int, ...] = QUALITIES) -> Curves:
    """Share of decisions that stay the same after JPEG compression; see :func:`gaussian` for the reference."""
    return _curves(
        id, caption, "JPEG quality", schemes, images, tuple(map(float, qualities)), _compressed(images, qualities)
    )


def averaged(
    id: str,
    caption: str,
    schemes: Several,
    images: Examples,
    lengths: Sequence[float] = (),
    qualities: Sequence[int] = (),
) -> Curves:
    """:func:`gaussian` over ``lengths`` or :func:`jpeg` over ``qualities``, averaged over the models of a scheme."""
    noisy = bool(lengths)
    levels = _noises(images, lengths) if noisy else _compressed(images, qualities)
    series = {
        name: tuple(Measure(_beside(models, level, repeats, images), Steady()) for level, repeats in levels)
        for name, models in schemes.items()
    }
    axis = "L2 of Gaussian noise" if noisy else "JPEG quality"
    values = tuple(map(float, lengths if noisy else qualities))
    return Curves(id, caption, axis, "unchanged decisions", values, series)


def _beside(
    models: Sequence[tuple[Model, Policy]], level: Disturbed, repeats: int, images: Examples
) -> tuple[Evaluation, ...]:
    """Disturbed and clean, model by model."""
    pairs = ((_disturbed(m, policy, level, repeats), clean(m, images, policy, OWN)) for m, policy in models)
    return tuple(one for pair in pairs for one in pair)


def _noises(images: Examples, lengths: Sequence[float]) -> list[tuple[Disturbed, int]]:
    return [(Disturbed(images, Gaussian(), Threat("l2", length)), NOISES) for length in lengths]


def _compressed(images: Examples, qualities: Sequence[int]) -> list[tuple[Disturbed, int]]:
    return [(Disturbed(images, JPEG(quality=q), Threat("l2")), 1) for q in qualities]


def _curves(
    id: str,
    caption: str,
    axis: str,
    schemes: Schemes,
    images: Examples,
    values: tuple[float, ...],
    levels: list[tuple[Disturbed, int]],
) -> Curves:
    series = {}
    for name, (model, policy) in schemes.items():
        own = clean(model, images, policy)
        points = [_disturbed(model, policy, level, repeats) for level, repeats in levels]
        series[name] = tuple(Measure((point, own), Stability()) for point in points)
    return Curves(id, caption, axis, "unchanged decisions", values, series)


def _disturbed(model: Model, policy: Policy, level: Disturbed, repeats: int) -> Evaluation:
    return tuple(Score(model, replace(level, on=part), policy, repeats) for part in level.on.slices(SLICE))
