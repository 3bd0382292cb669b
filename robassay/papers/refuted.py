"""The claims of Eustratiadis et al. 2020, and their refutation of the five criteria of obfuscated gradients, judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from robassay.averages import Spared, Times
from robassay.papers.aligned import AFTER, AT, BEST, COMPETITORS, MIXED, NONE, WIDE
from robassay.papers.assailed import (
    CLEAN,
    FORM,
    KAPPAS,
    PIXELS,
    WORST,
    WORST_PIXELS,
    Assailed,
    kappa_word,
    pixels_word,
)
from robassay.papers.grounds import Ground
from robassay.policy import MeanOf
from robassay.protocols.scenarios import Form, all_of, less
from robassay.study import Check, Item, Measure, Table

NETS = (NONE, "m1", "m2", "m3", "m4", BEST)
RADII = tuple(2**n / 255 for n in range(8))
"""Of Figure 1."""
BOTH = ("FGSM", "PGD")
MUCH, KEPT, NEAR, ALIKE, SAME, NOTHING, SPARED = 0.05, 0.02, 0.05, 0.10, 0.02, 0.05, 0.9
"""What words of the claims are taken to mean: "≫", "is kept", "nearly as good" and "equal", "≈", "saturates", "reach
zero accuracy", and how many images a random search spares where it finds nothing (97 % in the paper)."""
MEAN = MeanOf(10, "logits")
UNION = "; the worst of all attacks in place of the paper's"


@dataclass(frozen=True)
class Claim:
    """A claim: contrasts that all lie on one side of a limit, by themselves or by their distance from 0."""

    id: str
    sentence: str
    parts: dict[str, Form]
    limit: float = 0.0
    side: Literal["above", "below"] = "above"

    def check(self) -> Check:
        """The claim, judged; one with the side "below" by the largest distance from 0."""
        told: Literal["lowest", "farthest"] = "lowest" if self.side == "above" else "farthest"
        return Check(self.id, self.sentence, all_of(self.parts.values(), told), self.limit, self.side)


def over(nets: Assailed, one: str, others: tuple[str, ...], words: tuple[str, ...]) -> dict[str, Form]:
    """A network's accuracy less that of others, under each attack."""
    return {
        f"{one} − {other}, {word}": less(nets.left(one, word), nets.left(other, word))
        for other in others
        for word in words
    }


def of_attacks(g: Ground, words: tuple[str, ...] = BOTH) -> list[Claim]:
    """The claims that have an L∞ attack in them, with ``words`` in its place: the paper's two, or the worst of all."""
    a, c = g.ablation, g.controls
    return [
        Claim("e01", "A2SNN > Adv-BNN, PNI, L2P under FGSM and PGD", over(g.rivals, "A2SNN", COMPETITORS, words)),
        Claim("e02", "clean accuracy is kept (within 2 points)", over(a, BEST, (NONE,), (CLEAN,)), -KEPT),
        Claim("e06", "m1 > none", over(a, "m1", (NONE,), words)),
        Claim("e07", "m3 ≫ m1 (by 5 points)", over(a, "m3", ("m1",), words), MUCH),
        Claim("e08", "m4 ≈ m3 (within 10 points)", over(a, "m4", ("m3",), words), ALIKE, "below"),
        Claim("e09", "m5 best", over(a, BEST, NETS[:-1], words)),
        Claim("e12", "independently trained noise nearly as good (5 points)", over(c, AFTER, (BEST,), words), -NEAR),
        Claim("e13", "AT and CT+AT do not help", over(c, BEST, (AT, MIXED), words)),
        Claim(
            "e20",
            "D=32 and D=512 equal (within 5 points)",
            over(g.rivals, "A2SNN", (WIDE,), (CLEAN, *words)),
            NEAR,
            "below",
        ),
    ]


def of_defender(g: Ground, words: tuple[str, ...] = BOTH) -> list[Claim]:
    """EoT and averaging; for the worst of all the single pass is the defender's and the lazy attacker's."""
    c = g.controls
    lazy = {
        f"{word}, no EoT − {stronger}": less(c.left(BEST, f"{word}, no EoT"), c.left(BEST, stronger))
        for word, stronger in zip(BOTH, words if len(words) > 1 else words * 2, strict=True)
    }
    mean = {
        f"one pass − mean of 10, {word}": less(c.left(BEST, word), c.left(BEST, word, policy=MEAN)) for word in words
    }
    return [
        Claim("e10", "no EoT raises accuracy", lazy),
        Claim("e11", "averaging 10 samples lowers it", mean),
    ]


def of_criteria(g: Ground, union: bool = False) -> list[Claim]:
    """Criteria 1, 2, 3 and 5."""
    c = g.controls
    few = c.alone(BEST).first(g.searched)
    strong = WORST if union else "PGD"
    iterated = {f"FGSM − {strong}": less(c.left(BEST, "FGSM"), c.left(BEST, strong))}
    pixel = {
        f"{p} − {word}": less(few.left(BEST, p), few.left(BEST, word))
        for p in ([WORST_PIXELS] if union else [pixels_word(n) for n in (1, 3)])
        for word in ([WORST] if union else BOTH)
    }
    a = g.one_seed()
    whole = [BEST] if union else NETS
    free = {f"{name}, eps 1": _worst_of(a, name, ("PGD-20",), 1.0, union) for name in whole}
    over_radii = [_worst_of(a, BEST, ("PGD",), eps, union) for eps in RADII]
    falls = {f"{2**n}/255 − {2 ** (n + 1)}/255": less(*pair) for n, pair in enumerate(pairwise(over_radii))}
    return [
        Claim("e15", "criterion 1: one-step attacks leave more than iterative ones", iterated),
        Claim("e16", "criterion 2: black-box attacks (1 and 3 pixels) leave more than white-box ones", pixel),
        Claim(
            "e17", "criterion 3: unbounded PGD-20 reaches 100 % (leaves below 5 %) on all variants", free, NOTHING,
            "below",
        ),
        Claim("e19", "criterion 5: a larger eps never leaves more (5 points allowed)", falls, -NEAR),
    ]  # fmt: skip


def _worst_of(nets: Assailed, name: str, words: tuple[str, ...], eps: float, union: bool) -> Form:
    """Under attacks at a radius; with ``union`` the worst of them and the closed form's."""
    words = (*words, FORM) if union else words
    groups = [tuple(nets.judged(model, word, eps) for word in words) for model in nets.nets[name]]
    return {group: 1 / len(groups) for group in groups}


def of_distances(g: Ground) -> list[Claim]:
    """C&W and the pixel attack."""
    r = g.rivals.first(g.searched)
    cw = tuple(kappa_word(k) for k in KAPPAS if k != 0.1)
    most, least = PIXELS[-1], PIXELS[0]
    weaker = less(r.left("A2SNN", pixels_word(most, False)), r.left("A2SNN", pixels_word(least, False)))
    stronger = less(r.left("A2SNN", pixels_word(least)), r.left("A2SNN", pixels_word(most)))
    changes = {
        f"few generations, {most} − {least} pixels": weaker,
        f"many generations, {least} − {most} pixels": stronger,
    }
    words = tuple(pixels_word(p) for p in PIXELS)
    union = "best under the worst of all pixel attacks"
    return [
        Claim("e03", "best under C&W but at κ=.1", over(r, "A2SNN", COMPETITORS, cw)),
        Claim("e04", "best under One-Pixel", over(r, "A2SNN", COMPETITORS, words)),
        Claim("e04-union", union, over(r, "A2SNN", COMPETITORS, (WORST_PIXELS,))),
        Claim("e05", "with 75 iterations more pixels are weaker, with 1,000 not", changes),
    ]


def of_draws(g: Ground) -> list[Claim]:
    """Where EoT saturates."""
    c = g.controls.alone(BEST)
    at = {n: c.left(BEST, "PGD", eot=n) for n in (1, 35, 40, 50)}
    late = {f"{n} − 50 draws": less(at[n], at[50]) for n in (35, 40)}
    return [
        Claim("e14", "EoT saturates at 35–40 draws (within 2 points of 50)", late, SAME, "below"),
        Claim("e14-before", "EoT has not saturated with one draw", {"1 − 35 draws": less(at[1], at[35])}),
    ]


def spared(g: Ground, union: bool = False) -> dict[str, Measure]:
    """Criterion 4: images that samples of the ball spare, and that as many draws about the images themselves do."""
    c = g.controls.alone(BEST)
    ((model,),) = c.nets.values()
    words = c.strong(model) if union else ("FGSM",)
    taken = tuple(c.judged(model, word) for word in words)
    clean = c.judged(model, CLEAN)
    seen = {"uniform samples": c.sampled(model), "the images themselves": c.unmoved(model)}
    found = {}
    for name, draws in seen.items():
        found[f"{name}: every draw right"] = Measure((draws, clean, *taken), Spared())
        found[f"{name}: share of draws right"] = Measure((draws, clean, *taken), Spared(every=False))
    return found


def claims(g: Ground) -> list[Claim]:
    """All but e18 and e21, which are no contrasts; every union stands behind its claim."""
    plain = [*of_attacks(g), *of_defender(g), *of_criteria(g), *of_distances(g), *of_draws(g)]
    unions = {one.id: one for one in (*of_attacks(g, (WORST,)), *of_defender(g, (WORST,)), *of_criteria(g, True))}
    del unions["e02"]  # no attack is in it
    named = [replace(one, id=f"{id}-union", sentence=one.sentence + UNION) for id, one in unions.items()]
    return sorted([*plain, *named], key=lambda claim: claim.id)


def judge(g: Ground) -> tuple[Item, ...]:
    """The checks by their ids, and a table of the contrasts that each is made from."""
    told = claims(g)
    checks = {claim.id: claim.check() for claim in told}
    lost = "criterion 4: random samples find nothing (more than 90 % of the images FGSM takes are spared by every one)"
    key = "uniform samples: every draw right"
    checks["e18"] = Check("e18", lost, spared(g)[key], SPARED)
    checks["e18-union"] = Check("e18-union", lost + UNION, spared(g, True)[key], SPARED)
    cost = Measure(((g.pace,),), Times(COMPETITORS, "A2SNN"))
    words = "an epoch costs less than one of the adversarially trained competitors (theirs in per cent of A2SNN's)"
    checks["e21"] = Check("e21", words, cost, 1.0)
    entries = {
        (f"{claim.id.removesuffix('-union')} {part}", "worst" if claim.id.endswith("union") else "paper"): all_of(
            [form]
        )
        for claim in told
        for part, form in claim.parts.items()
    }
    rows = tuple(sorted(dict.fromkeys(row for row, _ in entries), key=lambda row: row[:3]))
    caption = f"What the checks are made from: differences of accuracy, paired by image{g.told}"
    shown = Table("eustratiadis2020-leads", caption, rows, ("paper", "worst"), entries)
    return (*(checks[id] for id in sorted(checks)), shown)
