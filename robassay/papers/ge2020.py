"""Ge et al. 2020: Random Spiking and Systematic Evaluation of Defenses Against Adversarial Examples (CODASPY).

Reproduced on MNIST, from the cells of "networks-ge", "positions", "deciders", "protocols-stability" and
"protocols-translucent", none of its own: Table 2 for nine schemes; Tables 4 and 5 for the four schemes of the
translucent box; what the text says of Figure 2, and its curves; Figures 3 and 4; the claims g01, g03, g05, g07 and g12
as checks. Every published number of the tables stands beside, for Fashion-MNIST and CIFAR-10 without ours. Tables 1, 3,
6 and 7 are settings: they are the recipes of those studies.

``robassay run ge2020 --scale small``: hours from an empty store, as long as those five studies; "full" has the
published networks and schedules: days on one GPU.

Deviations: see the captions. Table 2 is shown as accuracy, which is one minus the error that the paper prints; the
nets of Tables 4 and 5 are narrow and learn for one epoch at scale "small". g05 has two parts, both in the bin of L2
from 2.25 to 3 and over four schemes together: several models against one, and validation on top. g07 is judged at L2
2; MagNet's auto-encoders learn for 12 of 100 epochs at scale "small", those of Table 2 for 20. RC has 200 of 10,000
votes. Not judged here: g02, g04, g06 and g08 to g11, which need schemes or data sets that those studies do not have.
"""

from __future__ import annotations

from pathlib import Path

from robassay.contrasts import Farther
from robassay.papers.networks import MEAN, SINGLE, deciders, networks_ge, positions
from robassay.papers.protocols import protocols_stability
from robassay.papers.published import table
from robassay.papers.translucent import JOINT, VALIDATED, protocols_translucent
from robassay.protocols.scenarios import Form, all_of, less
from robassay.study import Check, Curves, Evaluation, Item, Measure, Study, Table

PAPER = "ge2020"
SCHEMES = ("Standard", "Dropout", "RS-1", "RS-1-Adv")
"""Of the translucent box."""
BIN = "2.25–3"
FIGURE2 = {
    "noise": {"MNIST, L2 5": 5.0, "MNIST, L2 above 1": 2.0},
    "jpeg": {"MNIST, quality 10": 10.0, "MNIST, quality 40 and less": 40.0, "MNIST, quality 70": 70.0},
}
"""Where on its axis a figure is that the text quotes."""
OURS = {"MagNet": "MagNet", "RS-1": "RS-1", "others": "plain"}
"""Schemes of the stability study by the paper's names; for "others" a network without a defence."""


def ge2020(scale: str, data_dir: Path | None) -> Study:
    """Tables 2, 4 and 5, Figures 2 to 4 and five claims, on MNIST.

    Raises:
        UsageError: a scale other than "small" and "full".
    """
    schemes = _first(networks_ge(scale, data_dir))
    shares = _first(positions(scale, data_dir))
    still = {item.id: item for item in protocols_stability(scale, data_dir).items}
    box = {item.id: item for item in protocols_translucent(scale, data_dir).items}
    size, lead = box["translucent-size"], box["translucent-lead"]
    assert isinstance(size, Table) and isinstance(lead, Table)
    curves = {"noise": still["gaussian"], "jpeg": still["jpeg"]}
    items: tuple[Item, ...] = (
        _errors(schemes, _first(deciders(scale, data_dir)), scale),
        _sizes("4", "Single", size),
        _sizes("5", JOINT, size),
        *(_quoted(id, found) for id, found in curves.items() if isinstance(found, Curves)),
        *curves.values(),
        box["translucent-transfer"],
        lead,
        *(item for id, item in box.items() if id.startswith("translucent-heat")),
        *_checks(schemes, shares, size, lead, still["gaussian"]),
    )
    cites = ("Ge et al. 2020",)
    return Study(PAPER, f"Ge et al. 2020 on MNIST ({scale})", items, scale=scale, cites=cites)


def _first(study: Study) -> Table:
    return next(item for item in study.items if isinstance(item, Table))


def _rows(shown: Table) -> dict[str, str]:
    """Rows of a table without what stands in brackets behind their names."""
    return {row.split(" (")[0]: row for row in shown.rows}


def _errors(schemes: Table, decided: Table, scale: str) -> Table:
    printed = table(PAPER, "2")
    rows, entries = _rows(schemes), {}
    for name in printed.rows:
        if name in rows:
            entries[name, "MNIST"] = schemes.entries[rows[name], SINGLE if name == "Standard" else MEAN]
        else:
            start = {"MagNet": "MagNet", "RC": "region-based"}[name]
            row = next(row for row in decided.rows if row.startswith(start))
            entries[name, "MNIST"] = decided.entries[row, "accuracy"]
    published = {place: round(1 - printed.rate(*place), 6) for place in printed.figures}
    short = "" if scale == "full" else "; 8 of 50 epochs, RC on 500 images by 200 votes"
    caption = f"Table 2: accuracy, one minus the error that is printed; ours on MNIST{short}"
    return Table("ge2020-2", caption, printed.rows, printed.cols, entries, published)


def _sizes(id: str, strategy: str, size: Table) -> Table:
    """Table 4 or 5; those schemes that the translucent box has are ours."""
    printed = table(PAPER, id)
    entries = {(name, "MNIST"): size.entries[f"{name}, {strategy}", "K 0"] for name in SCHEMES}
    published = {place: figure.value for place, figure in printed.figures.items()}
    caption = f"Table {id}: mean L2 at K = 0, {strategy}; ours: {size.caption}"
    return Table(f"ge2020-{id}", caption, printed.rows, printed.cols, entries, published, "L2")


def _quoted(id: str, curves: Curves) -> Table:
    """What the text says of Figure 2, and where the curves have the same scheme at the same place."""
    printed = table(PAPER, id)
    entries = {
        (name, column): curves.series[ours][curves.x.index(at)]
        for name, ours in OURS.items()
        for column, at in FIGURE2[id].items()
        if (name, column) in printed.figures
    }
    published = {place: printed.rate(*place) for place in printed.figures}
    hedged = [
        f"{row}, {column}: {figure.relation}" for (row, column), figure in printed.figures.items() if figure.relation
    ]
    caption = f"Figure 2 as quoted in the text ({'; '.join(hedged)}); {curves.caption}"
    return Table(f"ge2020-{id}", caption, printed.rows, printed.cols, entries, published)


def _only(measure: Measure) -> Form:
    """The accuracy of a measure's first evaluation."""
    first: Evaluation = measure.evaluations[0]  # type: ignore[assignment]
    return {(first,): 1.0}


def _checks(schemes: Table, shares: Table, size: Table, lead: Table, noise: Item) -> tuple[Check, ...]:
    assert isinstance(noise, Curves)
    averaged = [
        less(_only(schemes.entries[row, MEAN]), _only(schemes.entries[row, SINGLE]))
        for name, row in _rows(schemes).items()
        if name in table(PAPER, "2").rows and name != "Standard"
    ]
    early, *later = (_only(shares.entries[row, MEAN]) for row in shares.rows)
    pairs = [
        size.entries[f"{name}, {strategy}", "K 0"].evaluations for name in SCHEMES for strategy in (JOINT, "Single")
    ]
    farther = Measure(tuple(e for pair in pairs for e in pair), Farther(tuple(len(pair) for pair in pairs)))
    several = lead.entries[f"all schemes: {JOINT} − Single", BIN]
    validation = lead.entries[f"all schemes: {VALIDATED} − {JOINT}", BIN]
    magnet = noise.series["MagNet"][noise.x.index(2.0)]
    return (
        Check("g01", "Voting or MC average lowers the test error", all_of(averaged)),
        Check("g03", "Multi-8 L2 > Single L2 in every row", farther),
        Check("g05-several", f"Multi-8 ≥ Single at equal L2 ({BIN})", several),
        Check("g05-validation", f"transfer(5/7) ≥ Multi-8 at equal L2 ({BIN})", validation),
        Check("g07", "MagNet's stability on MNIST falls to about 0 beyond L2 1", magnet, 0.05, "below"),
        Check("g12", "RS later in the net costs accuracy", all_of(less(early, one) for one in later)),
    )
