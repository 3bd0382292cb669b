"""What the attacker knew of the model that is judged: derived from the cells, never stated by hand."""

from __future__ import annotations

from robassay.cell import Cell, Model, describe
from robassay.cells import Craft, Examples, Score
from robassay.finalists import Finalist
from robassay.models import Learn, Mixed, Quieted, Train

KNOWLEDGE = ("white", "scores", "decisions", "substitute", "translucent", "transfer", "none")
"""From the most that can be known to nothing."""


def knowledge(score: Cell) -> str | None:
    """One word of :data:`KNOWLEDGE`; None for clean images, and for a cell that judges no attack.

    * white, scores, decisions: the target itself was attacked, alone, among others or in a wrapper such as
      :class:`~robassay.models.Quieted`; the word is that of the access. A mixture is attacked when all its members are.
    * substitute: a source learnt from the target's answers (its ``oracle`` or ``teacher``).
    * translucent: a source is the same net trained by the same recipe on the same data set, or a portion of it, with
      another seed. Source: Ge et al. 2020, §3.
    * transfer: any other source.
    * none: noise, compression; nothing was asked.

    Of several sources, or attacks that compete, the one that tells most counts. Where a search began (``start``) does
    not.
    """
    if not isinstance(score, Score) or isinstance(score.on, Examples):
        return None
    if isinstance(score.on, Finalist):
        return min((knowledge(heat) or "none" for heat in score.on.heats), key=KNOWLEDGE.index)
    if not isinstance(score.on, Craft) or score.on.access is None:
        return "none"
    return _of(score.on, score.on.access.label, score.target)


def _of(craft: Craft, access: str, target: Model) -> str:
    sources = [inner for source in craft.sources for inner in _inside(source)]
    targets = _bare(target)
    if _has(sources, target):
        return access
    if any(_learnt_from(source, one) for source in sources for one in targets):
        return "substitute"
    return "translucent" if any(_siblings(s, one) for s in sources for one in targets) else "transfer"


def _inside(model: Model) -> list[Model]:
    """The model and, of a wrapper, what it wraps."""
    held = [getattr(model, "of", None), *getattr(model, "members", ())]
    return [model, *(inner for one in held if isinstance(one, Model) for inner in _inside(one))]


def _bare(target: Model) -> list[Model]:
    """The target and, where its noise is off, the model whose noise it is."""
    return [target, *(_bare(target.of) if isinstance(target, Quieted) else [])]


def _has(sources: list[Model], target: Model) -> bool:
    if any(one in sources for one in _bare(target)):
        return True
    return isinstance(target, Mixed) and all(_has(sources, member) for member in target.members)


def _learnt_from(source: Model, target: Model) -> bool:
    asked = [getattr(source, name, None) for name in ("oracle", "teacher")]
    return any(isinstance(one, Model) and target in _inside(one) for one in asked)


def _siblings(one: Model, other: Model) -> bool:
    """Alike but for the seed and the share of the data set that was learnt."""
    if type(one) is not type(other) or one == other:
        return False
    inner, twin = getattr(one, "of", None), getattr(other, "of", None)
    if isinstance(inner, Model) and isinstance(twin, Model):
        return _siblings(inner, twin)
    return isinstance(one, (Train, Learn)) and _scheme(one) == _scheme(other)


def _scheme(model: Model) -> object:
    """What a training is but for its seed and images; of helpers only whether there were any."""
    told = [describe(getattr(model, name, None), False) for name in ("net", "recipe")]
    helped = [getattr(model, name, None) is None for name in ("begin", "teacher", "extra")]
    return told, helped, getattr(model, "data").checksum  # noqa: B009
