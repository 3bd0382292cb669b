"""The translucent box: the attacker knows how the target was trained, not its weights (Ge et al. 2020, §3.2 and §5.3).

Surrogates of one scheme are trained on random shares of the images. Some are attacked, alone or jointly, and what comes
out is judged on the others, as 8-bit images. Validation by the other held-out models is a fold of the same evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from robassay.access import Attack, White
from robassay.cell import Model
from robassay.cells import Craft, Examples, Score
from robassay.data import Data
from robassay.defended import Regional
from robassay.errors import UsageError
from robassay.folds import Fold
from robassay.gates import ANY, Changed, Crossed, Lead, Moved, Reached, Rotations, Within
from robassay.goals import UnlikePredictions
from robassay.policy import Once
from robassay.portions import Portion
from robassay.protocols.parts import WHITE
from robassay.study import Evaluation, Measure
from robassay.threat import Threat

Scheme = Callable[[Portion, int], Model]
"""Trains a model on a random share of the images, from a seed."""


@dataclass(frozen=True)
class Attacker:
    """How models are attacked and images judged.

    Args:
        attack: a targeted minimum-distance attack; jointly attacked models must all be fooled.
        on: clean images.
        kappas: confidences K, in logits. Logits of a distilled net are divided by nothing when it is used, so that
            those of temperature T need T times the confidence.
        repeats: decisions of a random model per image.
        batch: images attacked and judged together.
        access: what the attack asks, such as White(Evading()) of models that refuse images.
    """

    attack: Attack
    on: Examples
    kappas: tuple[float, ...] = (0.0,)
    repeats: int = 20
    batch: int = 100
    access: White = WHITE

    def craft(self, sources: Sequence[Model], kappa: float) -> tuple[Craft, ...]:
        """Images for all ``sources`` at once, towards classes that none of them predicts; a cell per batch."""
        aim, threat = UnlikePredictions(kappa), Threat("l2")
        return tuple(
            Craft(tuple(sources), piece, self.attack, threat, self.access, aim, batch=self.batch)
            for piece in self.on.slices(self.batch)
        )

    def judge(self, crafts: Sequence[Craft], target: Model) -> Evaluation:
        """Decisions of a model about the rounded images; one that decides by votes decides so, twice."""
        policy, repeats = (target.region.policy, 2) if isinstance(target, Regional) else (Once(), self.repeats)
        return tuple(Score(target, c, policy, repeats, batch=self.batch, rounded=True) for c in crafts)


class Group(NamedTuple):
    """One attack, judged on the models that it was made on and on those that it never saw."""

    kappa: float
    crafts: tuple[Craft, ...]
    own: tuple[Evaluation, ...]
    held: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Trials:
    """Attacks of one strategy, each judged on as many models that it never saw.

    Args:
        groups: one per attack and confidence.
    """

    groups: tuple[Group, ...]

    @property
    def size(self) -> int:
        """Unseen models per attack."""
        return len(self.groups[0].held)

    @property
    def held(self) -> tuple[Evaluation, ...]:
        """Evaluations on unseen models, attack by attack."""
        return tuple(evaluation for group in self.groups for evaluation in group.held)

    def at(self, kappa: float) -> Trials:
        """The attacks of one confidence."""
        return Trials(tuple(group for group in self.groups if group.kappa == kappa))

    def transfer(self, pass_at: int = 0, within: Within = ANY) -> Measure:
        """Rate on unseen models over the images that fool ``pass_at`` of the other unseen ones, over all rotations.

        Raises:
            UsageError: there are no ``pass_at`` others.
        """
        return Measure(self.held, Rotations(self.size, pass_at, within=within))

    def lead(self, over: Trials, pass_at: int = 0, than_at: int = 0, within: Within = ANY) -> Measure:
        """:meth:`transfer` minus that of other trials, paired by image."""
        fold = Lead(len(self.held), self.size, over.size, pass_at, than_at, within=within)
        return Measure((*self.held, *over.held), fold)

    def success(self) -> Measure:
        """Rate on the attacked models, by fresh draws on the rounded images; images not found are failures."""
        return self._own(Reached(), every=True)

    def found(self) -> Measure:
        """Share of the images for which the attack found something."""
        return self._own(Changed())

    def distance(self, within: Within = ANY) -> Measure:
        """Mean L2 size, after rounding, of what was found."""
        return self._own(Moved(within))

    def _own(self, fold: Fold, every: bool = False) -> Measure:
        """A fold over the evaluations on attacked models: all of them, or one per attack."""
        return Measure(tuple(e for group in self.groups for e in (group.own if every else group.own[:1])), fold)


@dataclass(frozen=True)
class Translucent:
    """What :func:`translucent` describes.

    Args:
        attacked: t models.
        held: v models that no attack of ``single`` and ``joint`` sees.
        single: some attacked models, each alone, judged on all held ones.
        joint: all attacked models at once, judged on all held ones.
        plain: the m models of ``single``, each alone, judged on the m − 1 others: m(m − 1) trials per image.
        pass_at: held models but the target that an image must fool, of v − 1.
    """

    attacked: tuple[Model, ...]
    held: tuple[Model, ...]
    single: Trials
    joint: Trials
    plain: Trials
    pass_at: int

    def validated(self, within: Within = ANY) -> Measure:
        """Transfer of ``joint`` over the images that pass the validation; of no cell that it does not have anyway."""
        return self.joint.transfer(self.pass_at, within)


def translucent(
    scheme: Scheme,
    data: Data,
    attacker: Attacker,
    t: int = 8,
    v: int = 8,
    pass_at: int = 5,
    alone: int = 4,
    share: float = 0.5,
) -> Translucent:
    """Ge et al.'s protocol for one scheme: t + v models, each trained on its own random share of the images.

    Model i learns portion i with seed i; the first t are attacked. The paper's Single has 4 of 16 models attacked and
    judged on the 12 others; here it is judged on the same v held-out models as the joint attack, so that nothing but
    the attack differs.

    Args:
        scheme: trains a model.
        data: whose training images are shared out.
        attacker: attack, images and confidences.
        t, v: models attacked and held out.
        pass_at: validation, of v − 1.
        alone: attacked models that are also attacked alone.
        share: of the training images, per model.

    Raises:
        UsageError: too few models for the joint attack, the rotation or the single attacks.
    """
    if t < 2:
        raise UsageError(f"t={t} model cannot be attacked jointly. Write t=2 or more; the paper has 8.")
    if v < 2 or not 1 <= pass_at < v:
        raise UsageError(
            f"v={v} held-out models leave {max(0, v - 1)} to validate with when each is the target once, and "
            f"pass_at={pass_at} of them must be fooled. Hold out more, such as v=8 with pass_at=5."
        )
    if not 2 <= alone <= t:
        raise UsageError(f"alone={alone} of the t={t} attacked models are to be attacked alone. Write 2 to {t}.")
    models = tuple(scheme(Portion(data, i, share), i) for i in range(t + v))
    attacked, held = models[:t], models[t:]
    single, joint, plain = [], [], []
    for kappa in attacker.kappas:
        joint.append(group(attacker, attacked, held, kappa))
        for source in attacked[:alone]:
            others = tuple(m for m in attacked[:alone] if m != source)
            single.append(group(attacker, (source,), held, kappa))
            plain.append(group(attacker, (source,), others, kappa))
    return Translucent(attacked, held, Trials(tuple(single)), Trials(tuple(joint)), Trials(tuple(plain)), pass_at)


def group(attacker: Attacker, sources: Sequence[Model], targets: Sequence[Model], kappa: float) -> Group:
    """One attack on all ``sources`` at once, judged on them and on the ``targets``."""
    crafts = attacker.craft(sources, kappa)
    own, held = (tuple(attacker.judge(crafts, m) for m in models) for models in (sources, targets))
    return Group(kappa, crafts, own, held)


def across(source: Translucent, target: Translucent, attacker: Attacker, within: Within = ANY) -> Measure:
    """Transfer of one scheme's joint attack to another scheme's held-out models; with itself, the validated rate.

    The attacker validates with what the attack was made for: for the target in place i the held-out models of the
    source's scheme but the one in place i, which learnt the same share of the images.

    Raises:
        UsageError: the schemes hold out different numbers of models.
    """
    if len(source.held) != len(target.held):
        raise UsageError(
            f"one scheme holds out {len(source.held)} models, the other {len(target.held)}. Give both the same v."
        )
    evaluations: list[Evaluation] = []
    for one in source.joint.groups:
        evaluations += [attacker.judge(one.crafts, model) for model in target.held]
        evaluations += one.held
    return Measure(tuple(evaluations), Crossed(len(source.held), source.pass_at, within=within))


def buckets(cut: float, bins: int = 4) -> tuple[Within, ...]:
    """Equal L2 bins (low, high] up to a cut-off; the edges of the paper are not printed.

    Raises:
        UsageError: no bin, or nothing below the cut-off.
    """
    if bins < 1 or not cut > 0:
        raise UsageError(f"buckets({cut}, {bins}) are none. Write a cut-off above 0 and a bin or more: buckets(3.0).")
    return tuple((cut * i / bins, cut * (i + 1) / bins) for i in range(bins))
