"""The claims u01 to u07 of Sharmin et al. 2020 as contrasts of accuracy, paired by image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from robassay.papers.boxes import EOT, ONE_STEP, OWN, PAPERS, SINGLE, TWIN, Sweeps, Target, mean_of, right
from robassay.papers.hybrids import KINDS
from robassay.protocols.scenarios import Form, all_of, less
from robassay.study import Check, Item, Table

WORST = "worst of all"
NEAR = 0.05


class Part(NamedTuple):
    """A contrast and what it is allowed."""

    form: Form
    allowed: float = 0.0


@dataclass(frozen=True)
class Claim:
    """Contrasts that are all above 0, or the farthest of which from 0 is within or beyond a limit."""

    id: str
    sentence: str
    parts: dict[str, Part]
    told: Literal["lowest", "farthest"] = "lowest"
    limit: float = 0.0
    side: Literal["above", "below"] = "above"

    def check(self) -> Check:
        """The claim, judged."""
        parts = list(self.parts.values())
        evidence = all_of((p.form for p in parts), self.told, (p.allowed for p in parts))
        return Check(self.id, self.sentence, evidence, self.limit, self.side)


def within(name: str, form: Form) -> dict[str, Part]:
    """A contrast within 5 points, as two that are above 0."""
    return {f"5 points + ({name})": Part(form, NEAR), f"5 points − ({name})": Part(less({}, form), NEAR)}


def claims_of_boxes(nets: dict[str, Target], union: bool) -> list[Claim]:
    """u01 to u03 by the paper's attacks, or by each image's worst."""
    ann, converted, hybrid = (nets[kind] for kind in KINDS)

    def black(one: Target, source: str) -> Form:
        return mean_of(right(one.attacked(source, name)) for name in PAPERS)

    def ours(one: Target) -> Form:
        return right(*one.worst()) if union else right(one.attacked(OWN, SINGLE if SINGLE in one.attacks else TWIN))

    boxes = {"black box": [right(*one.black()) for one in (ann, converted, hybrid)]}
    if not union:
        boxes = {f"by another {source}": [black(one, source) for one in (ann, converted, hybrid)]
                 for source in ann.second}  # fmt: skip
    comparable = within("SNN-BP − ANN, clean", less(right(hybrid.clean()), right(ann.clean())))
    ahead = {f"SNN-BP − ANN, {name}": Part(less(three[2], three[0])) for name, three in boxes.items()}
    alike = {f"SNN-conv − ANN, {name}": Part(less(three[1], three[0])) for name, three in boxes.items()}
    alike[f"SNN-conv − ANN, {OWN}"] = Part(less(ours(converted), ours(ann)))

    def lead(attack: str) -> Form:
        """Of SNN-BP over the ANN, which has no noise to average over."""
        if attack == WORST:
            return less(right(*hybrid.worst()), right(*ann.worst()))
        own = SINGLE if attack == EOT else attack
        return less(right(hybrid.attacked(OWN, attack)), right(ann.attacked(OWN, own)))

    pairs = ((SINGLE, WORST),) if union else ((ONE_STEP, SINGLE), (SINGLE, EOT), (ONE_STEP, EOT))
    depends = {f"lead under {one} − {other}": Part(less(lead(one), lead(other))) for one, other in pairs}
    return [
        Claim("u01", "black box: SNN-BP > ANN at comparable clean accuracy", {**ahead, **comparable}),
        Claim("u02", "converted ≈ ANN", alike, "farthest", NEAR, "below"),
        Claim("u03", "white box depends on the attacker", depends, "farthest", NEAR),
    ]


def claims_of_sweeps(swept: Sweeps, union: bool) -> list[Claim]:
    """u04 to u07 by the paper's attacks, or by each image's worst."""

    def left(one: Target, box: str) -> Form:
        if union:
            return right(*one.worst())
        return right(one.attacked("ANN", SINGLE) if box == "black box" else one.attacked(OWN, one.attacks[0]))

    def mean_left(several: Iterable[Target], box: str) -> Form:
        return mean_of(left(one, box) for one in several)

    def coarser(grid: dict[int, dict[int, Target]], box: str) -> Part:
        one, other = (mean_left([line[q] for line in grid.values()], box) for q in (coarse, fine))
        return Part(less(one, other))

    times, long, leaks = list(swept.steps), list(swept.long)[1:], list(swept.leaks)
    coarse, fine = min(swept.ann), max(swept.ann)
    fewer, rounded, only, leaky = dict[str, Part](), dict[str, Part](), dict[str, Part](), dict[str, Part]()
    for box in (WORST,) if union else ("black box", OWN):
        ends = [left(swept.steps[t][fine], box) for t in (times[0], times[-1])]
        fewer[f"T = {times[0]} − T = {times[-1]}, {fine} levels, {box}"] = Part(less(ends[0], ends[1]))
        rounded[f"{coarse} − {fine} levels, mean over T, {box}"] = coarser(swept.steps, box)
        only[f"SNN-conv, {coarse} − {fine} levels, mean over T, {box}"] = coarser({t: swept.long[t] for t in long}, box)
        ends = [mean_left(swept.long[t].values(), box) for t in (long[0], long[-1])]
        only |= within(f"SNN-conv, T = {long[0]} − T = {long[-1]}, mean over levels, {box}", less(ends[0], ends[1]))
        ends = [left(swept.leaks[leak], box) for leak in (leaks[0], leaks[-1])]
        leaky[f"leak {leaks[0]:g} − {leaks[-1]:g}, {box}"] = Part(less(ends[0], ends[1]))
    return [
        Claim("u04", "SNN-BP: smaller T more robust", fewer),
        Claim("u05", "quantisation adds", rounded),
        Claim("u06", "converted: quantisation only, T no effect", only),
        Claim("u07", "more leak more robust", leaky),
    ]


def judge(boxes: dict[str, dict[str, Target]], swept: Sweeps, where: str) -> tuple[Item, ...]:
    """The checks on the first networks, and tables of the contrasts that they are made from."""
    first, *others = boxes.items()
    both = {}
    for column, union in (("paper's attacks", False), ("worst per image", True)):
        both[column] = claims_of_boxes(first[1], union) + claims_of_sweeps(swept, union)
    checks = [
        replace(claim, id=claim.id + "-union", sentence=f"{claim.sentence}; every image's worst attack") if k else claim
        for k, several in enumerate(both.values())
        for claim in several
    ]
    beside = {
        f"sharmin2020-contrasts-{k}": (
            name,
            {c: claims_of_boxes(nets, u) for c, u in zip(both, (False, True), strict=True)},
        )
        for k, (name, nets) in enumerate(others, 1)
    }
    tables = {"sharmin2020-contrasts": (where, both), **beside}
    return (*(c.check() for c in checks), *(_contrasts(id, *told) for id, told in tables.items()))


def _contrasts(id: str, where: str, both: dict[str, list[Claim]]) -> Table:
    """Every part by itself, without what it is allowed."""
    entries = {
        (f"{claim.id} {name}", column): all_of([part.form])
        for column, several in both.items()
        for claim in several
        for name, part in claim.parts.items()
        if not name.startswith("5 points −")
    }
    entries = {(row.replace("5 points + (", "("), column): measure for (row, column), measure in entries.items()}
    rows = tuple(sorted(dict.fromkeys(row for row, _ in entries), key=lambda row: row[:3]))
    caption = f"What the checks are made from: differences of accuracy, paired by image; {where}"
    return Table(id, caption, rows, tuple(both), entries)
