"""Who fools whom: matrices of sources and targets, and the comparison of attackers of Sharmin et al. 2019."""

from __future__ import annotations

from collections.abc import Mapping

from robassay.cell import Model
from robassay.cells import Examples
from robassay.errors import UsageError
from robassay.folds import Difference, Success
from robassay.gates import Gated
from robassay.protocols.parts import Means, clean, judged
from robassay.study import Curves, Measure, Table


def matrix(
    id: str,
    caption: str,
    sources: Mapping[str, tuple[Model, Means]],
    targets: Mapping[str, Model],
    images: Examples,
    repeats: int = 20,
) -> Table:
    """Attack success of every source on every target, after Tan et al. 2020, Table III.

    Where the source is the target it is the white box: the rate is over images that are right when clean. Elsewhere it
    is over the images that fool the source in more than half of its draws; none of them there is no rate (n = 0).

    Args:
        id, caption: of the table.
        sources: models that are attacked, each with the means that suit it.
        targets: models that are judged.
        images: which images.
        repeats: draws per image.
    """
    entries = {}
    for source, (model, means) in sources.items():
        crafts = means.on((model,), images)
        own = judged(model, crafts, repeats=repeats)
        for target, other in targets.items():
            if other == model:
                entries[source, target] = Measure((own, clean(model, images, repeats=repeats)), Success())
            else:
                entries[source, target] = Measure((judged(other, crafts, repeats=repeats), own), Gated())
    return Table(id, caption, tuple(sources), tuple(targets), entries)


def losses(
    id: str,
    caption: str,
    target: Model,
    attackers: Mapping[str, tuple[Model, Means]],
    images: Examples,
    eps: tuple[float, ...],
    repeats: int = 20,
) -> Curves:
    """Accuracy that a target loses to several attackers over eps: clean minus attacked, on the same images.

    The scenarios of Sharmin et al. 2019, §III: a target's own weights (white box), a second network of its kind, and
    second networks of other kinds, all as ``attackers``.

    Args:
        id, caption: of the curves.
        target: the model that is judged.
        attackers: the models that are attacked, with their means; their threat's radius is replaced.
        images: which images.
        eps: radii.
        repeats: draws per image.

    Raises:
        UsageError: no radius.
    """
    if not eps:
        raise UsageError("losses over eps need one radius at least, such as eps=(8/255, 16/255).")
    before = clean(target, images, repeats=repeats)
    series = {
        name: tuple(
            Measure((before, judged(target, means.at(radius).on((model,), images), repeats=repeats)), Difference())
            for radius in eps
        )
        for name, (model, means) in attackers.items()
    }
    return Curves(id, caption, "eps", "accuracy lost", eps, series)
