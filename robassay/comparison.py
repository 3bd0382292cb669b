"""A comparison of models as an item of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robassay.cell import Cell, describe
from robassay.errors import UsageError
from robassay.study import Evaluation, Item, keys_of, plain


@dataclass(frozen=True)
class Comparison(Item):
    """Models on the same images: clean and robust accuracy, and how each differs from the first of them.

    Robust is the survival under the worst of a model's attacks. Differences are paired by image; where clean accuracies
    differ by more than one point this is said beside them.

    Args:
        models: by name the evaluation on clean images and those on attacked ones; the first model is the reference.

    Raises:
        UsageError: fewer than two models, a model without an attack, or evaluations of different images.
    """

    id: str
    caption: str
    models: dict[str, tuple[Evaluation, ...]]

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise UsageError(f"comparison '{self.id}' has {len(self.models)} model. Give two at least.")
        for name, evaluations in self.models.items():
            if len(evaluations) < 2:
                raise UsageError(
                    f"'{name}' of comparison '{self.id}' has {len(evaluations)} evaluation. Write (clean, attacked) or "
                    "(clean, attacked, attacked, …), each a tuple of Score cells."
                )
        images = {
            tuple(repr(describe(score.examples)) for score in evaluation): name
            for name, evaluations in self.models.items()
            for evaluation in evaluations
        }
        if len(images) > 1:
            names = ", ".join(dict.fromkeys(images.values()))
            raise UsageError(
                f"comparison '{self.id}' pairs evaluations of different images ({names}). Judge all models on the same "
                "examples, in the same slices."
            )

    def needs(self) -> list[Cell]:
        return [score for evaluations in self.models.values() for e in evaluations for score in e]

    def freeze(self) -> dict[str, Any]:
        models = [
            {"name": name, "clean": keys_of(clean), "attacked": [keys_of(e) for e in attacked]}
            for name, (clean, *attacked) in self.models.items()
        ]
        return {"kind": "comparison", **plain(self, "id", "caption"), "models": models}
