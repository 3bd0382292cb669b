"""The papers' printed figures: none missing, none mistyped as far as arithmetic and the papers' repetitions tell."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import pytest

from robassay.errors import UsageError
from robassay.papers import study_of
from robassay.papers.published import PAPERS, Figure, Printed, table, tables
from robassay.studies import PAPERS as STUDIES
from robassay.study import Table

ROOT = Path(__file__).parent.parent

COUNTS = {
    "tan2020": {"I": 23, "IIa": 92, "IIb": 92, "III": 24, "IV": 18, "Xa": 69, "Xb": 69, "XIa": 96, "XIb": 95},
    "sharmin2019": {"I": 3, "losses": 7},
    "sharmin2020": {},
    "ge2020": {"2": 27, "4": 24, "5": 24, "noise": 9, "jpeg": 11},
    "eustratiadis2020": {"1": 12, "2": 20, "3": 16, "4": 26, "5": 54, "6": 18},
}
"""Cells with a figure: blanks of the papers and the settings within Table 2 of Ge et al. are not counted."""

ALL = [printed for paper in PAPERS for printed in tables(paper)]
SIZES = {"MNIST": 784, "CIFAR-10": 3072, "PCam": 3072}
"""Values per image in Tan et al."""
DETERMINISTIC = ("ResNet18", "SNN_M", "MC-SEFRON", "BNN-D")


@pytest.mark.parametrize("paper", PAPERS)
def test_every_figure_of_the_tables_is_there(paper: str) -> None:
    assert {one.id: len(one.figures) for one in tables(paper)} == COUNTS[paper]


@pytest.mark.parametrize("printed", ALL, ids=lambda one: f"{one.paper}-{one.id}")
def test_figures_are_possible_in_their_unit(printed: Printed) -> None:
    top = {"rate": 1.0, "percent": 100.0}.get(printed.unit, math.inf)
    for figure in printed.figures.values():
        assert 0 <= figure.value <= top
        assert figure.sd is None or 0 < figure.sd < figure.value
    assert set(printed.about) <= set(printed.rows)
    assert len(set(printed.rows)) == len(printed.rows) and len(set(printed.cols)) == len(printed.cols)


def test_blank_cells_are_the_papers() -> None:
    """Tan et al. have no SNN_M on PCam, and no size where no image fooled BSN-4."""
    for printed in ALL:
        if "losses" in printed.id or printed.id in ("noise", "jpeg"):  # our own tables of what a text quotes
            continue
        blank = {(r, c) for r in printed.rows for c in printed.cols} - set(printed.figures)
        if printed.paper == "tan2020" and printed.id == "XIb":
            assert blank == {("MNIST, c 0.01", "BSN-4, CWL2")}
            assert table("tan2020", "XIa").rate("MNIST, c 0.01", "BSN-4, CWL2") == 0
        elif printed.id == "I" and printed.paper == "tan2020":
            assert blank == {("SNN_M", "PCam")}
        else:
            assert blank == {(r, "SNN_M") for r in printed.rows if r.startswith("PCam") and "SNN_M" in printed.cols}


def test_spreads_are_given_throughout_or_not_at_all() -> None:
    for printed in ALL:
        given = {figure.sd is not None for figure in printed.figures.values()}
        assert given == {printed.paper == "ge2020" and printed.id in ("2", "4", "5")}


# ---------------------------------------------------------------------------------- what arithmetic says of the figures


def impossible(id: str, bound: dict[str, float]) -> set[tuple[str, str]]:
    """Cells whose L2 per pixel no change of at most ``bound`` (by row) in each value has: eps · 1000 / √n."""
    found = set()
    for (row, col), figure in table("tan2020", id).figures.items():
        if figure.value > bound[row] * 1000 / math.sqrt(SIZES[row.split(", ")[0]]) + 5e-5:
            assert "mpossible" in figure.note
            found.add((row, col))
    return found


def test_sizes_of_changes_are_possible_but_for_the_known_faults() -> None:
    strengths = {row: float(row.split(", ")[1].split("/")[0]) / 255 for row in table("tan2020", "Xb").rows}
    assert impossible("Xb", strengths) == {("CIFAR-10, 8/255", "BSN-4")}
    whole = {row: 32 / 255 if "BIM" in row else 1.0 for row in table("tan2020", "IIb").rows}
    assert impossible("IIb", whole) == set()
    boxed = dict.fromkeys(table("tan2020", "XIb").rows, 1.0)
    assert impossible("XIb", boxed) == {(f"CIFAR-10, c {c}", "BSN-2, ModCWL2") for c in ("0.01", "0.1")}


def test_bim_gains_with_its_strength_but_where_the_paper_says_otherwise() -> None:
    printed = table("tan2020", "Xa")
    falls = set()
    for data in SIZES:
        for net in printed.cols:
            if (f"{data}, 8/255", net) not in printed.figures:
                continue
            weak, middle, strong = (printed.rate(f"{data}, {eps}/255", net) for eps in (8, 16, 32))
            assert weak <= middle
            if strong < middle:
                falls.add((data, net))
    assert falls == {("CIFAR-10", n) for n in ("BSN-2", "BSN-4", "BSN-L")} | {("PCam", "BNN-S")}
    assert not any(net in DETERMINISTIC for _, net in falls)


def test_deterministic_rates_are_counts_of_the_attacked_images() -> None:
    """500 images under BIM and 100 under the others, but for two rates of BNN-D that no such count gives."""
    no_count = set()
    for id in ("IIa", "Xa"):
        for (row, net), figure in table("tan2020", id).figures.items():
            fooled = figure.value * (500 if id == "Xa" or "BIM" in row else 100)
            if net in DETERMINISTIC and abs(fooled - round(fooled)) > 1e-6:
                assert figure.note.startswith("No count")
                no_count.add((row, net, figure.value))
    assert no_count == {("CIFAR-10, Boundary", "BNN-D", 0.944), ("PCam, 8/255", "BNN-D", 0.859)}


# -------------------------------------------------------------------------- figures that a paper prints more than once


def test_the_strongest_bim_stands_in_two_tables_of_tan() -> None:
    for short, long in (("IIa", "Xa"), ("IIb", "Xb")):
        for data in SIZES:
            for net in table("tan2020", short).cols:
                if (f"{data}, BIM", net) in table("tan2020", short).figures:
                    once = table("tan2020", short).figure(f"{data}, BIM", net).value
                    again = table("tan2020", long).figure(f"{data}, 32/255", net).value
                    assert once == pytest.approx(again, abs=5e-5), (data, net)


def test_cw_at_its_largest_constant_stands_in_two_tables_of_tan() -> None:
    """But for two cells that differ in the last digits, and say so."""
    differ = set()
    for short, long in (("IIa", "XIa"), ("IIb", "XIb")):
        for data in SIZES:
            for col in table("tan2020", long).cols:
                net, attack = col.split(", ")
                once = table("tan2020", short).figure(f"{data}, {attack}", net)
                again = table("tan2020", long).figure(f"{data}, c 10", col)
                if once.value != pytest.approx(again.value, abs=5e-5):
                    assert once.note and abs(once.value - again.value) < 3e-4
                    differ.add((short, data, net, attack))
    assert differ == {("IIa", "MNIST", "BSN-4", "ModCWL2"), ("IIb", "PCam", "BSN-4", "ModCWL2")}


def test_a2snn_and_its_competitors_stand_in_several_tables() -> None:
    """With one decimal or two; L2P's PGD differs, and both places say so."""
    one, three, four, five, six = (table("eustratiadis2020", id) for id in "13456")
    for col in ("clean", "FGSM", "PGD"):
        best = one.figure("A2SNN", col).value
        for again in (five.figure("m5", f"CIFAR-10, {col}"), six.figure("A2SNN (m5)", col)):
            assert again.value == pytest.approx(best, abs=0.051)
    for col in ("clean", "PGD"):
        assert four.figure("A2SNN", col).value == pytest.approx(one.figure("A2SNN", col).value, abs=0.051)
    assert [three.figure("clean", name).value for name in three.cols] == [
        one.figure(name, "clean").value for name in three.cols
    ]
    assert four.figure("L2P", "clean").value == one.figure("L2P", "clean").value
    assert (four.figure("L2P", "PGD").value, one.figure("L2P", "PGD").value) == (56.3, 56.06)
    assert "56.06" in four.figure("L2P", "PGD").note and "56.3" in one.figure("L2P", "PGD").note


def test_orderings_that_the_papers_state() -> None:
    """Eight models at once need larger changes than one (Ge); stronger attacks leave less (Eustratiadis)."""
    single, joint = table("ge2020", "4"), table("ge2020", "5")
    assert all(joint.figures[cell].value > figure.value for cell, figure in single.figures.items())
    three, five = table("eustratiadis2020", "3"), table("eustratiadis2020", "5")
    for name in three.cols:
        left = [three.figure(row, name).value for row in three.rows]
        assert left == sorted(left, reverse=True)
    for data in ("CIFAR-10", "SVHN", "F-MNIST"):
        for row in five.rows:
            clean, fgsm, pgd = (five.figure(row, f"{data}, {col}").value for col in ("clean", "FGSM", "PGD"))
            assert clean > fgsm > pgd
        robust = [five.figure(row, f"{data}, PGD").value for row in ("no defence", "m1", "m2", "m5")]
        assert robust == sorted(robust)


# ------------------------------------------------------------------------------------------------------ spot values


@pytest.mark.parametrize(
    ("paper", "id", "row", "col", "value"),
    [
        ("tan2020", "I", "BSN-4", "CIFAR-10", 0.542),
        ("tan2020", "I", "BNN-D", "PCam", 0.798),
        ("tan2020", "IIa", "CIFAR-10, Boundary", "BSN-2", 0.7417),
        ("tan2020", "IIa", "MNIST, CWL2", "SNN_M", 0.62),
        ("tan2020", "IIa", "PCam, Boundary", "ResNet18", 0.73),
        ("tan2020", "IIb", "MNIST, Boundary", "SNN_M", 10.7922),
        ("tan2020", "IIb", "CIFAR-10, ModCWL2", "BSN-2", 5.9525),
        ("tan2020", "III", "BIM 16/255", "BNN-S", 0.4275),
        ("tan2020", "III", "ModCWL2", "SNN_M", 0.06),
        ("tan2020", "IV", "MNIST, ModCWL2", "BSN-L", 0.5831),
        ("tan2020", "IV", "CIFAR-10, CWL2", "MC-SEFRON", 0.6701),
        ("tan2020", "Xa", "MNIST, 8/255", "BNN-D", 0.992),
        ("tan2020", "Xa", "CIFAR-10, 16/255", "SNN_M", 0.534),
        ("tan2020", "Xb", "PCam, 16/255", "MC-SEFRON", 0.86),
        ("tan2020", "XIa", "PCam, c 1", "BSN-4, CWL2", 0.1547),
        ("tan2020", "XIa", "CIFAR-10, c 0.1", "BNN-S, ModCWL2", 0.6731),
        ("tan2020", "XIb", "MNIST, c 0.1", "BSN-4, ModCWL2", 7.0468),
        ("tan2020", "XIb", "PCam, c 0.01", "BNN-S, CWL2", 0.0077),
        ("sharmin2019", "I", "SNN-II", "CIFAR-10", 87.1),
        ("sharmin2019", "losses", "SNN-I, white box", "FGSM 8/255", 43.5),
        ("sharmin2019", "losses", "SNN-II, by another SNN-II", "targeted I-FGSM 64/255", 50),
        ("ge2020", "2", "RS-1-Dropout", "CIFAR-10", 5.81),
        ("ge2020", "2", "RC", "Fashion-MNIST", 5.39),
        ("ge2020", "4", "RS-1-Adv", "Fashion-MNIST", 0.56),
        ("ge2020", "5", "Distillation", "CIFAR-10", 0.33),
        ("ge2020", "noise", "RS-1-Dropout", "CIFAR-10, L2 2.5", 81.7),
        ("ge2020", "jpeg", "RS-1", "Fashion-MNIST, quality 10", 84.4),
        ("eustratiadis2020", "1", "PNI", "FGSM", 58.06),
        ("eustratiadis2020", "2", "kappa 1", "PNI", 34.0),
        ("eustratiadis2020", "3", "2 pixels", "L2P", 60.05),
        ("eustratiadis2020", "4", "MI", "PGD", 64.5),
        ("eustratiadis2020", "5", "m4", "SVHN, FGSM", 86.5),
        ("eustratiadis2020", "5", "m3", "F-MNIST, PGD", 15.8),
        ("eustratiadis2020", "6", "no EoT", "FGSM", 78.5),
    ],
)
def test_figures_from_the_middle_of_each_table(paper: str, id: str, row: str, col: str, value: float) -> None:
    assert table(paper, id).figure(row, col).value == value


def test_a_figure_has_its_spread_its_relation_and_its_note() -> None:
    assert table("ge2020", "2").figure("RC", "CIFAR-10") == Figure(5.72, 0.46)
    assert table("ge2020", "4").figure("MagNet", "CIFAR-10") == Figure(0.29, 0.21)
    assert table("ge2020", "noise").figure("others", "CIFAR-10, L2 2.5") == Figure(70, relation="at most")
    assert table("ge2020", "jpeg").figure("MagNet", "MNIST, quality 40 and less") == Figure(20, relation="below")
    doubtful = table("eustratiadis2020", "5")
    for (row, col), figure in doubtful.figures.items():
        assert bool(figure.note) == (col in ("F-MNIST, FGSM", "F-MNIST, PGD")), (row, col)
    assert doubtful.about["m4"] == "anisotropic noise, weight-covariance alignment"


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in STUDIES if (ROOT / "results" / "small" / f"{name}.json").exists()])
def test_stored_results_have_these_figures_beside_them(name: str) -> None:
    """The studies read them from here; what stands in the committed results was typed once by hand."""
    stored = json.loads((ROOT / "results" / "small" / f"{name}.json").read_text(encoding="utf-8"))
    todays = {item.id: item for item in study_of(name, "small", None).items if isinstance(item, Table)}
    for old in stored["tables"]:
        cells = zip(old["rows"], old["cells"], strict=True)
        beside = {(r, c): e["published"] for r, line in cells for c, e in zip(old["cols"], line, strict=True) if e}
        assert {cell: value for cell, value in beside.items() if value is not None} == todays[old["id"]].published


# ------------------------------------------------------------------------------------------------ access and packaging


def test_a_rate_is_a_fraction_in_either_unit() -> None:
    assert table("tan2020", "I").rate("BSN-L", "MNIST") == 0.990
    assert table("sharmin2019", "losses").rate("ANN, white box", "FGSM 8/255") == 0.278
    with pytest.raises(UsageError, match=r"in l2 per pixel x 1000, not a rate"):
        table("tan2020", "IIb").rate("MNIST, BIM", "BSN-2")


def test_what_is_not_there_is_said_with_what_is() -> None:
    for ask, told in (
        (lambda: tables("tan2021"), "'tan2021' is not known. Did you mean 'tan2020'"),
        (lambda: table("ge2020", "noises"), "no table 'noises' of results. Did you mean 'noise'"),
        (lambda: table("tan2020", "VII"), "'tan2020' has no table 'VII' of results. Known: I, III, IIa"),
        (lambda: table("sharmin2020", "1"), "'sharmin2020' has no tables here"),
        (lambda: table("tan2020", "I").figure("SNN_M", "PCam"), "is blank in table I of tan2020"),
        (lambda: table("tan2020", "I").figure("BSN-3", "PCam"), "table I of tan2020 has no row 'BSN-3'"),
        (lambda: table("tan2020", "I").rate("BSN-2", "SVHN"), "table I of tan2020 has no column 'SVHN'"),
    ):
        with pytest.raises(UsageError) as error:
            ask()
        assert told in str(error.value)


def test_the_figures_are_part_of_the_installed_package() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package = ROOT / "robassay"
    shipped = {path for glob in told["tool"]["setuptools"]["package-data"]["robassay"] for path in package.glob(glob)}
    assert {package / "papers" / "published" / f"{paper}.json" for paper in PAPERS} <= shipped
