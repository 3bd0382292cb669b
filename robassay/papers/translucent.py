"""The translucent box on MNIST: how much several surrogates and their validation add to transfer (Ge et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from robassay.cell import Source
from robassay.cells import Examples, Score
from robassay.data import find
from robassay.gates import ANY, MeanAccuracy, Within
from robassay.papers.ge_schemes import LONG, attacker, boxes_of, grey
from robassay.papers.published import table
from robassay.papers.subjects import is_full
from robassay.protocols.translucent import Attacker, Translucent, Trials, across, buckets
from robassay.study import Check, Item, Measure, Study, Table

MODELS, PASS_AT, CUT = 8, 5, 3.0
"""Models attacked, and as many held out; validation of 7; the paper's largest L2."""
BEYOND = (3.0, 6.0)
"""One bin more than the paper has: narrow nets that learn for one epoch need larger changes for the same confidence."""
JOINT, VALIDATED = f"Multi-{MODELS}", f"Multi-{MODELS}, {PASS_AT} of {MODELS - 1}"
PUBLISHED = {
    (scheme, strategy): table("ge2020", id).figure(scheme, "MNIST").value
    for strategy, id in (("Single", "4"), (JOINT, "5"))
    for scheme in ("Standard", "RS-1", "RS-1-Adv")
}
"""Mean L2 at K = 0 of Tables 4 and 5, MNIST."""
TOLD = (
    "; quarter-width nets without padding, 1 of 50 epochs, CW of 5 × 150 steps, K up to 10 of 15, 100 of 3,000 images, "
    "2 of 4 models attacked alone"
)


def protocols_translucent(scale: str, data_dir: Path | None) -> Study:
    """Single, Multi-8 and Multi-8 with validation for four schemes, and the heat map of all against all."""
    full = is_full(scale)
    kit = grey(find("mnist", data_dir), scale)
    boxes, data = boxes_of(kit, LONG), kit.data
    told = "" if full else TOLD
    leads, checks = _leads(boxes, told)
    items: tuple[Item, ...] = (
        _clean(boxes, data, 10_000 if full else 500, told),
        *_attacks(boxes, told),
        _strategies(boxes, told),
        _places(boxes, told),
        leads,
        *checks,
        *heat_of(boxes, attacker(kit, LONG[0]), told),
    )
    cites = ("Ge et al. 2020",)
    return Study("protocols-translucent", f"The translucent box on MNIST ({scale})", items, scale=scale, cites=cites)


def _clean(boxes: dict[str, Translucent], data: Source, images: int, told: str) -> Table:
    """Accuracy of a scheme's models: transfer to a net that errs anyway means little."""
    column = "clean accuracy"
    entries = {}
    for name, box in boxes.items():
        on = Examples(data, "test", 0, images)
        judged = tuple((Score(model, on, repeats=10),) for model in (*box.attacked, *box.held))
        entries[name, column] = Measure(judged, MeanAccuracy())
    caption = f"Mean accuracy of the {2 * MODELS} models of a scheme, each of a random half of the images{told}"
    return Table("translucent-clean", caption, tuple(boxes), (column,), entries)


def _attacks(boxes: dict[str, Translucent], told: str) -> tuple[Table, Table]:
    """What the attacks reach where they are made: share found, success on the attacked models, mean L2."""
    rates: dict[tuple[str, str], Measure] = {}
    sizes: dict[tuple[str, str], Measure] = {}
    published = {}
    strategies = ("Single", JOINT)
    kappas = [group.kappa for group in next(iter(boxes.values())).joint.groups]
    for name, box in boxes.items():
        for strategy, trials in zip(strategies, (box.single, box.joint), strict=True):
            for kappa in kappas:
                row, at = f"{name}, {strategy}, K {kappa:g}", trials.at(kappa)
                rates[row, "found"], rates[row, "fooled, 8 bits"] = at.found(), at.success()
                sizes[f"{name}, {strategy}", f"K {kappa:g}"] = at.distance()
            if (name, strategy) in PUBLISHED:
                published[f"{name}, {strategy}", "K 0"] = PUBLISHED[name, strategy]
    reached = Table(
        "translucent-own",
        f"Attacks on the models they were made on: images found, and fresh draws fooled of all{told}",
        tuple(dict.fromkeys(row for row, _ in rates)),
        ("found", "fooled, 8 bits"),
        rates,
    )
    distance = Table(
        "translucent-size",
        f"Mean L2 of what was found, rounded; beside it Tables 4 and 5{told}",
        tuple(dict.fromkeys(row for row, _ in sizes)),
        tuple(f"K {kappa:g}" for kappa in kappas),
        sizes,
        published,
        "L2",
    )
    return reached, distance


def _places(boxes: dict[str, Translucent], told: str) -> Table:
    """Where in its bin a strategy's images lie: images in one bin are of like, not of equal L2."""
    bins = {column: within for column, within in columns().items() if within != ANY}
    entries = {
        (f"{name}, {strategy}", column): trials.distance(within)
        for name, box in boxes.items()
        for strategy, trials in (("Single", box.single), (JOINT, box.joint))
        for column, within in bins.items()
    }
    rows = tuple(dict.fromkeys(row for row, _ in entries))
    caption = f"Mean L2 of the images in each bin, all K together{told}"
    return Table("translucent-within", caption, rows, tuple(bins), entries, {}, "L2")


def _strategies(boxes: dict[str, Translucent], told: str) -> Table:
    """The four strategies, over all confidences together, by L2."""
    entries = {}
    for name, box in boxes.items():
        for column, within in columns().items():
            entries[f"{name}, one to one", column] = box.plain.transfer(0, within)
            entries[f"{name}, Single", column] = box.single.transfer(0, within)
            entries[f"{name}, {JOINT}", column] = box.joint.transfer(0, within)
            entries[f"{name}, {VALIDATED}", column] = box.validated(within)
    caption = f"Transfer to unseen models of the scheme, by L2 of the rounded change, all K together{told}"
    return Table(
        "translucent-transfer", caption, tuple(dict.fromkeys(r for r, _ in entries)), tuple(columns()), entries
    )


def _leads(boxes: dict[str, Translucent], told: str) -> tuple[Table, tuple[Check, ...]]:
    """What several models and what validation add within one bin of L2; judged for all schemes together, as Fig. 3."""
    compared = {name: (box.joint, box.single) for name, box in boxes.items()}
    compared["all schemes"] = (_together(j for j, _ in compared.values()), _together(s for _, s in compared.values()))
    entries: dict[tuple[str, str], Measure] = {}
    checks = []
    for column, within in columns().items():
        for name, (joint, single) in compared.items():
            validation = entries[f"{name}: {VALIDATED} − {JOINT}", column] = joint.lead(joint, PASS_AT, within=within)
            several = entries[f"{name}: {JOINT} − Single", column] = joint.lead(single, within=within)
        if within != ANY:
            place = f"L2 {column}"
            checks.append(Check(f"validated-{column}", f"{place}: does validation add to {JOINT}?", validation))
            checks.append(Check(f"several-{column}", f"{place}: does {JOINT} transfer more than Single?", several))
    caption = f"Difference of transfer rates within one bin of L2, paired by image{told}"
    rows = tuple(dict.fromkeys(row for row, _ in entries))
    return Table("translucent-lead", caption, rows, tuple(columns()), entries), tuple(checks)


def _together(several: Iterable[Trials]) -> Trials:
    return Trials(tuple(group for trials in several for group in trials.groups))


def heat_of(boxes: dict[str, Translucent], attacker: Attacker, told: str) -> tuple[Table, ...]:
    """Fig. 4: schemes attacked (rows) against schemes that are the target (columns)."""
    found = []
    for number, (column, within) in enumerate(columns().items()):
        entries = {
            (f"{source} attacked", target): across(box, boxes[target], attacker, within)
            for source, box in boxes.items()
            for target in boxes
        }
        place = "all L2" if within == ANY else f"L2 {column}"
        caption = f"{VALIDATED} of the attacked scheme: transfer to the models of each scheme, {place}{told}"
        rows = tuple(f"{name} attacked" for name in boxes)
        found.append(Table(f"translucent-heat-{number}", caption, rows, tuple(boxes), entries))
    return tuple(found)


def columns() -> dict[str, Within]:
    """Bins of L2 by name, and all of them."""
    return {f"{low:g}–{high:g}": (low, high) for low, high in (*buckets(CUT), BEYOND)} | {"any": ANY}
