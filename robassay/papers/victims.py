"""The networks of Tan et al. 2020 under the paper's attacks, as cells."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robassay.access import Decisions, White
from robassay.attacks.boundary import Boundary
from robassay.attacks.cw import CW, ModCW
from robassay.attacks.gradient import BIM, PGD
from robassay.attacks.weighed import Weighed
from robassay.cells import Craft, Examples, Score
from robassay.estimators import Backprop
from robassay.papers.tan_settings import LATCH, RANDOM, Setting
from robassay.policy import MeanOf, Once
from robassay.protocols.parts import Means
from robassay.study import Evaluation
from robassay.threat import Threat

POLICY = MeanOf(10, "logits")
"""Who judges, and what the boundary attack asks: the paper's average inference policy."""
OFFERED = "ModCWL2, copies"
"""ModCWL2 whose turned copies count as answers, which is what the published figures are of."""
RADII = {"8/255": 8 / 255, "16/255": 16 / 255, "32/255": 32 / 255}
CONSTANTS = (0.01, 0.1, 1.0, 10.0)
IN_BALL = (*(f"BIM {eps}" for eps in RADII), "PGD margin")
"""What the worst per image is taken of: all within L∞ 32/255, so that no attack has an easier task than BIM."""


@dataclass(frozen=True)
class Victim:
    """A network under all attacks.

    Args:
        row: name in the tables.
        clean, attacked: decisions about the same images, clean and under each attack by name.
        single: of a random network, decisions of single passes about what the attacks made.
        values: of an image.
    """

    row: str
    clean: Evaluation
    attacked: dict[str, Evaluation]
    single: dict[str, Evaluation]
    values: int


def assaults(name: str, setting: Setting) -> dict[str, Means]:
    """The attacks on a network by name, as in the paper for random and for deterministic ones."""
    spent, random, full = setting.effort(name), name in RANDOM, setting.full
    seen = White(Backprop(spent.averaged if random else 1, average="logits"))
    bim = BIM(steps=spent.bim, step=0.05, early=True)
    ball = Threat("linf", RADII["32/255"])
    made = {f"BIM {word}": Means(bim, Threat("linf", eps), seen) for word, eps in RADII.items()}
    made["PGD margin"] = Means(PGD(steps=spent.bim, loss="margin", select=spent.averaged), ball, seen)
    if name == LATCH:
        return made
    c0 = 10.0 if random else 0.01 if full else 1.0
    cw: Weighed = CW(search=1 if random else spent.search, steps=spent.cw, c0=c0)
    mod = ModCW(search=1 if random else spent.again, steps=spent.cw, c0=c0)
    if full:
        cw, mod = replace(cw, lr=5e-3), replace(mod, lr=5e-3)
    kinds = {"CWL2": cw, "ModCWL2": mod}
    if name in setting.offered:  # the search over c begins where the published one does
        kinds[OFFERED] = replace(mod, offered=True, c0=c0 if random else 0.01)
    for word, attack in kinds.items():
        made[word] = Means(attack, Threat("l2"), seen)
        for c in CONSTANTS[:-1] if random and name in setting.swept else ():
            made[f"{word}, c {c:g}"] = Means(replace(attack, c0=c), Threat("l2"), seen)
    if spent.queries:
        made["Boundary"] = Means(Boundary(queries=spent.queries), Threat("l2"), Decisions(POLICY))
    return made


def victim(name: str, setting: Setting) -> Victim:
    """A network under all its attacks."""
    subject, spent = setting.nets[name], setting.effort(name)
    attacked: dict[str, Evaluation] = {}
    single: dict[str, Evaluation] = {}
    for word, means in assaults(name, setting).items():
        stop = spent.images if word in IN_BALL else spent.walked if word == "Boundary" else spent.few
        crafts = crafted(name, setting, means, stop)
        attacked[word] = tuple(Score(subject.model, craft, POLICY, spent.launches) for craft in crafts)
        if name in RANDOM and ", c " not in word:
            single[word] = tuple(Score(subject.model, craft, Once(), spent.launches) for craft in crafts)
    whole = Examples(setting.data, "test", 0, spent.images).slices(spent.slice)
    clean = tuple(Score(subject.model, part, POLICY, spent.launches) for part in whole)
    row = f"{name} ({subject.note})" if subject.note else name
    return Victim(row, clean, attacked, single, setting.values)


def crafted(name: str, setting: Setting, means: Means, stop: int) -> tuple[Craft, ...]:
    """What an attack on a network makes of the first test images, in slices."""
    on = Examples(setting.data, "test", 0, stop).slices(setting.effort(name).slice)
    model = setting.nets[name].model
    return tuple(Craft((model,), part, means.attack, means.threat, means.access) for part in on)
