"""Which attacks an audit runs: chosen by what the model is, at three budgets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from robassay.access import Access, Attack, Decisions, Scores, White
from robassay.attacks.accept import KOfN, Single
from robassay.attacks.apgd import APGD
from robassay.attacks.boundary import Boundary
from robassay.attacks.gradient import PGD
from robassay.attacks.hopskipjump import HopSkipJump
from robassay.attacks.noise import UniformSearch
from robassay.attacks.square import Square
from robassay.budgets import Effort
from robassay.cell import Model, Source
from robassay.cells import Craft, Examples, Score
from robassay.claims import estimator
from robassay.estimators import Backprop, ClosedForm, Differences, Estimator, Evading
from robassay.finalists import Finalist
from robassay.models import Quieted
from robassay.moments import Moments
from robassay.nets.backbone import Shape
from robassay.nets.cnn import SmallCNN
from robassay.policy import MeanOf, Once
from robassay.precise import Precise
from robassay.probe import Findings
from robassay.recipe import Recipe
from robassay.study import Evaluation
from robassay.substitute import Substitute
from robassay.surrogates import sweep
from robassay.threat import Threat
from robassay.verdict import SWEEP

HEATS, FINALS = 10, 3
"""Draws that compare all attacks on a random model, and how many of each image's strongest are then judged by many."""
TWIN = "transfer: small CNN"
TARGETS = 9
"""All classes but the true one of ten; of more, the likeliest. Specification of the audit, §2.1."""
WALKED = 100
"""Images on which decisions alone are asked for: a walk along the boundary takes thousands for each."""
MOST_IMAGES, MOST_EPOCHS = 20_000, 10
EARLY_IMAGES = 5_000
"""Of a small CNN that may stop early: agreement is looked at after every epoch, so an epoch should not be long."""
PIXELS = 784
ALONE = 5
"""Draws that a search averages for one question where no gradient reaches the image."""


@dataclass(frozen=True)
class Known:
    """What the attacks depend on; fields as in :class:`~robassay.probe.Findings`. Nothing is lost where a thing that
    has no noise is taken for one that has, but time."""

    classes: int = 10
    stochastic: bool = True
    differentiable: bool = True
    detectors: bool = False
    opaque: bool = False
    spiking: bool = False
    gaussian: bool = False
    quiets: bool = False
    ruled: bool = False
    doubles: bool = False
    coupled: bool = False

    @classmethod
    def of(cls, found: Findings | dict[str, Any]) -> Known:
        """From what a probe found, or from the stored arrays of :class:`~robassay.signals.Facts`."""
        told = found if isinstance(found, dict) else found._asdict()
        named = {f.name: bool(told[f.name]) for f in dataclasses.fields(cls) if f.name in told and f.name != "classes"}
        return cls(classes=int(told["classes"]), **named)


class Planned(NamedTuple):
    """One attack: what is done, with what knowledge, on which model, from whose images."""

    attack: Attack
    access: Access | None
    source: Model
    transferred: bool = False
    """Whether it begins at the images of the transfer attack."""
    first: int | None = None
    """Only so many images; None for all."""


def twin_of(model: Model, data: Source, effort: Effort, known: Known) -> Substitute | None:
    """A small CNN that learns the model's own labels of training images; None where there is too little to learn from.

    It has none of the model's tricks: what fools both needs no gradient of the model, and a robustness that it shares
    is nobody's merit.
    """
    channels, height, width = data.shape
    held = len(data.split("train").y)
    lessons = int(effort.lessons * min(1.0, PIXELS / (channels * height * width)))
    enough = effort.agreed if known.differentiable else None
    images = min(held, EARLY_IMAGES if enough else MOST_IMAGES, max(200, lessons // 4))
    if min(height, width) < 4 or images < 50:
        return None
    if data.classes != known.classes and dataclasses.is_dataclass(data):  # images in memory show only some classes
        data = dataclasses.replace(data, classes=known.classes)
    epochs = min(MOST_EPOCHS, max(2, lessons // images))
    recipe = Recipe(epochs=epochs, batch=64, lr=2e-3, step=math.ceil(epochs / 2), gamma=0.3)
    policy = MeanOf(5, "probs") if known.stochastic else Once()
    return Substitute(SmallCNN(), model, Examples(data, "train", 0, images), recipe, policy, rounds=0, enough=enough)


def white(draws: int, known: Known, average: Literal["loss", "probs", "logits"] = "loss") -> White:
    """How a white box is differentiated: by back-propagation, past the detectors if there are any.

    A gradient that is 0 is what the claim's attack has met; to give it a better one would call masking a lack of steps.
    Only where asking for a gradient fails there are differences instead.
    """
    return _aware(estimator(draws, average, not known.opaque), known)


def _aware(inner: Estimator, known: Known) -> White:
    return White(Evading(inner=inner)) if known.detectors else White(inner)


def planned(
    model: Model, shape: Shape, threat: Threat, effort: Effort, known: Known, twin: Substitute | None
) -> dict[str, Planned]:
    """The attacks of the union by name, besides the claimed one and the adequate one: no single one wins everywhere.

    Where no gradient reaches the image (``shape`` C, H, W), what is left are differences, a transfer and searches.
    """
    found = _gradients(model, effort, known, twin) if known.differentiable else {}
    if twin is not None:
        found[TWIN] = Planned(PGD(steps=effort.steps, loss="margin", restarts=effort.restarts), White(), twin)
    found["differences"] = Planned(PGD(steps=10, loss="margin"), _numerical(threat, shape, known), model)
    asked = effort.searched if known.differentiable else ALONE
    policy = MeanOf(asked, "logits") if known.stochastic else Once()
    found[f"Square {effort.queries}"] = Planned(Square(queries=effort.queries), Scores(policy), model)
    found[f"uniform search {effort.samples}"] = Planned(UniformSearch(samples=effort.samples), Scores(policy), model)
    if effort.walk:
        accept = KOfN(2, 2) if known.stochastic else Single()
        walk: Attack = (
            Boundary(queries=effort.walk, accept=accept)
            if threat.norm == "l2"
            else HopSkipJump(queries=effort.walk, accept=accept)
        )
        name = f"{'boundary' if threat.norm == 'l2' else 'hopskipjump'} {effort.walk} (first {WALKED} images)"
        found[name] = Planned(walk, Decisions(), model, first=WALKED)
    return found


def _gradients(model: Model, effort: Effort, known: Known, twin: Substitute | None) -> dict[str, Planned]:
    """What a gradient that reaches the image makes possible."""
    steps, usual, settled = effort.steps, white(effort.draws, known), effort.settled if known.stochastic else 0
    found = {
        f"PGD-{steps} {loss}": Planned(
            PGD(steps=steps, loss=loss, restarts=effort.restarts, settled=settled), usual, model
        )
        for loss in ("ce", "scaled_ce", "margin")
    }
    if known.classes >= 3:
        found[f"APGD-{steps} dlr"] = Planned(APGD(steps=steps, settled=settled), usual, model, twin is not None)
    targets, each = min(TARGETS, known.classes - 1), max(5, steps // 4)
    by_class = APGD(steps=each, loss="margin", targets=targets, settled=settled)
    found[f"APGD-{each} targeted"] = Planned(by_class, usual, model)
    if known.stochastic:
        inner = ClosedForm(effort.draws) if known.gaussian else Moments(max(2, effort.draws))
        name = "closed form" if known.gaussian else "moments"
        found[name] = Planned(PGD(steps=steps, loss="margin", settled=settled), _aware(inner, known), model)
    if known.doubles and not known.stochastic:
        attack = PGD(steps=steps, loss="margin")
        found["double precision"] = Planned(attack, _aware(Precise(), known), model)
    if known.stochastic and known.quiets:
        attack = PGD(steps=steps, loss="margin", restarts=effort.restarts)
        found["noise off"] = Planned(attack, white(1, known), Quieted(model))
    if known.spiking or known.ruled:
        for one, swept in sweep(Backprop(effort.draws), trains=known.spiking).items():
            found[SWEEP + one] = Planned(
                PGD(steps=steps // 2, loss="scaled_ce", settled=settled), _aware(swept, known), model
            )
    return found


def _numerical(threat: Threat, shape: Shape, known: Known) -> White:
    """Differences over a good part of the ball: a step of a quantised input shows no smaller one."""
    assert threat.eps is not None
    side = threat.eps if threat.norm == "linf" else threat.eps / math.sqrt(math.prod(shape))
    return _aware(Differences(radius=max(side / 2, 0.01), pairs=20, draws=1), known)


def evaluations(
    model: Model,
    slices: tuple[Examples, ...],
    threat: Threat,
    attacks: dict[str, Planned],
    draws: int,
    clean: Evaluation,
    after: Evaluation | None = None,
) -> dict[str, Evaluation]:
    """The scores of every attack on ``model``, slice by slice; an image that an attack leaves out stays clean.

    Args:
        after: of an attack whose broken images the others leave alone, but for the transfer, whose images also tell
            how an ordinary network would have fared.
    """
    transfer = attacks.get(TWIN)

    def craft(one: Planned, k: int) -> Craft:
        start = craft(transfer, k) if one.transferred and transfer is not None else None
        first = after[k] if after is not None and one is not transfer else None
        return Craft((one.source,), slices[k], one.attack, threat, one.access, start=start, after=first)

    def score(one: Planned, k: int) -> Score:
        if one.first is not None and slices[k].stop - slices[0].start > one.first:
            return dataclasses.replace(clean[k], repeats=draws)
        return Score(model, craft(one, k), repeats=draws)

    return {name: tuple(score(one, k) for k in range(len(slices))) for name, one in attacks.items()}


def onwards(
    model: Model, battery: dict[str, Evaluation], threat: Threat, effort: Effort, known: Known, after: Evaluation | None
) -> dict[str, Evaluation]:
    """A last attack, from the image that was the strongest of the ``battery`` by its few draws; none without gradients.

    No loss wins on every image, so more of the same from random starts is worth less than a little from there.
    """
    if not known.differentiable:
        return {}
    attack, access = PGD(steps=effort.steps, loss="margin", settled=effort.settled), white(effort.draws, known)

    def score(k: int, heats: tuple[Score, ...]) -> Score:
        on, first = heats[0].examples, after[k] if after is not None else None
        craft = Craft((model,), on, attack, threat, access, start=Finalist(heats, on), after=first)
        return Score(model, craft, repeats=HEATS)

    return {f"PGD-{effort.steps} from the strongest": tuple(score(k, h) for k, h in enumerate(_heats(battery)))}


def finalists(model: Model, battery: dict[str, Evaluation], draws: int) -> tuple[Evaluation, ...]:
    """Per image the strongest attacks of the ``battery``, judged by ``draws`` fresh ones."""
    heats = _heats(battery)
    places = range(min(FINALS, *map(len, heats)))
    return tuple(
        tuple(Score(model, Finalist(one, one[0].examples, place), repeats=draws) for one in heats) for place in places
    )


def _heats(battery: dict[str, Evaluation]) -> list[tuple[Score, ...]]:
    """Slice by slice the scores on attacked images."""
    slices = list(zip(*battery.values(), strict=True))
    return [tuple(s for s in scores if not isinstance(s.on, Examples)) for scores in slices]
