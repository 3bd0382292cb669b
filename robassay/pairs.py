"""Models compared on the same images: what a gain in robustness cost in clean accuracy. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robassay.folds import Accuracy, Rows, WorstCase, blocks, same_images, worst
from robassay.intervals import Estimate, difference
from robassay.verdict import as_json

POINT = 0.01
"""Clean accuracies that differ by more are marked."""


def compared(
    names: Sequence[str], models: Mapping[str, Sequence[Rows]], keys: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Rates of every model and its differences from the first, as JSON values; None where a model is missing.

    Args:
        names: in order; the first is the reference.
        models: by name the evaluation on clean images and those of its attacks; robust is the worst of the attacks.
        keys: cells behind each model.

    Raises:
        UsageError: evaluations of different images.
    """
    reference = names[0]
    return {
        "models": [_rates(name, models.get(name), keys[name]) for name in names],
        "pairs": [_pair(name, reference, models, [*keys[name], *keys[reference]]) for name in names[1:]],
    }


def _rates(name: str, evaluations: Sequence[Rows] | None, keys: list[str]) -> dict[str, Any]:
    if evaluations is None:
        return {"name": name, "clean": None, "robust": None}
    clean, robust = Accuracy()(evaluations[:1]), WorstCase()(evaluations[1:])
    return {"name": name, "clean": {**as_json(clean), "keys": keys}, "robust": {**as_json(robust), "keys": keys}}


def _pair(name: str, reference: str, models: Mapping[str, Sequence[Rows]], keys: list[str]) -> dict[str, Any]:
    known: dict[str, Any] = {"name": name, "reference": reference}
    if name not in models or reference not in models:
        return {**known, "clean": None, "robust": None, "outcome": None, "unequal": False, "sentence": ""}
    clean, robust = gaps(models[name], models[reference])
    outcome, sentence = judged(clean, robust)
    both = {"clean": {**as_json(clean), "keys": keys}, "robust": {**as_json(robust), "keys": keys}}
    return {**known, **both, "outcome": outcome, "unequal": unequal(clean), "sentence": sentence}


def gaps(one: Sequence[Rows], other: Sequence[Rows]) -> tuple[Estimate, Estimate]:
    """Paired differences one − other of the clean accuracy and of the survival under the worst attack."""
    same_images([*one, *other])
    clean = difference(one[0].survives(), other[0].survives(), blocks([one[0], other[0]]))
    return clean, difference(worst(one[1:]), worst(other[1:]), blocks([*one[1:], *other[1:]]))


def unequal(clean: Estimate) -> bool:
    """Whether clean accuracies differ by more than a point (one of 100 images is a point, not more)."""
    return abs(clean.value) > POINT + 1e-9


def judged(clean: Estimate, robust: Estimate) -> tuple[str, str]:
    """What a pair shows in a word and in a sentence, from the differences to the reference."""
    if robust.low <= 0 <= robust.high:
        outcome, sentence = "undecided", "Which is more robust is undecided: the interval of the difference holds 0."
    elif robust.value > 0 and unequal(clean) and clean.value < 0:
        outcome, sentence = "bought", "A robustness gain bought with clean accuracy."
    elif robust.value > 0:
        outcome, sentence = "gain", "More robust, and not bought with clean accuracy."
    elif unequal(clean) and clean.value > 0:
        outcome, sentence = "sold", "Less robust: a gain in clean accuracy bought with robustness."
    else:
        outcome, sentence = "loss", "Less robust."
    if unequal(clean):
        sentence += " The clean accuracies differ by more than one point"
        sentence += ", though which is higher is undecided." if clean.low <= 0 <= clean.high else "."
    return outcome, sentence
