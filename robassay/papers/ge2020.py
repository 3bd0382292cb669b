"""Ge et al. 2020: Random Spiking and Systematic Evaluation of Defenses Against Adversarial Examples (CODASPY).

Reproduced: Table 2 for nine schemes, Tables 4 and 5 for eight and for region-based classification, which the paper
leaves out there; Figures 1 and 2 (Gaussian noise, JPEG) as curves and as quoted in the text, with the spread over
models; Figure 3 (three strategies) and Figure 4 (heat maps of all against all); claims g01 to g12; the audit of
RS-1-Adv. Tables 1, 3, 6 and 7 are settings: they are the recipes in :mod:`robassay.papers.ge_schemes`. Every published
number stands beside, on MNIST, Fashion-MNIST and CIFAR-10; a data set that is not at hand is told so, cell by cell.
Quoted, not built: JSMA, DeepFool, feature squeezing, feature denoising, defensive dropout, input randomisation.

``robassay run ge2020 --scale small``. Cost: "smoke" half a minute, digits in all columns; "small" about half an hour
of one core beside the networks of "networks-ge", "deciders", "positions" and "protocols-translucent", which it shares
(four hours from an empty store); "full" has the published networks and schedules: weeks on one GPU.

Deviations, all scales: Table 2 is shown as accuracy, one minus the error that is printed. A joint attack is judged on
the same eight unseen models as single ones (the paper: on twelve). All MagNets have the same auto-encoders, which an
attacker therefore knows. An attack on RC takes the gradient of one noisy pass. Figure 4's gates are those of the
attacked scheme. At "full" single attacks on wide networks have the confidences of joint ones. At "small" RS-1-Dropout
and Dropout-Adv go on from a trained RS-1 and Dropout network with 3,000 images, a distillation's teacher and student
from the latter with 9,000; MagNet's auto-encoders learn for 20 of 100 epochs, RC has 25 votes in the box and 10 where
stability is measured; five schemes of nine are attacked at K = 0 only; wide networks are WRN-10-1, of four schemes,
one attacked and one not.

Checks, and what their words are taken to mean: g01 compares the mean of ten passes with the noise off, the paper's
single prediction. g04, g06 and g11 are judged on CIFAR-10, g04 and g06 once more on Fashion-MNIST. g05 is judged in the
last bin of L2 and over the four schemes that have all confidences. g08 to g11 take what passes validation within the
paper's largest L2; g08 allows 10 points where Distillation and RC are "almost equally" vulnerable, and contradicts g11
on RC, in the paper as well. g09 compares MagNet's own row with all others. g11 is a difference of leads, grey less
colour. "-union" is, for L2 at which a white box succeeds (g02, g04), the shortest change per image, of the paper's
attack at all confidences, joint ones, and one that takes five of eight fresh draws for a success; g03 has none, as what
fools eight models fools each, so that it could not fail. For transfers (g05, g08 to g11) the threat is a translucent
box within an L2: it is the worst per image of all that was made for any scheme at any confidence. Validation picks
images, not attacks, and is not in g05-union; MagNet's own images are compared with as many of each other scheme in
g09-union. No union: g01 and g12 are accuracies, g06 and g07 noise that nobody aims. "g06-spread" is apart, since its
interval is over images, of two models per scheme at "small".

What "small" shows beyond the paper. At K = 0 an attack on a random network stops at the first draw that is fooled: of
fresh draws its images fool 4 % on RS-1, 1 % on RS-1-Dropout, 10 % on Dropout, and 79 % on Standard, which has no noise
and loses by rounding (table "ge2020-own"). Tables 4 and 5 therefore say how soon luck comes, not how far away a
boundary is. The audit of RS-1-Adv at L2 1.5 says the same: the paper's attack, untargeted and with one draw, leaves 94
% of the images, stronger ones 41 %, and its verdict is "overstated".

Where "small" disagrees with the paper. g02: by the shortest change of all attacks RS-1-Adv is ahead of Standard and
RS-1 alone, on 76 and 52 points more of the images, and not of the schemes with dropout, which halves a layer of 50
units here, nor of MagNet: open, as these nets learn for one epoch. g07: MagNet refuses nothing at L2 1, some at 2 and
everything at 5: the thresholds of auto-encoders that have learnt for 20 epochs are higher. It does not notice JPEG for
the same reason. g06: RS-1 on CIFAR-10 is the least stable of four; at 34 % accuracy it already contradicts itself on
one clean image in ten. g08 and g10: Dropout's and Dropout-Adv's columns are less vulnerable than RS-1's and
RS-1-Adv's, by 13 and 19 points. For g10 the share of adversarial images is no fair match: 660 of 3,660 for
Dropout-Adv, 830 of 28,330 for RS-1-Adv (the paper: 10,000 of 37,000 each); g08 is open. g09-union: few of MagNet's own
images lie within L2 3, and the other schemes' fool it more often there. Undecided: g01 (within .2 points of zero), g03
(MagNet: 3.73 and 3.78), g09, g11, the spread in g06, and g05-union, where six single attempts stand against three
joint ones, most of which are beyond L2 3. g04 holds on networks of 44 and 34 % accuracy with changes six times as long
as published, which says little.
"""

from __future__ import annotations

from pathlib import Path

from robassay.auditing import describe_audit
from robassay.battery import Known
from robassay.calm import Spread, Steady
from robassay.cells import Examples
from robassay.data import Data, at_hand, find
from robassay.gates import Within
from robassay.orderings import Pooled
from robassay.papers import ge_claims as claims
from robassay.papers.ge_columns import GREY, WIDE, Column, column, slug
from robassay.papers.ge_schemes import LONG, NAMES, check_scale, grey, wide
from robassay.papers.ge_trained import Trained
from robassay.papers.published import Printed, table
from robassay.protocols.translucent import across, buckets
from robassay.study import Audit, Curves, Item, Measure, Study, Table
from robassay.threat import Threat

PAPER, OURS = "ge2020", "RC (ours)"
BEYOND = 2.0
"""Times the paper's largest L2: one bin more."""
QUOTED = {
    "noise": {"MNIST, L2 5": (GREY, 5.0), "MNIST, L2 above 1": (GREY, 2.0),
              "Fashion-MNIST, L2 2.5": ("Fashion-MNIST", 2.5), "CIFAR-10, L2 2.5": ("CIFAR-10", 2.5)},
    "jpeg": {"MNIST, quality 10": (GREY, 10.0), "MNIST, quality 40 and less": (GREY, 40.0),
             "MNIST, quality 70": (GREY, 70.0), "Fashion-MNIST, quality 10": ("Fashion-MNIST", 10.0),
             "CIFAR-10, quality 10": ("CIFAR-10", 10.0)},
}  # fmt: skip
"""Where a figure is that the text quotes: data set and place on the axis."""
TOLD = {
    "smoke": "; digits in all columns, tiny nets",
    "small": (
        "; MNIST: quarter-width nets, 1 of 50 epochs, CW of 5 × 150 steps, 100 images for Standard, Dropout, RS-1 and "
        "RS-1-Adv, 25 for the others, 2 of 4 models attacked alone; CIFAR-10: WRN-10-1, 2 epochs on 4,000 images, CW "
        "of 5 × 60 steps, 25 images, 2 models"
    ),
    "full": "",
}
EPS = 1.5
"""Of the audit: half the paper's largest L2 on MNIST."""


def ge2020(scale: str, data_dir: Path | None) -> Study:
    """All tables and figures of results, all claims, and the audit of RS-1-Adv.

    Raises:
        UsageError: a scale other than "smoke", "small" and "full", or no MNIST.
    """
    check_scale(scale)
    columns, told = _columns(scale, data_dir), TOLD[scale]
    first = columns[GREY]
    assert first is not None
    why = f"no data here: robassay run {PAPER} --scale {scale} --data-dir FOLDER"
    trained = Trained(first, scale)
    noise = {name: one.noise(told) for name, one in columns.items() if one is not None}
    jpeg = {name: one.jpeg(told) for name, one in columns.items() if one is not None}
    colour = columns["CIFAR-10"]
    items: tuple[Item, ...] = (
        _errors(columns, trained, told, why),
        trained.procedures(told),
        trained.positions(told),
        *(_sizes(id, word, columns, told, why) for id, word in (("4", "Single"), ("5", "Multi-8"))),
        _own(first, told),
        _quoted("noise", noise, told, why),
        _quoted("jpeg", jpeg, told, why),
        _spread(noise, jpeg, told, why),
        *noise.values(),
        *jpeg.values(),
        *(
            one
            for c in columns.values()
            if c is not None and c.boxes
            for one in (_strategies(c, told), *_heat(c, told))
        ),
        *claims.plain(trained.off, trained.mean, trained.spiked),
        *claims.white_boxes(first),
        *(check for name in reversed(WIDE) for check in claims.wide_boxes(name, columns[name])),
        *claims.strategies(first, buckets(first.kit.effort.cut)[-1], LONG),
        *(c for n in reversed(WIDE) for c in claims.calm(n, columns[n], noise.get(n), jpeg.get(n))),
        claims.rejecting(noise[GREY]),
        *claims.targets(first),
        *claims.grey_alone(first, colour),
        _audit(first, scale),
    )
    title = f"Ge et al. 2020 ({scale})"
    return Study(PAPER, title, items, "Random Spiking and Systematic Evaluation of Defenses", scale,
                 ("Ge et al. 2020",), f"robassay run {PAPER} --scale {scale}")  # fmt: skip


def _columns(scale: str, data_dir: Path | None) -> dict[str, Column | None]:
    """The data sets that are here; at "smoke" digits stand for two of them."""
    if scale == "smoke":
        digits = find("digits")
        return {GREY: column(GREY, grey(digits, scale)), "Fashion-MNIST": None,
                "CIFAR-10": column("CIFAR-10", wide(digits, scale))}  # fmt: skip
    here: dict[str, Data | None] = {name: at_hand(id, data_dir) for name, id in WIDE.items()}
    found = {name: None if data is None else column(name, wide(data, scale)) for name, data in here.items()}
    return {GREY: column(GREY, grey(find("mnist", data_dir), scale)), **found}


def _why(one: Column | None, why: str) -> str:
    return why if one is None else "full only"


def _errors(columns: dict[str, Column | None], trained: Trained, told: str, why: str) -> Table:
    """Table 2."""
    printed = table(PAPER, "2")
    entries: dict[tuple[str, str], Measure] = {}
    for name, one in columns.items():
        if one is not None:
            rows = [row for row in printed.rows if row in one.kit.names]
            entries |= {(row, name): trained.entry(row) if name == GREY else one.accuracy(row) for row in rows}
    published = {place: round(1 - printed.rate(*place), 6) for place in printed.figures}
    absent = _absent(printed, columns, entries, why)
    caption = f"Table 2: accuracy, one minus the error that is printed; ours on {GREY}: all images learnt"
    return Table(f"{PAPER}-2", caption + told, printed.rows, printed.cols, entries, published, absent=absent)


def _absent(
    printed: Printed, columns: dict[str, Column | None], entries: dict[tuple[str, str], Measure], why: str
) -> dict[tuple[str, str], str]:
    rows = (*printed.rows, *(row for row, _ in entries if row not in printed.rows))
    places = [(row, col) for row in dict.fromkeys(rows) for col in printed.cols]
    return {(row, col): _why(columns[col], why) for row, col in places if (row, col) not in entries}


def _sizes(id: str, word: str, columns: dict[str, Column | None], told: str, why: str) -> Table:
    """Table 4 or 5, and a row that the paper does not have."""
    printed = table(PAPER, id)
    entries: dict[tuple[str, str], Measure] = {}
    for name, one in columns.items():
        for scheme in one.kit.names if one is not None else ():
            measure = one.size(scheme, id == "5") if one is not None else None
            if measure is not None:
                entries[OURS if scheme == "RC" else scheme, name] = measure
    published = {place: figure.value for place, figure in printed.figures.items()}
    absent = _absent(printed, columns, entries, why)
    caption = f"Table {id}: mean L2 at K = 0, {word}; the last row is not in the paper{told}"
    rows = (*printed.rows, OURS)
    return Table(f"{PAPER}-{id}", caption, rows, printed.cols, entries, published, "L2", absent=absent)


def _own(one: Column, told: str) -> Table:
    """What Tables 4 and 5 do not say: how often the attack finds something, and whether it holds on fresh draws."""
    entries = {}
    for name, box in one.boxes.items():
        for word, trials in (("Single", box.single.at(0)), ("Multi-8", box.joint.at(0))):
            entries[name, f"{word}: found"], entries[name, f"{word}: fooled"] = trials.found(), trials.success()
    cols = tuple(dict.fromkeys(col for _, col in entries))
    caption = (
        f"{one.name}, K = 0: images for which the attack found something, and draws fooled of all, as 8-bit images"
    )
    return Table(f"{PAPER}-own", caption + told, one.kit.names, cols, entries)


def _quoted(id: str, curves: dict[str, Curves], told: str, why: str) -> Table:
    """What the text says of Figure 1 or 2; "others" are the schemes without a figure of their own."""
    printed = table(PAPER, id)
    entries: dict[tuple[str, str], Measure] = {}
    for place, (name, at) in QUOTED[id].items():
        known = curves[name].series if name in curves else {}
        named = {row for row, col in printed.figures if col == place or (name == GREY and row == "MagNet")}
        for row in printed.rows:
            if row in known:
                entries[row, place] = known[row][curves[name].x.index(at)]
        rest = [line[curves[name].x.index(at)] for scheme, line in known.items() if scheme not in named]
        if rest:
            entries["others", place] = Measure(tuple(e for one in rest for e in one.evaluations), Steady())
    published = {place: printed.rate(*place) for place in printed.figures}
    hedged = [f"{row}, {col}: {f.relation}" for (row, col), f in printed.figures.items() if f.relation]
    absent = {
        (row, col): "full only" if QUOTED[id][col][0] in curves else why
        for row in printed.rows
        for col in printed.cols
        if (row, col) not in entries
    }
    number = {"noise": 1, "jpeg": 2}[id]
    caption = f"Figure {number} as quoted in the text ({'; '.join(hedged)}); unchanged decisions{told}"
    return Table(f"{PAPER}-{id}", caption, printed.rows, printed.cols, entries, published, absent=absent)


def _spread(noise: dict[str, Curves], jpeg: dict[str, Curves], told: str, why: str) -> Table:
    """The error bars of Figures 1 and 2."""
    entries: dict[tuple[str, str], Measure] = {}
    places = {f"{name}, {word}": (name, word) for name in (GREY, *WIDE) for word in ("most noise", "JPEG 10")}
    for col, (name, word) in places.items():
        if name in noise:
            curves, k = (noise[name], -1) if word == "most noise" else (jpeg[name], jpeg[name].x.index(10.0))
            for scheme, line in curves.series.items():
                one = line[k].evaluations
                entries[scheme, col] = Measure(one, Spread((len(one),)))
    absent = {
        (row, col): "full only" if name in noise else why
        for row in NAMES
        for col, (name, _) in places.items()
        if (row, col) not in entries
    }
    caption = "Standard deviation of the stability over models, where the noise is largest and at JPEG quality 10"
    return Table(f"{PAPER}-spread", caption + told, NAMES, tuple(places), entries, absent=absent)


def _bins(one: Column) -> dict[str, Within]:
    cut = one.kit.effort.cut
    return {f"{low:g}–{high:g}": (low, high) for low, high in (*buckets(cut), (cut, BEYOND * cut))}


def _strategies(one: Column, told: str) -> Curves:
    """Figure 3."""
    boxes = list(one.boxes.values())
    joint = tuple(e for box in boxes for e in box.joint.held)
    alone = tuple(e for box in boxes for e in box.single.held)
    held, pass_at = len(boxes[0].held), boxes[0].pass_at
    bins = _bins(one).values()
    series = {
        "Single": tuple(Measure(alone, Pooled(held, 0, within)) for within in bins),
        "Multi-8": tuple(Measure(joint, Pooled(held, 0, within)) for within in bins),
        "Multi-8 & passing 5/7": tuple(Measure(joint, Pooled(held, pass_at, within)) for within in bins),
    }
    caption = f"Figure 3, {one.name}: transfer to unseen models by L2, all schemes; the last bin is beyond the paper's"
    return Curves(f"{PAPER}-figure-3-{slug(one.name)}", caption + told, "upper end of the bin of L2", "transfer",
                  tuple(high for _, high in bins), series)  # fmt: skip


def _heat(one: Column, told: str) -> list[Table]:
    """Figure 4."""
    found = []
    for number, (word, within) in enumerate(_bins(one).items()):
        entries = {
            (f"{source} attacked", target): across(box, one.boxes[target], one.judge, within)
            for source, box in one.boxes.items()
            for target in one.boxes
        }
        rows = tuple(f"{name} attacked" for name in one.boxes)
        caption = (
            f"Figure 4, {one.name}: Multi-8 & passing 5/7 of the attacked scheme onto each scheme, L2 {word}{told}"
        )
        found.append(
            Table(f"{PAPER}-figure-4-{slug(one.name)}-{number}", caption, rows, tuple(one.boxes), entries, heat=True)
        )
    return found


def _audit(one: Column, scale: str) -> Audit:
    """RS-1-Adv against the paper's own attack."""
    model, kit = one.models["RS-1-Adv"][0], one.kit
    images, draws = {"smoke": (8, 2), "small": (60, 20), "full": (1000, 100)}[scale]
    cw = kit.effort.attack
    on = Examples(kit.data, "test", 0, images)
    claim = f"cw:search={cw.search},steps={cw.steps},draws=1"
    known = Known(quiets=True)
    return describe_audit(model, on, Threat("l2", EPS), "quick", draws, name=f"{PAPER}-audit", known=known,
                          command=f"robassay run {PAPER} --scale {scale}", claimed=claim)  # fmt: skip
