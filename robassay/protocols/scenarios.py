"""Converted and spiking networks against white and black boxes: who attacks whom, and how (Sharmin et al. 2019, §IV).

Losses of accuracy are sums of survivals with weights, so that differences of losses are paired by image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from robassay.access import White
from robassay.attacks.gradient import BIM, FGSM, PGD, RFGSM
from robassay.attacks.snn_crafted import SNNCrafted
from robassay.cell import Model
from robassay.cells import Examples
from robassay.contrasts import Contrasts
from robassay.folds import Difference
from robassay.goals import RandomTarget
from robassay.protocols.parts import Means, clean, judged
from robassay.study import Evaluation, Measure
from robassay.surrogates import Twin
from robassay.threat import Threat

KINDS = ("ANN", "SNN-I", "SNN-II")
RADII = (8 / 255, 16 / 255, 32 / 255, 64 / 255)
BARS = RADII[:3]
"""Of Figure 2; Figure 3 has the second of them, Figure 4 all of RADII."""
STEPS = (2, 5, 7)
ONE_STEP = ("FGSM", "R-FGSM")
UNTARGETED, TARGETED = "I-FGSM", "targeted I-FGSM"
STRONGER = ("PGD-20", "PGD-20, twin")
OWN = "white box"

Form = dict[tuple[Evaluation, ...], float]
"""A sum of survivals with weights; several evaluations stand for the worst of them per image."""


def scenario_attacks(steps: int) -> dict[str, Means]:
    """The paper's four attacks on a network of ReLU, Table II: I-FGSM of so many steps of eps / steps."""
    threat, many = Threat("linf", RADII[0]), BIM(steps=steps)
    aimed = Means(many, threat, aim=RandomTarget())
    return {"FGSM": Means(FGSM(), threat), "R-FGSM": Means(RFGSM(), threat), UNTARGETED: Means(many, threat),
            TARGETED: aimed}  # fmt: skip


def crafted(kind: str, means: Means) -> Means:
    """Networks that spike are attacked through their analogue twin, on rate images: Algorithm 2."""
    if kind == "ANN":
        return means
    return replace(means, attack=SNNCrafted(means.attack), access=White(Twin()))


def attacks_of(kind: str) -> dict[str, Means]:
    """All attacks on a network of a kind by name: "I-FGSM 5" has five steps; the PGD attacks are not the paper's."""
    found = {}
    for steps in STEPS:
        for name, means in scenario_attacks(steps).items():
            found[name if name in ONE_STEP else f"{name} {steps}"] = crafted(kind, means)
    pgd = Means(PGD(steps=20, loss="margin"), Threat("linf", RADII[0]))
    found |= {STRONGER[0]: pgd} | ({} if kind == "ANN" else {STRONGER[1]: replace(pgd, access=White(Twin()))})
    return found


PUBLISHED_STEPS = 2
"""Of I-FGSM in Figures 2 and 3."""
NAMES = (*ONE_STEP, f"{UNTARGETED} {PUBLISHED_STEPS}", f"{TARGETED} {PUBLISHED_STEPS}")
UNAIMED, AIMED = NAMES[:3], NAMES[3:]


@dataclass(frozen=True)
class Matrix:
    """Table III: a network of each kind is attacked by its own weights and by second networks of all kinds.

    Args:
        own, second: networks by kind; no second ones leave the white boxes.
        images: which images.
        repeats: draws per image.
    """

    own: Mapping[str, Model]
    second: Mapping[str, Model]
    images: Examples
    repeats: int

    def clean(self, target: str) -> Evaluation:
        """Decisions about the images themselves."""
        return clean(self.own[target], self.images, repeats=self.repeats)

    def attacked(self, target: str, source: str, name: str, eps: float) -> Evaluation:
        """Decisions of a target about what was made on its own weights (``OWN``) or on the second one of a kind."""
        kind = target if source == OWN else source
        return self.by(target, source, attacks_of(kind)[name].at(eps))

    def by(self, target: str, source: str, means: Means) -> Evaluation:
        """The same for an attack that has no name here."""
        made_on = self.own[target] if source == OWN else self.second[source]
        return judged(self.own[target], means.on((made_on,), self.images), repeats=self.repeats)

    def loss(self, target: str, source: str, name: str, eps: float) -> Measure:
        """Accuracy that the target loses."""
        return Measure((self.clean(target), self.attacked(target, source, name, eps)), Difference())

    def lost(self, target: str, source: str, names: Iterable[str], radii: Iterable[float] = BARS) -> Form:
        """Mean loss over attacks and radii."""
        groups = [(self.attacked(target, source, name, eps),) for name in names for eps in radii]
        return self._mean_loss(target, groups)

    def worst(self, target: str, source: str, radii: Iterable[float] = BARS) -> Form:
        """Mean loss over radii to each image's worst attack; the white box has all, second networks' ones included."""
        shown: dict[str, tuple[str, ...]] = {source: NAMES}
        if source == OWN:
            shown = {OWN: tuple(attacks_of(target)), **dict.fromkeys(self.second, NAMES)}
        pairs = [(by, name) for by, names in shown.items() for name in names]
        groups = [tuple(self.attacked(target, by, name, eps) for by, name in pairs) for eps in radii]
        return self._mean_loss(target, groups)

    def _mean_loss(self, target: str, groups: Sequence[tuple[Evaluation, ...]]) -> Form:
        return {(self.clean(target),): 1.0, **{group: -1 / len(groups) for group in groups}}


def less(one: Form, other: Form, times: float = 1.0) -> Form:
    """one − times · other."""
    return {g: w for g in (*one, *other) if (w := one.get(g, 0.0) - times * other.get(g, 0.0))}


def all_of(
    forms: Iterable[Form], told: Literal["lowest", "farthest"] = "lowest", allowed: Iterable[float] = ()
) -> Measure:
    """What several contrasts say together, see :class:`Contrasts`."""
    forms = list(forms)
    groups = tuple(dict.fromkeys(group for form in forms for group in form))
    weights = tuple(form.get(group, 0.0) for form in forms for group in groups)
    fold = Contrasts(tuple(len(group) for group in groups), weights, told, tuple(allowed))
    return Measure(tuple(evaluation for group in groups for evaluation in group), fold)
