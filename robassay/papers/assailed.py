"""Networks under the attacks of Eustratiadis et al. 2020, as evaluations by name: what is spent on whom."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

from robassay.access import Scores, White
from robassay.attacks.cw import CW
from robassay.attacks.gradient import FGSM, PGD
from robassay.attacks.noise import Uniform
from robassay.attacks.one_pixel import OnePixel
from robassay.cell import Model
from robassay.cells import Craft, Disturbed, Examples, Score
from robassay.defences.a2snn import A2SNN
from robassay.estimators import Backprop, ClosedForm
from robassay.folds import Accuracy
from robassay.goals import Untargeted
from robassay.models import Train
from robassay.papers.aligned import Nets
from robassay.policy import Once, Policy
from robassay.protocols.parts import ONCE, Means
from robassay.protocols.scenarios import Form, all_of
from robassay.study import Evaluation, Measure
from robassay.threat import LossName, Threat

SLICE = 250
"""Images per cell."""
CLEAN, WORST, WORST_PIXELS = "clean", "worst of all", "worst of pixels"
KAPPAS, PIXELS = (0.0, 0.1, 1.0, 2.0, 5.0), (1, 2, 3)
LOSSES: tuple[LossName, ...] = ("ce", "scaled_ce", "margin")
FORM = "PGD closed form"


@dataclass(frozen=True)
class Spent:
    """What an evaluation spends; the defaults are the published numbers, or ours where there is none.

    Args:
        eot, repeats: draws of the attacker per gradient, and of the judge.
        steps, few: of the attacks of ours, the worst of which is taken: steps, and draws per gradient.
        cw, careful: the C&W attack, and its draws per gradient.
        population, short, long: candidates of the pixel attack, and its generations in the two searches of the paper.
        samples: of the random search of criterion 4.
    """

    eot: int = 50
    repeats: int = 100
    steps: int = 40
    few: int = 10
    cw: CW = CW(search=9, steps=1000, lr=5e-4, c0=1e-3)  # noqa: RUF009 (frozen)
    careful: int = 50
    population: int = 400
    short: int = 75
    long: int = 1000
    samples: int = 10_000


def kappa_word(kappa: float) -> str:
    """Name of C&W at a confidence, as the rows of Table 2."""
    return f"kappa {kappa:g}"


def pixels_word(pixels: int, long: bool = True) -> str:
    """Name of the pixel attack, as the rows of Table 3."""
    return f"{pixels} pixel{'s' * (pixels > 1)}" + ("" if long else ", short")


def attacks(spent: Spent, threat: Threat, gaussian: bool) -> dict[str, Means]:
    """Attacks by name: the paper's, and PGD of ours on three losses and, where the logits are Gaussian, in closed form.

    Args:
        spent: how much.
        threat: L∞, of all but C&W, which has no radius, and the pixel attack.
        gaussian: of the network.
    """
    eps = threat.eps
    assert eps is not None
    many, one, few = White(Backprop(spent.eot)), White(Backprop(1)), White(Backprop(spent.few))
    pgd = PGD(steps=10, step=eps / 10, keep="last")
    found = {
        "FGSM": Means(FGSM(), threat, many),
        "PGD": Means(pgd, threat, many),
        "FGSM, no EoT": Means(FGSM(), threat, one),
        "PGD, no EoT": Means(pgd, threat, one),
        "PGD-20": Means(replace(pgd, steps=20), threat, many),
    }
    found |= {f"PGD {loss}": Means(PGD(steps=spent.steps, loss=loss), threat, few) for loss in LOSSES}
    if gaussian:
        found[FORM] = Means(PGD(steps=spent.steps, loss="margin"), threat, White(ClosedForm()))
    careful = White(Backprop(spent.careful))
    for kappa in KAPPAS:
        found[kappa_word(kappa)] = Means(spent.cw, Threat("l2"), careful, Untargeted(kappa=kappa))
    for pixels in PIXELS:
        for long in (True, False):
            search = OnePixel(population=spent.population, generations=spent.long if long else spent.short)
            found[pixels_word(pixels, long)] = Means(search, Threat("l0", pixels), Scores(Once()))
    return found


@dataclass(frozen=True)
class Assailed:
    """Networks of one data set, judged on the same images.

    Args:
        nets: by name, one for each seed.
        on: the images.
        eps: L∞ radius.
        spent: on attacks and judges.
    """

    nets: Nets
    on: Examples
    eps: float
    spent: Spent = field(default_factory=Spent)

    def alone(self, name: str) -> Assailed:
        """One of the networks, with its first seed."""
        return replace(self, nets={name: self.nets[name][:1]})

    def first(self, images: int) -> Assailed:
        """All of them on the first so many images."""
        return replace(self, on=replace(self.on, stop=self.on.start + images))

    def crafts(self, model: Model, word: str, eps: float | None = None, eot: int | None = None) -> tuple[Craft, ...]:
        """What an attack makes of the images."""
        spent = self.spent if eot is None else replace(self.spent, eot=eot)
        return _crafts(model, self.on, word, eps or self.eps, spent)

    def judged(
        self, model: Model, word: str, eps: float | None = None, eot: int | None = None, policy: Policy = ONCE
    ) -> Evaluation:
        """Decisions about attacked or clean images."""
        on = self.on.slices(SLICE) if word == CLEAN else self.crafts(model, word, eps, eot)
        return _scores(model, on, policy, self.spent.repeats)

    def strong(self, model: Model, word: str = WORST) -> tuple[str, ...]:
        """Names of the attacks whose worst is taken: all that keep the threat of the paper's, and no attack at all."""
        if word == WORST_PIXELS:
            return (*(pixels_word(p, long) for p in PIXELS for long in (True, False)), CLEAN)
        return ("PGD", *(f"PGD {loss}" for loss in LOSSES), *([FORM] if _gaussian(model) else []), CLEAN)

    def left(
        self, name: str, word: str, eps: float | None = None, eot: int | None = None, policy: Policy = ONCE
    ) -> Form:
        """Accuracy under an attack, or the worst of all per image; the mean over the seeds."""
        groups: list[tuple[Evaluation, ...]] = []
        for model in self.nets[name]:
            words = self.strong(model, word) if word in (WORST, WORST_PIXELS) else (word,)
            groups.append(tuple(self.judged(model, one, eps, eot, policy) for one in words))
        return {group: 1 / len(groups) for group in groups}

    def accuracy(
        self, name: str, word: str, eps: float | None = None, eot: int | None = None, policy: Policy = ONCE
    ) -> Measure:
        """The same as a number of a table."""
        form = self.left(name, word, eps, eot, policy)
        (first, *others) = form
        if len(first) == 1 and not others:
            return Measure(first, Accuracy())
        return all_of([form])

    def sampled(self, model: Model) -> Evaluation:
        """Decisions about uniform samples of the ball, each with a draw of its own."""
        threat = Threat("linf", self.eps)
        noisy = tuple(Disturbed(part, Uniform(), threat) for part in self.on.slices(SLICE))
        return _scores(model, noisy, ONCE, self.spent.samples)

    def unmoved(self, model: Model) -> Evaluation:
        """As many draws about the images themselves."""
        return _scores(model, self.on.slices(SLICE), ONCE, self.spent.samples)


def _gaussian(model: Model) -> bool:
    return isinstance(model, Train) and isinstance(model.net, A2SNN)


# Every claim asks for them again, and a cell computes its name once.
@cache
def _crafts(model: Model, on: Examples, word: str, eps: float, spent: Spent) -> tuple[Craft, ...]:
    means = attacks(spent, Threat("linf", eps), _gaussian(model))[word]
    return tuple(
        Craft((model,), part, means.attack, means.threat, means.access, means.aim) for part in on.slices(SLICE)
    )


@cache
def _scores(model: Model, on: tuple[Examples | Craft | Disturbed, ...], policy: Policy, repeats: int) -> Evaluation:
    return tuple(Score(model, part, policy, repeats) for part in on)
