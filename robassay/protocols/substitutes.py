"""The black box by substitute: attack a network that was trained from the oracle's labels, and judge on the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from robassay.access import White
from robassay.cells import Craft, Examples, Score
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.folds import Accuracy, Agreement, Queries
from robassay.gates import Gated
from robassay.policy import Once
from robassay.protocols.parts import Means
from robassay.study import Evaluation, Measure, Table
from robassay.substitute import Asked, Substitute

SURE = 0.75
"""An image counts where it fools the substitute itself in more than this share of its draws (Tan et al., App. G2)."""
LAUNCHES = 100
ACCURACY, AGREES, ORACLE = "substitute's accuracy", "agreement with the oracle", "oracle's accuracy"
QUESTIONS = "questions per own image"


AVERAGED = White(Backprop(10, "logits"))
"""Values and gradients of the mean logits of ten draws (Tan et al., "average inference policy")."""


@dataclass(frozen=True)
class Outcome:
    """What the attacks on one substitute have come to."""

    success: dict[str, Measure]
    """By attack: success on the oracle, over the images that fool the substitute."""
    fooled: dict[str, Measure]
    """By attack: success on the substitute itself, over all images that the attack changed."""
    accuracy: Measure
    agreement: Measure
    """Share of the substitute's decisions that are the oracle's, on the judged images as they are."""
    oracle: Measure
    """The oracle's accuracy on them."""
    questions: Measure
    """Questions to the oracle per own image; times n, all of them."""


def by_substitute(
    substitute: Substitute, on: Examples, assaults: dict[str, Means], launches: int = LAUNCHES, slices: int = 100
) -> Outcome:
    """The measures of attacks on a substitute, judged on its oracle under the policy that it was asked under.

    Source: Tan et al. 2020, §IV-D. There images are gathered until exactly 100 fool the substitute; here ``on`` is
    given, and n says how many did.

    Args:
        substitute: which; it names oracle and policy.
        on: the images to attack, none of them the attacker's own.
        assaults: attacks by name, with the attacker's estimator.
        launches: draws of oracle and substitute per image.
        slices: images per cell.

    Raises:
        UsageError: the substitute has learnt some of the images, or they are of another shape.
    """
    own = substitute.on
    same = (own.data.checksum, own.split) == (on.data.checksum, on.split)
    if same and max(own.start, on.start) < min(own.stop, on.stop):
        raise UsageError(
            f"the images {on.start}–{on.stop} to attack and the attacker's own {own.start}–{own.stop} overlap. Attack "
            "others: on its own images a substitute knows the oracle best."
        )
    if on.data.shape != own.data.shape:
        raise UsageError(
            f"the images to attack are {on.data.shape}, the substitute learnt {own.data.shape}. Attack the same kind."
        )
    parts = on.slices(slices)

    def evaluation(judged: Callable[[Examples], Examples | Craft], by_oracle: bool) -> Evaluation:
        target, policy = (substitute.oracle, substitute.policy) if by_oracle else (substitute, Once())
        return tuple(Score(target, judged(part), policy, launches) for part in parts)

    clean = {by_oracle: evaluation(lambda part: part, by_oracle) for by_oracle in (False, True)}
    success, fooled = {}, {}
    for name, assault in assaults.items():

        def craft(part: Examples, a: Means = assault) -> Craft:
            return Craft((substitute,), part, a.attack, a.threat, a.access)

        itself = evaluation(craft, False)
        success[name] = Measure((evaluation(craft, True), itself), Gated(1, SURE))
        fooled[name] = Measure((itself,), Gated(0))
    return Outcome(
        success,
        fooled,
        Measure((clean[False],), Accuracy()),
        Measure((clean[False], clean[True]), Agreement()),
        Measure((clean[True],), Accuracy()),
        Measure(((Asked(substitute),),), Queries()),
    )


def tables(id: str, caption: str, outcomes: dict[str, Outcome]) -> tuple[Table, Table]:
    """A row per substitute: the rates, and what they cost in questions."""
    rows = tuple(outcomes)
    attacks = tuple(dict.fromkeys(name for o in outcomes.values() for name in o.success))
    entries: dict[tuple[str, str], Measure] = {}
    for row, o in outcomes.items():
        entries |= {(row, name): measure for name, measure in o.success.items()}
        entries |= {(row, on_itself(name)): measure for name, measure in o.fooled.items()}
        entries |= {(row, ACCURACY): o.accuracy, (row, AGREES): o.agreement, (row, ORACLE): o.oracle}
    cols = (*attacks, *map(on_itself, attacks), ACCURACY, AGREES, ORACLE)
    asked = {(row, QUESTIONS): o.questions for row, o in outcomes.items()}
    told = "What the substitutes cost: the mean over the attacker's own images, of which there are n"
    return (
        Table(id, caption, rows, cols, entries),
        Table(f"{id}-questions", told, rows, (QUESTIONS,), asked, unit="questions"),
    )


def on_itself(name: str) -> str:
    """The column of an attack's success on the substitute."""
    return f"{name} on the substitute"
