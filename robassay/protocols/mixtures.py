"""Stochastic mixtures against their members: Tan et al. 2020, §V and Figure 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from robassay.access import White
from robassay.cell import Model
from robassay.cells import Examples
from robassay.comparison import Comparison
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.folds import Accuracy, Success, WorstCase
from robassay.models import Mixed
from robassay.protocols.parts import Means, clean, judged
from robassay.study import Evaluation, Measure, Table

CLEAN, PUBLISHED, WORST = "clean accuracy", "ASR, mean gradient", "robust, worst of all"
DRAWS = 10
"""Passes of an attack that draws from the mixture itself."""


def mixtures(
    id: str,
    caption: str,
    members: Mapping[str, Model],
    sets: tuple[tuple[str, ...], ...],
    means: Means,
    stronger: Mapping[str, Means],
    images: Examples,
    repeats: int = 100,
) -> tuple[Table, Comparison]:
    """Each member alone and each mixture: clean accuracy, the paper's success rate, and what stronger attacks leave.

    The paper's attack takes the mean of the members' gradients, that is the sum of their losses. Its rate is over
    images that all members get right. The stronger attacks are tried on the mixture as a black box of noise (EoT over
    drawn members) and on its members jointly; per image the worst counts, chosen on other draws.

    Args:
        id, caption: of the table.
        members: single models.
        sets: names of the members of each mixture.
        means: the paper's attack.
        stronger: further attacks by name, with White access.
        images, repeats: what judges.

    Raises:
        UsageError: a mixture of a member that is not there.
    """
    missing = {name for names in sets for name in names} - set(members)
    if missing:
        raise UsageError(f"{', '.join(sorted(missing))} in a mixture is no member: {', '.join(members)} are.")
    right = {name: clean(model, images, repeats=repeats) for name, model in members.items()}
    groups = {name: (name,) for name in members} | {" + ".join(names): names for names in sets}
    entries, compared = {}, {}
    for row, names in groups.items():
        models = tuple(members[n] for n in names)
        target = models[0] if len(models) == 1 else Mixed(models)
        usual = judged(target, means.on(models, images), repeats=repeats)
        own = clean(target, images, repeats=repeats)
        entries[row, CLEAN] = Measure((own,), Accuracy())
        entries[row, PUBLISHED] = Measure((usual, *(right[n] for n in names)), Success())
        others = [e for one in stronger.values() for e in _both(target, models, one, images, repeats)]
        entries[row, WORST] = Measure((usual, *others, own), WorstCase())
        compared[row] = (own, usual, *others)
    return (
        Table(id, caption, tuple(groups), (CLEAN, PUBLISHED, WORST), entries),
        Comparison(f"{id}-compared", f"{caption}: what the noise of a mixture buys", compared),
    )


def _both(target: Model, models: tuple[Model, ...], means: Means, images: Examples, repeats: int) -> list[Evaluation]:
    """An attack on a mixture by draws from it, and by its members' joint loss."""
    drawn = replace(means, access=White(Backprop(DRAWS)))
    found = [judged(target, drawn.on((target,), images), repeats=repeats)]
    if len(models) > 1:
        found.append(judged(target, means.on(models, images), repeats=repeats))
    return found
