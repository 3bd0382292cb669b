"""The claims of Ge et al. 2020 as checks over what its columns attack and judge."""

from __future__ import annotations

from collections.abc import Sequence

from robassay.calm import Spread, Steadier
from robassay.contrasts import Farther
from robassay.folds import Fold
from robassay.gates import Within
from robassay.orderings import Fading, Fooled, Longer, NoData, Pairs, Passing, Ranked
from robassay.papers.ge_columns import GREY, Column
from robassay.papers.ge_schemes import SPIKING
from robassay.protocols.scenarios import Form, all_of, less
from robassay.protocols.translucent import Translucent, Trials
from robassay.study import Check, Curves, Evaluation, Measure

TABLED = ("Standard", "Dropout", "Distillation", "RS-1", "RS-1-Dropout", "RS-1-Adv", "MagNet", "Dropout-Adv")
"""Rows of Tables 4 and 5."""
FRAIL, ALIKE = ("Standard", "Dropout"), ("Distillation", "RC")
TOUGH = ("RS-1", "RS-1-Dropout", "RS-1-Adv", "MagNet", "Dropout-Adv")
NEARLY = 0.1
"""What "almost equally" may differ by."""
Group = tuple[Evaluation, ...]


def judged(groups: Sequence[Group], fold: Fold) -> Measure:
    """A fold over groups of evaluations that follow each other."""
    return Measure(tuple(one for group in groups for one in group), fold)


def _all(measure: Measure) -> Group:
    return measure.evaluations  # type: ignore[return-value]


def sizes(groups: Sequence[Group]) -> tuple[int, ...]:
    """As many evaluations as each group has."""
    return tuple(map(len, groups))


def white_boxes(grey: Column) -> list[Check]:
    """g02 and g03: whose changes must be longer, of one model and of several."""

    def found(name: str, joint: bool) -> Group:
        measure = grey.size(name, joint)
        assert measure is not None
        return _all(measure)

    best, others = "RS-1-Adv", [name for name in TABLED if name != "RS-1-Adv"]
    ahead = [found(name, joint) for joint in (False, True) for other in others for name in (best, other)]
    more = [found(name, joint) for name in TABLED for joint in (True, False)]
    alone = {name: grey.against_first(name) for name in TABLED}
    joint = {name: grey.together(name) for name in TABLED}
    many = len(grey.boxes[best].attacked)
    groups = [group for found_ in (alone, joint) for group in (found_[n] for n in (best, *others))]
    half = len(TABLED)
    pairs = tuple((start, start + k) for start in (0, half) for k in range(1, half))
    each = (1,) * half + (many,) * half
    g02, g03 = "RS-1-Adv needs the largest L2 (Single and Multi-8)", "Multi-8 L2 > Single L2 in every row"
    shortest = ", the shortest change of all attacks"
    return [
        Check("g02", g02, judged(ahead, Farther(sizes(ahead)))),
        Check("g02-union", g02 + shortest, judged(groups, Longer(sizes(groups), each, pairs))),
        Check("g03", g03, judged(more, Farther(sizes(more)))),
    ]


def wide_boxes(name: str, wide: Column | None) -> list[Check]:
    """g04: RS-1 against Standard on a data set with wide residual networks."""
    id = "g04" if name == "CIFAR-10" else f"g04-{name.lower()}"
    told = f"RS-1 ≥ Standard in L2 on WRN sets ({name})"
    if wide is None:
        return [missing(id, told), missing(f"{id}-union", told)]
    found = [_all(m) for n in ("RS-1", "Standard") if (m := wide.size(n, False)) is not None]
    every = [wide.against_first(n) for n in ("RS-1", "Standard")]
    longer = Longer(sizes(every), (1, 1), ((0, 1),))
    return [
        Check(id, told, judged(found, Farther(sizes(found)))),
        Check(f"{id}-union", f"{told}, the shortest change of all attacks", judged(every, longer)),
    ]


def missing(id: str, told: str) -> Check:
    """A claim about images that are not here."""
    return Check(id, f"{told}: no data here", Measure((), NoData()))


def strategies(grey: Column, within: Within, names: Sequence[str]) -> list[Check]:
    """g05, over schemes that have as many confidences alone and together."""
    boxes = [grey.boxes[name] for name in names]
    joint, single = (tuple(e for one in trials for e in one.held) for trials in _both(boxes))
    held, pass_at = len(boxes[0].held), boxes[0].pass_at
    low, high = within
    told = "transfer(5/7) ≥ Multi-8 ≥ Single at equal L2"
    sides = [
        tuple(one.held[i] for trials in side for i in range(held) for one in trials.groups) for side in _both(boxes)
    ]
    union = Fooled(sizes(sides), (held * len(boxes),) * 2, ((0, 1),), (0.0,), (0.0, grey.kit.effort.cut))
    return [
        Check("g05", f"{told} ({low:g}–{high:g})", judged((joint, single), Ranked(len(joint), held, pass_at, within))),
        Check(
            "g05-union", "Multi-8 ≥ Single, the worst of all confidences within the largest L2", judged(sides, union)
        ),
    ]


def _both(boxes: Sequence[Translucent]) -> tuple[list[Trials], list[Trials]]:
    return [box.joint for box in boxes], [box.single for box in boxes]


def targets(grey: Column) -> list[Check]:
    """g08 to g10: columns of Figure 4."""
    names, held, cut = grey.kit.names, len(grey.held["Dropout"]), (0.0, grey.kit.effort.cut)
    pass_at = next(iter(grey.boxes.values())).pass_at
    passed = {t: tuple(e for s in names for e in grey.crossed(s, t)) for t in names}
    every = {t: grey.onto(t, names) for t in names}

    def pair(id: str, told: str, shown: Sequence[str], pairs: Pairs, allowed: tuple[float, ...]) -> list[Check]:
        gated, all_ = ([of[name] for name in shown] for of in (passed, every))
        worst = Fooled(sizes(all_), (held,) * len(shown), pairs, allowed, cut)
        return [
            Check(id, told, judged(gated, Passing(sizes(gated), held, pairs, allowed, pass_at, within=cut))),
            Check(f"{id}-union", f"{told}, by the worst of all that was made for any scheme", judged(all_, worst)),
        ]

    order = (*FRAIL, *ALIKE, *TOUGH)
    pairs = [(order.index(a), order.index(b)) for a in FRAIL for b in TOUGH]
    near = [(order.index(a), order.index(b)) for a in ALIKE for b in FRAIL]
    allowed = (0.0,) * len(pairs) + (NEARLY,) * len(near)
    told = "Standard and Dropout are the most vulnerable columns, Distillation and RC alike (within 10 points)"
    return [
        *pair("g08", told, order, (*pairs, *near), allowed),
        *_magnet(grey, held, pass_at, cut),
        *pair("g10", "RS-1-Adv beats Dropout-Adv", ("Dropout-Adv", "RS-1-Adv"), ((0, 1),), (0.0,)),
    ]


def _magnet(grey: Column, held: int, pass_at: int, cut: Within) -> list[Check]:
    """g09: a row of a column against the other rows."""
    name, told = "MagNet", "MagNet resists others' examples, not its own"
    others = [n for n in grey.kit.names if n != name]
    gated = [grey.crossed(name, name), tuple(e for s in others for e in grey.crossed(s, name))]
    own, first = grey.onto(name, [name]), (0.0,)
    alike = [own, *(_fewest(grey.onto(name, [s]), len(own), held) for s in others)]
    pairs = tuple((0, k) for k in range(1, len(alike)))
    worst = Fooled(sizes(alike), (held,) * len(alike), pairs, first * len(pairs), cut)
    return [
        Check("g09", told, judged(gated, Passing(sizes(gated), held, ((0, 1),), first, pass_at, within=cut))),
        Check("g09-union", f"{told}, against the worst of each other scheme", judged(alike, worst)),
    ]


def _fewest(group: Group, count: int, held: int) -> Group:
    """The first attacks on every model, as many as the other side has: the worst of more would be worse."""
    each, few = len(group) // held, count // held
    return tuple(group[k * each + i] for k in range(held) for i in range(few))


def grey_alone(grey: Column, colour: Column | None) -> list[Check]:
    """g11: what region-based classification is ahead of its network, on grey and on colour images."""
    told = "RC good on grey data, not on colour: its lead over Dropout on MNIST less that on CIFAR-10"
    if colour is None:
        return [missing("g11", told), missing("g11-union", told)]
    gated, every = [], []
    for one in (grey, colour):
        names = one.kit.names
        gated += [tuple(e for s in names for e in one.crossed(s, target)) for target in ("Dropout", "RC")]
        every += [one.onto(target, names) for target in ("Dropout", "RC")]
    held = (len(grey.held["RC"]), len(colour.held["RC"]))
    gates = tuple(next(iter(c.boxes.values())).pass_at if c.boxes else 0 for c in (grey, colour))
    within = ((0.0, grey.kit.effort.cut), (0.0, colour.kit.effort.cut))
    return [
        Check("g11", told, judged(gated, Fading(sizes(gated), held, gates, within))),  # type: ignore[arg-type]
        Check("g11-union", f"{told}, by the worst of all that was made for any scheme",
              judged(every, Fading(sizes(every), held, (-1, -1), within))),  # type: ignore[arg-type]
    ]  # fmt: skip


def calm(name: str, wide: Column | None, noise: Curves | None, jpeg: Curves | None) -> list[Check]:
    """g06: stability at L2 2.5 and at JPEG quality 10, and its spread over models."""
    id = "g06" if name == "CIFAR-10" else f"g06-{name.lower()}"
    told = f"RS schemes most stable under Gaussian noise and JPEG ({name})"
    least = f"RS schemes have the lowest spread of stability over models ({name})"
    if wide is None or noise is None or jpeg is None:
        return [missing(id, told), missing(f"{id}-spread", least)]
    spiking = [n for n in wide.kit.names if n in SPIKING]
    others = [n for n in wide.kit.names if n not in SPIKING]
    names, pairs = (*spiking, *others), []
    groups: list[Group] = []
    for curves, at in ((noise, 2.5), (jpeg, 10.0)):
        start = len(groups)
        groups += [_all(curves.series[n][curves.x.index(at)]) for n in names]
        pairs += [(start + i, start + len(spiking) + j) for i in range(len(spiking)) for j in range(len(others))]
    each = sizes(groups)
    return [
        Check(id, told, judged(groups, Steadier(each, tuple(pairs)))),
        Check(f"{id}-spread", least, judged(groups, Spread(each, tuple(pairs)))),
    ]


def plain(off: Sequence[Evaluation], mean: Sequence[Evaluation], positions: Sequence[Evaluation]) -> list[Check]:
    """g01 and g12: accuracies."""

    def form(one: Evaluation) -> Form:
        return {(one,): 1.0}

    averaged = [less(form(m), form(o)) for m, o in zip(mean, off, strict=True)]
    early, *later = positions
    return [
        Check("g01", "Voting or MC average lowers the test error (mean of ten against noise off)", all_of(averaged)),
        Check("g12", "RS later in the net costs accuracy", all_of(less(form(early), form(one)) for one in later)),
    ]


def rejecting(noise: Curves) -> Check:
    """g07."""
    told = f"MagNet's stability on {GREY} falls to about 0 beyond L2 1"
    return Check("g07", told, noise.series["MagNet"][noise.x.index(2.0)], 0.05, "below")
