"""What it costs to break a model whose decisions are all an attacker sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from robassay.access import Decisions
from robassay.attacks.boundary import Boundary
from robassay.attacks.hopskipjump import HopSkipJump
from robassay.cell import Model
from robassay.cells import Examples
from robassay.folds import Broken, Distortion
from robassay.policy import Policy
from robassay.protocols.parts import ONCE, Means, judged
from robassay.study import Curves, Measure
from robassay.threat import Threat

BOUNDARY = Boundary()


@dataclass(frozen=True)
class Asked:
    """A model as an attacker meets it.

    Args:
        model: who is asked.
        policy: what every question is answered by, and what judges in the end: a mean of ten passes answers with less
            noise, and is another defender.
        attack: how the attacker deals with answers that may be noise.
    """

    model: Model
    policy: Policy = ONCE
    attack: Boundary | HopSkipJump = BOUNDARY


def cost_to_break(
    id: str, caption: str, asked: Mapping[str, Asked], images: Examples, queries: tuple[int, ...], within: float
) -> tuple[Curves, Curves]:
    """Share of images broken within an L2 distance, and the mean distance, over the questions an attacker may ask.

    A question is an image shown once: one decision of the policy, however many passes that takes. Every budget is a
    run of its own, since an attacker who knows that the end is near settles for what there is.

    Args:
        id, caption: of the curves.
        asked: models by name.
        images: which images.
        queries: budgets per image.
        within: L2 distance up to which an image counts as broken.
    """
    shares, sizes = {}, {}
    for name, one in asked.items():
        found = []
        for budget in queries:
            attack = replace(one.attack, queries=budget)
            crafts = Means(attack, Threat("l2"), Decisions(one.policy)).on((one.model,), images)
            found.append(judged(one.model, crafts, one.policy))
        shares[name] = tuple(Measure((evaluation,), Broken(within)) for evaluation in found)
        sizes[name] = tuple(Measure((evaluation,), Distortion()) for evaluation in found)
    axis = tuple(float(budget) for budget in queries)
    words = f"broken within L2 {within:g}"
    return (
        Curves(f"{id}-share", f"{caption}: {words}", "decisions asked per image", words, axis, shares),
        Curves(
            f"{id}-distance", f"{caption}: distance", "decisions asked per image", "mean L2", axis, sizes, unit="L2"
        ),
    )
