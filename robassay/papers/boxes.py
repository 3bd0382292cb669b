"""The networks of Sharmin et al. 2020 under attack: white boxes by own gradients, black boxes by second networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from robassay.access import White
from robassay.attacks.gradient import FGSM, PGD
from robassay.cell import Model
from robassay.cells import Examples
from robassay.converted import Timed
from robassay.estimators import Backprop
from robassay.papers.hybrids import Span, Trio
from robassay.protocols.parts import Means, clean, judged
from robassay.protocols.scenarios import Form
from robassay.quantised import Quantised
from robassay.study import Evaluation
from robassay.surrogates import Twin
from robassay.threat import Threat

ONE_STEP, SINGLE, EOT, TWIN, MARGIN = "FGSM", "PGD, one draw", "PGD, EoT", "PGD, twin", "PGD-20 margin, EoT"
ALL = (ONE_STEP, SINGLE, EOT, TWIN, MARGIN)
PAPERS = (ONE_STEP, SINGLE)
SWEPT = (SINGLE, EOT, TWIN)
OWN = "white box"


@dataclass(frozen=True)
class Target:
    """A network that is attacked along its own gradients and with images that were made on second networks.

    Args:
        model: the network.
        kind: one of KINDS.
        second: who makes images for the black box.
        images: which test images.
        span: radius, draws and repeats.
        attacks: of the white box, by name.
    """

    model: Model
    kind: str
    second: Mapping[str, Model]
    images: Examples
    span: Span
    attacks: tuple[str, ...] = ALL

    def clean(self) -> Evaluation:
        """Decisions about the images themselves."""
        return clean(self.model, self.images, repeats=self.span.repeats)

    def attacked(self, source: str, name: str) -> Evaluation:
        """Decisions about images made on the network itself (``OWN``) or on the second one of a kind."""
        made_on, kind = (self.model, self.kind) if source == OWN else (self.second[source], source)
        means = assault(name, kind, self.span)
        return judged(self.model, means.on((made_on,), self.images), repeats=self.span.repeats)

    def black(self) -> tuple[Evaluation, ...]:
        """All of the black box."""
        return tuple(self.attacked(source, name) for source in self.second for name in PAPERS)

    def worst(self) -> tuple[Evaluation, ...]:
        """All within the radius."""
        return (*(self.attacked(OWN, name) for name in self.attacks), *self.black())


def assault(name: str, kind: str, span: Span) -> Means:
    """An attack of ``ALL`` on a network of a kind; PGD as published: 7 steps of a quarter of the radius, the last one.

    A network of ReLU has no noise to average over and is its own twin.
    """
    draws = span.draws if name in (EOT, MARGIN) and kind != "ANN" else 1
    access = White(Twin()) if name == TWIN and kind != "ANN" else White(Backprop(draws))
    attack: FGSM | PGD = PGD(steps=7, step=span.eps / 4, keep="last")
    if name == ONE_STEP:
        attack = FGSM()
    elif name == MARGIN:
        attack = PGD(steps=20, loss="margin", keep="last")
    return Means(attack, Threat("linf", span.eps), access)


def right(*evaluations: Evaluation) -> Form:
    """Accuracy, of several attacks under each image's worst."""
    return {evaluations: 1.0}


def mean_of(forms: Iterable[Form]) -> Form:
    """Mean of several sums."""
    several = list(forms)
    found: Form = {}
    for form in several:
        for group, weight in form.items():
            found[group] = found.get(group, 0.0) + weight / len(several)
    return found


def targets(
    nets: Trio, images: Examples, span: Span, attacks: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, Target]:
    """The three networks; ``attacks`` of the white box by kind, by default all."""
    named = attacks or {}
    usual = {"ANN": (ONE_STEP, SINGLE, MARGIN)}
    return {
        kind: Target(model, kind, nets.second, images, span, named.get(kind, usual.get(kind, ALL)))
        for kind, model in nets.own.items()
    }


class Sweeps(NamedTuple):
    """Networks of another time behind levels, by time and levels, and SNN-BP of another leak."""

    steps: dict[int, dict[int, Target]]
    long: dict[int, dict[int, Target]]
    ann: dict[int, Target]
    leaks: dict[float, Target]


def sweeps(nets: Trio, images: Examples, span: Span, full: bool) -> Sweeps:
    def target(model: Model, kind: str, attacks: tuple[str, ...]) -> Target:
        return Target(model, kind, {"ANN": nets.second["ANN"]}, images, span, attacks)

    converted = nets.own["SNN-conv"]
    base = converted.of if isinstance(converted, Timed) else converted
    return Sweeps(
        {t: {q: target(Quantised(nets.at(steps=t, fresh=full), q), "SNN-BP", SWEPT) for q in span.levels}
         for t in span.steps},
        {t: {q: target(Quantised(Timed(base, t), q), "SNN-conv", SWEPT if full else (TWIN,)) for q in span.levels}
         for t in span.long},
        {q: target(Quantised(nets.own["ANN"], q), "ANN", (SINGLE,)) for q in span.levels},
        {leak: target(nets.at(leak=leak, fresh=full), "SNN-BP", SWEPT) for leak in span.leaks},
    )  # fmt: skip
