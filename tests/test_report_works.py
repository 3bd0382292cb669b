"""The bibliography: every source that a part names is listed in full, and a report has those of what was used."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import small_study
from test_report import HOSTILE, Page, document

from robassay.document import Document
from robassay.registry import all_entries
from robassay.report import render
from robassay.report.works import WORKS, bibliography, named_in
from robassay.store import Store
from robassay.studies import LISTED, listing

YEAR = re.compile(r"(?:19|20)\d\d")


def every_source() -> list[str]:
    """Sources of all registered parts."""
    for kind in LISTED:
        listing(kind)  # which imports them
    return sorted({e.source for e in all_entries() if e.source and e.cls.__module__.startswith("robassay.")})


def test_every_year_in_a_source_belongs_to_a_work_that_is_listed_in_full():
    for source in every_source():
        assert len(named_in(source)) == len(YEAR.findall(source)), f"add to WORKS what is cited in {source!r}"


def test_every_work_names_its_year_and_ends_with_a_stop():
    for key, text in WORKS.items():
        assert YEAR.search(key)[0] in text and text.endswith(".") and "http" not in text
        assert text.startswith(re.split(r" et al| and |, | \d", key)[0]), "the first author comes first"


IDENTIFIER = re.compile(r"(?:arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,9}/[^\s,]+?)(?=[ ,.])")
WITHOUT = {"Ding et al. 2022", "Hao et al. 2024", "Hubara et al. 2016", "Tan et al. 2020"}
"""Works of which we know neither number."""


def test_a_work_has_a_number_by_which_it_is_found_and_no_two_the_same():
    found = {key: IDENTIFIER.findall(text) for key, text in WORKS.items()}
    assert {key for key, numbers in found.items() if not numbers} == WITHOUT
    by_number = Counter(number for numbers in found.values() for number in numbers)
    twice = {number for number, count in by_number.items() if count > 1}
    assert twice == {"arXiv:2010.08852"}, "one paper had another title first"


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("triangle", "Bellec"),
        ("rectangle", "Wu,"),
        ("atan", "Fang"),
        ("fast-sigmoid", "Zenke"),
        ("exponential", "Shrestha"),
    ],
)
def test_a_surrogate_gradient_names_the_work_it_comes_from(name, work):
    source = next(e.source for e in all_entries() if e.kind == "rules" and e.name == name)
    (cited,) = bibliography({"cites": [], "parts": [{"name": name, "source": source}]})
    assert cited.text.startswith(work) and cited.parts == [name]


def test_the_longer_name_wins_and_a_preprint_is_the_same_work():
    assert named_in("Carlini and Wagner 2017 (MagNet); Ge et al. 2020 with weight 10") == [
        "Carlini and Wagner 2017 (MagNet)", "Ge et al. 2020",
    ]  # fmt: skip
    assert named_in("padding: published code of Ge et al. 2019; Spall 1992") == ["Ge et al. 2020", "Spall 1992"]
    assert named_in("Athalye et al. 2018 (BPDA)") == ["Athalye et al. 2018"]
    assert "Synthesizing" in WORKS[named_in("Athalye et al. 2018 (expectation over transformation)")[0]]


def test_what_was_used_follows_what_is_cited_each_once():
    parts = [{"name": "pgd", "source": "Madry et al. 2018"}, {"name": "adversarial", "source": "Madry et al. 2018"},
             {"name": "bsn", "source": "Tan et al. 2020, §III-A; slope: Chung et al. 2017"},
             {"name": "mine", "source": "ours"}]  # fmt: skip
    found = bibliography({"cites": ["Tan et al. 2020", "Someone 2031: A book."], "parts": parts})
    assert [(one.text[:8], one.parts) for one in found] == [
        ("Tan, Elo", ["bsn"]), ("Someone ", []), ("Chung, A", ["bsn"]), ("Madry, M", ["pgd", "adversarial"]),
    ]  # fmt: skip


def test_a_study_freezes_the_parts_it_uses(tmp_path):
    study = small_study.study("smoke")
    parts = {one["name"]: one["source"] for one in study.freeze()["parts"]}
    assert parts["pgd"] == "Madry et al. 2018" and "bsn-2" in parts and "mlp" in parts
    assert "apgd" not in parts, "it was not used"
    document_ = Document(study.freeze(), Store(tmp_path)).whole()
    assert document_["parts"] == study.freeze()["parts"]


@pytest.mark.parametrize("parts", [None, [{"name": HOSTILE, "source": "Madry et al. 2018"}]])
def test_the_page_lists_them_and_escapes_names(parts):
    page = render(document(**({} if parts is None else {"parts": parts})))
    assert "<script>alert" not in page
    text = Page(page).text
    assert "Someone: Something. 2018." in text and ("Madry, Makelov" in text) == (parts is not None)
