"""What Tan et al. 2020 claim, t01 to t16, as orderings of measured rates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from robassay.folds import Difference
from robassay.leads import Kind, Leads, Passed
from robassay.papers.tan_blackbox import (
    BALL,
    BY_NET,
    CARLINI,
    MARGIN,
    MIMIC,
    ORACLES,
    PLAIN,
    TURNED,
    Copied,
    Transfer,
)
from robassay.papers.tan_pictures import Settings, Victims, boxes, cloud
from robassay.papers.tan_settings import FIXED, RANDOM
from robassay.papers.victims import IN_BALL, OFFERED, Victim
from robassay.protocols.mixtures import CLEAN, PUBLISHED, WORST
from robassay.protocols.substitutes import SURE
from robassay.study import Check, Evaluation, Item, Measure, Table

BIM32, BIM8, CWL2, MOD, WALK = ("BIM 32/255",), ("BIM 8/255",), ("CWL2",), ("ModCWL2",), ("Boundary",)
TENTH, FIFTH = 0.1, 0.2
FIRST, UNION = "ResNet18", "the worst within L∞ 32/255"
WITHIN = "judged by the least; at least, near, ≥, the highest and in general allow 10 points, almost 20"
"""What words of the claims are taken to mean."""
LOW = ("8/255", "16/255", "32/255")
Side = tuple[Evaluation, ...]
"""Attacks on one network, and last its decisions about the clean images."""


class Pair(NamedTuple):
    """A comparison of :class:`~robassay.leads.Leads`: network and attacks of either side.

    A network of another data set than MNIST has its name before its own: "CIFAR-10, BSN-2".
    """

    kind: Kind
    one: tuple[str, tuple[str, ...]]
    other: tuple[str, tuple[str, ...]]
    allowed: float = 0.0

    def __str__(self) -> str:
        first, second = (f"{net} under {' or '.join(attacks)}" for net, attacks in (self.one, self.other))
        word = {"more": "less", "shorter": "shorter than", "sure": "less 100 %"}[self.kind]
        return f"{first} {word}" if self.kind == "sure" else f"{first}, {word} {second}"


def flat(victims: Victims) -> dict[str, Victim]:
    """All networks by the names that pairs have for them."""
    return {
        net if data == "MNIST" else f"{data}, {net}": one
        for data, those in victims.items()
        for net, one in those.items()
    }


def lead(victims: dict[str, Victim], pairs: list[Pair], spare: int = 0) -> Measure:
    """The least lead of several comparisons of networks under attack."""
    sides = [
        (pair.kind, *((*(victims[net].attacked[a] for a in those), victims[net].clean) for net, those in pair[1:3]),
         pair.allowed)
        for pair in pairs
    ]  # fmt: skip
    return judged(sides, spare)  # type: ignore[arg-type]


def judged(sides: Sequence[tuple[Kind, Side, Side, float]], spare: int = 0) -> Measure:
    """The least lead of several comparisons; both sides of one are judged on the images that both have."""
    of = max(len(side) - 1 for _, one, other, _ in sides for side in (one, other))
    evaluations: list[Evaluation] = []
    for _, one, other, _ in sides:
        common = min(len(slices) for side in (one, other) for slices in side)
        for *attacks, clean in (one, other):
            padded = (*attacks, *attacks[-1:] * (of - len(attacks)), clean)
            evaluations += [slices[:common] for slices in padded]
    fold = Leads(tuple(kind for kind, *_ in sides), tuple(more for *_, more in sides), spare, of)
    return Measure(tuple(evaluations), fold)


def passed(sides: Sequence[tuple[Side, Side, float]], spare: int = 0, above: float = 0.5) -> Measure:
    """The least lead of several comparisons of rates as in :class:`~robassay.leads.Carried`, with allowances."""
    evaluations: list[Evaluation] = []
    for one, other, _ in sides:
        common = min(len(slices) for slices in (*one, *other))
        evaluations += [slices[:common] for slices in (*one, *other)]
    return Measure(tuple(evaluations), Passed(tuple(more for *_, more in sides), spare, above))


def white_claims(known: dict[str, Victim]) -> dict[str, tuple[str, list[Pair], int]]:
    """Claims about attacks on networks that the attacker has: sentence, comparisons, how many may point the other way.

    "-union" has all attacks within L∞ 32/255 in place of BIM, and of t06 in place of every other attack. t05 and t14
    compare one attack with itself or its variant: a union in its place would compare nothing. On MNIST and CIFAR-10
    the paper has 6 of the 8 settings of t05 ahead.
    """
    others = {"BNN-D": (CWL2, MOD, WALK), "BNN-S": (CWL2, MOD)}
    highest = [(net, weaker) for net, those in others.items() for weaker in those]
    lowest = [(net, other) for net in RANDOM[:3] for other in (BIM32, CWL2, MOD)]
    stochastic = [net for net in known if net.split(", ")[-1] in RANDOM]
    mod = {net: Pair("more", (net, MOD), (net, CWL2), 0.0 if net in stochastic else TENTH)
           for net in (*stochastic, *FIXED)}  # fmt: skip
    swept = [net for net in RANDOM[:2] if f"{OFFERED}, c 0.01" in known[net].attacked]
    turned = [((net, (OFFERED,)), (net, (f"{OFFERED}, c 0.01",))) for net in swept]

    def almost(ball: tuple[str, ...]) -> list[Pair]:
        return [Pair("more", (net, ball), (FIRST, ball), FIFTH) for net in RANDOM]

    def above(ball: tuple[str, ...]) -> list[Pair]:
        return [Pair("more", (net, ball), (net, CWL2)) for net in RANDOM]

    def fragile(ball: tuple[str, ...]) -> list[Pair]:
        return [
            Pair("more", ("BNN-D", ball), (FIRST, ball), TENTH),
            Pair("more", ("BNN-D", BIM8), (FIRST, BIM8)),
            Pair("shorter", ("BNN-D", BIM8), (FIRST, BIM8)),
        ]

    def top(ball: tuple[str, ...]) -> list[Pair]:
        return [Pair("more", (net, ball), (net, other), TENTH) for net, other in highest]

    farther = [Pair("shorter", (net, other), (net, BIM32)) for net, other in highest]
    sure = [Pair("sure", (net, WALK), (net, WALK), TENTH) for net in FIXED]
    beaten = [Pair("more", (net, other), (net, WALK)) for net, other in lowest]
    t14 = [Pair("shorter", *sides) for sides in turned] + [Pair("more", *sides, TENTH) for sides in turned]
    return {
        "t01": ("BIM 32/255 breaks stochastic nets almost as often as ResNet18", almost(BIM32), 0),
        "t01-union": (f"{UNION} breaks stochastic nets almost as often as ResNet18", almost(IN_BALL), 0),
        "t02": ("BNN-D is at least as fragile as ResNet18 under BIM, and at 8/255 more so at lower L2",
                fragile(BIM32), 0),
        "t02-union": (f"BNN-D is at least as fragile as ResNet18 under {UNION}, and at 8/255 more so at lower L2",
                      fragile(IN_BALL), 0),
        "t03": ("on BNN-D and BNN-S BIM has the highest ASR of the attacks, at higher L2", top(BIM32) + farther, 0),
        "t03-union": (f"on BNN-D and BNN-S {UNION} has the highest ASR", top(IN_BALL), 0),
        "t04": ("CWL2 < BIM in ASR on every stochastic net", above(BIM32), 0),
        "t04-union": (f"CWL2 < {UNION} in ASR on every stochastic net", above(IN_BALL), 0),
        "t05": ("ModCWL2 > CWL2 in at least 9 of 12 stochastic settings, and ≥ on deterministic nets (here: in 6 of 8)",
                list(mod.values()), len(stochastic) // 4),
        "t06": ("Boundary is near 1 on deterministic nets and lowest on stochastic ones", sure + beaten, 0),
        "t06-union": (f"Boundary is near 1 on deterministic nets and below {UNION} on stochastic ones",
                      sure + [Pair("more", (net, IN_BALL), (net, WALK)) for net in RANDOM[:3]], 0),
        "t14": ("ModCWL2: larger c gives lower L2 and in general higher ASR", t14, 0),
    }  # fmt: skip


def transfer_claims(found: Transfer) -> dict[str, tuple[str, Measure]]:
    """t07 and t08, over images that fool ResNet18; t08-union over all that are right, the worst of three radii and PGD.

    t07 compares attacks with each other, in whose place no union can stand.
    """
    nets = [name for name in ("MC-SEFRON", "BSN-L", "BNN-S") if name in found.clean]
    t07 = []
    for net in nets:
        t07 += [(found.sides(net, f"BIM {b}"), found.sides(net, f"BIM {a}"), TENTH) for a, b in pairwise(LOW)]
        rivals = (CARLINI, TURNED, "Boundary")
        t07 += [(found.sides(net, BALL), found.sides(net, word), 0.0) for word in rivals]
    t08 = [(found.sides("BNN-S", BALL), found.sides(net, BALL), 0.0) for net in nets[:-1]]
    sides = {net: (*(found.hit[net, word] for word in IN_BALL), found.clean[net]) for net in nets}
    union = [("more", sides["BNN-S"], sides[net], 0.0) for net in nets[:-1]]
    return {
        "t07": ("transfer from ResNet18: BIM is highest, grows with eps, C&W and Boundary are low", passed(t07)),
        "t08": ("transfer from ResNet18 is highest onto BNN-S", passed(t08)),
        "t08-union": (f"transfer of {UNION} of ResNet18 is highest onto BNN-S", judged(union)),  # type: ignore[arg-type]
    }


def substitute_claims(found: Copied) -> dict[str, tuple[str, Measure]]:
    """t09 to t11, over images that fool the substitute in three quarters of its draws; "-union" over all that are
    right, the worse of BIM and PGD on the margin. t09 compares attacks with each other. Two of the paper's dozen bars
    may point the other way in t11, or as large a part of ours."""
    bar = found.sides

    def side(oracle: str, kind: str) -> Side:
        return (*(found.hit(oracle, kind, a) for a in (BALL, MARGIN)), found.clean(oracle, kind))

    t09 = []
    for oracle in ORACLES[:3]:
        ball, cw, mod = (bar(oracle, BY_NET, attack) for attack in (BALL, CARLINI, TURNED))
        t09 += [(mod, cw, TENTH), (ball, cw, TENTH), (ball, mod, TENTH)]
    attacks, stochastic = (BALL, CARLINI, TURNED), ("BNN-S", "MC-SEFRON")
    t10 = [(bar(o, PLAIN, a), bar(o, BY_NET, a), 0.0) for o in stochastic for a in attacks]
    mimicked = [o for o in ORACLES if (o, MIMIC) in found.outcomes]
    t11 = [(bar(o, MIMIC, a), bar(o, PLAIN, a), 0.0) for o in mimicked for a in attacks]
    both10 = [("more", side(o, PLAIN), side(o, BY_NET), 0.0) for o in stochastic]
    both11 = [("more", side(o, MIMIC), side(o, PLAIN), 0.0) for o in mimicked]
    worse = "the worse of BIM and PGD on the margin"
    return {
        "t09": ("substitute ResNet18: ModCWL2 ≥ CWL2, BIM best", passed(t09, above=SURE)),
        "t10": ("a stochastic substitute beats ResNet18, also on the deterministic target", passed(t10, above=SURE)),
        "t10-union": (f"a stochastic substitute beats ResNet18 under {worse}", judged(both10)),  # type: ignore[arg-type]
        "t11": ("variance mimicking ≥ vanilla in all but two bars", passed(t11, len(t11) // 6, SURE)),
        "t11-union": (f"variance mimicking ≥ vanilla under {worse}", judged(both11)),  # type: ignore[arg-type]
    }


def mixture_claims(shown: Table, data: str) -> dict[str, tuple[str, Measure]]:
    """t12 on one data set. That the drop is larger on MNIST than on CIFAR-10 is read off the tables: their images are
    not paired."""
    members = [row for row in shown.rows if " + " not in row]
    plain, strong = [], []
    for row in shown.rows:
        for member in row.split(" + ") if row not in members else ():
            one, other = (_sides(shown, name) for name in (member, row))
            plain.append(("more", (one[0], one[-1]), (other[0], other[-1]), 0.0))
            strong.append(("more", one, other, 0.0))
    return {
        "t12": (f"mixtures: ASR below each member's ({data})", judged(plain)),  # type: ignore[arg-type]
        "t12-union": (f"mixtures: success of the worst of BIM and PGD below each member's ({data})",
                      judged(strong)),  # type: ignore[arg-type]
    }  # fmt: skip


def _sides(shown: Table, row: str) -> Side:
    assert shown.entries[row, PUBLISHED].evaluations[0] == shown.entries[row, WORST].evaluations[0]
    assert shown.entries[row, CLEAN].evaluations[0] == shown.entries[row, WORST].evaluations[-1]
    return shown.entries[row, WORST].evaluations  # type: ignore[return-value]


def ranking(known: dict[str, Victim], hit: Transfer, copies: Copied) -> dict[str, tuple[str, Measure]]:
    """t15, over images that are right: the best substitute's BIM, and "-union" with every substitute's BIM and PGD."""
    best, union = [], []
    for net in ("BSN-L", "BNN-S"):
        kinds = [kind for kind in (BY_NET, PLAIN, MIMIC) if (net, kind) in copies.outcomes]
        clean = copies.clean(net, BY_NET)
        one = (*(copies.hit(net, kind, BALL) for kind in kinds), clean)
        many = (*(copies.hit(net, kind, a) for kind in kinds for a in (BALL, MARGIN)), clean)
        rivals: list[Side] = [(hit.hit[net, BALL], hit.clean[net])]
        if "Boundary" in known[net].attacked:
            rivals.append((known[net].attacked["Boundary"], known[net].clean))
        white: Side = (known[net].attacked["CWL2"], known[net].clean)
        best += [*(("more", one, rival, 0.0) for rival in rivals), ("more", white, one, 0.0)]
        union += [*(("more", many, rival, 0.0) for rival in rivals), ("more", white, many, 0.0)]
    words = "substitutes are the strongest black-box attack, yet below the weakest white-box one"
    return {
        "t15": (f"{words} (BIM on each)", judged(best)),  # type: ignore[arg-type]
        "t15-union": (f"{words} (all attacks within L∞ 32/255 on them)", judged(union)),  # type: ignore[arg-type]
    }


def overlap(settings: Settings) -> dict[str, tuple[str, Measure]]:
    """t16; there is no attack in it."""
    setting = settings["MNIST"]
    of = tuple((cloud(setting, name),) for name in (FIRST, "BSN-L"))
    return {"t16": ("logits of BSN-L overlap more between classes than ResNet18's (error of 10 neighbours, MNIST)",
                    Measure(of, Difference()))}  # fmt: skip


def policy_claim(victims: Victims) -> dict[str, tuple[str, Measure]]:
    """t13; it is about all attacks, in whose place no union can stand."""
    words = "average policy: higher median and lower spread of ASR than single"
    return {"t13": (words, boxes(victims))}


def undecided(words: dict[str, str], why: str) -> dict[str, tuple[str, Measure]]:
    """Claims without data: there is nothing to judge by, and the question says why."""
    return {id: (f"{question} — {why}", Measure((), Passed((0.0,)))) for id, question in words.items()}


def checks(known: dict[str, Victim], further: dict[str, tuple[str, Measure]]) -> list[Item]:
    """All claims in order, and every comparison of the white-box ones by itself."""
    told = white_claims(known)
    every = {id: (words, lead(known, pairs, spare)) for id, (words, pairs, spare) in told.items()} | further
    items: list[Item] = [Check(id, *every[id]) for id in sorted(every)]
    parts = {f"{id}: {pair}": pair for id, (_, pairs, _) in told.items() for pair in pairs if "union" not in id}
    entries = {(row, "ahead by"): lead(known, [pair._replace(allowed=0.0)]) for row, pair in parts.items()}
    caption = f"What the claims rest on: paired differences of success, or of shares with the shorter change; {WITHIN}"
    return [*items, Table("tan2020-leads", caption, tuple(parts), ("ahead by",), entries)]
