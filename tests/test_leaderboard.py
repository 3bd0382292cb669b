"""The leaderboard: what does not fit together is refused, what is published is escaped, loads nothing and sorts."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import HOSTILE, Page

from robassay import cli
from robassay.errors import UsageError
from robassay.folds import Rows
from robassay.intervals import rate
from robassay.leaderboard import check, publish
from robassay.report import verdict_svg
from robassay.report.badge import digest
from robassay.verdict import Evidence, as_json, judge, words_of

EXAMPLES = Path(__file__).parents[1] / "examples" / "leaderboard"
ENTRIES = sorted(EXAMPLES.glob("*.json"))
RATES = ("clean", "claimed", "adequate", "robust", "gap", "g1", "g2")
N = 80


def entry(name: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


def save(folder: Path, whole: object, name: str = "one.json") -> Path:
    file = folder / name
    file.write_text(whole if isinstance(whole, str) else json.dumps(whole), encoding="utf-8")
    return file


def faults(folder: Path, whole: object) -> str:
    return " | ".join(check(save(folder, whole)).faults)


def survive(share: float, draws: int, eps: float = 0.1) -> Rows:
    """The first images are always right, the last never, and those between in every other draw."""
    right = np.arange(N)[None] < share * N - 2 * (np.arange(draws) % 2)[:, None]
    size, zero = np.full(N, eps), np.zeros(N)
    return Rows((~right).astype(np.int16), np.zeros(N, np.int64), np.zeros(N, np.int64), False, size, size, zero, zero)


@pytest.mark.parametrize("file", ENTRIES, ids=lambda f: f.stem)
def test_real_audits_fit_together(file: Path) -> None:
    found = check(file)
    assert not found.faults and len(found.audits) == 1
    assert found.digests == [digest(entry(file.stem)["keys"])]


def test_the_examples_are_real_and_differ() -> None:
    assert {entry(f.stem)["verdict"] for f in ENTRIES} >= {"artefact", "undecided"}
    assert {entry(f.stem)["stochastic"] for f in ENTRIES} == {True, False}
    assert all("robassay audit zoo:" in entry(f.stem)["command"] for f in ENTRIES)


@pytest.mark.parametrize("draws", [1, 20])
@pytest.mark.parametrize("budget", ["quick", "standard"])
def test_the_verdict_of_a_result_is_that_of_its_evidence(draws: int, budget: str) -> None:
    """Over a grid of claims and what is left of them, with and without a network of the audit's own."""
    seen = set()
    for claimed, enough, left in ((0.9, 0.9, 0.0), (0.9, 0.2, 0.0), (0.9, 0.9, 0.4), (0.9, 0.5, 0.5), (0.9, 0.9, 0.9),
                                  (0.9, 0.85, 0.8), (0.5, 0.5, 0.3), (0.05, 0.05, 0.0)):  # fmt: skip
        for twin in (None, survive(0.3, 1)):
            rows = [survive(share, draws) for share in (claimed, enough, left)]
            result = judge(
                Evidence(survive(1.0, draws, 0.0), *rows[:2], {"PGD": rows[2]}, {}, {}, (), twin), 0.05, budget
            )
            word = words_of(result)
            assert word == tuple(result[name] for name in ("verdict", "cause", "robustness", "sentence"))
            seen.add(word.verdict)
    assert len(seen) >= 4


def numbers(audit: dict[str, Any]) -> list[tuple[str, str]]:
    names = [*RATES, *(f"attacks/{i}" for i in range(len(audit["attacks"])))]
    return [(name, part) for name in names for part in ("value", "low", "high")]


def rate_of(audit: dict[str, Any], name: str) -> dict[str, Any]:
    return audit["attacks"][int(name.split("/")[1])]["robust"] if "/" in name else audit[name]


def test_of_a_deterministic_network_no_rate_can_be_changed(tmp_path: Path) -> None:
    """Every value and every end of an interval, by one image and by a hundredth: all follow from counts."""
    audit = entry("hardened")
    assert not audit["stochastic"]
    for name, part in numbers(audit):
        for by in (1 / audit["clean"]["n"], -1 / audit["clean"]["n"], 0.01, -0.002):
            changed = copy.deepcopy(audit)
            rate_of(changed, name)[part] += by
            assert faults(tmp_path, changed), (name, part, by)


def test_of_a_random_network_the_values_hang_together(tmp_path: Path) -> None:
    audit = entry("noise-head")
    assert audit["draws"] > 1
    for name in RATES[1:]:
        changed = copy.deepcopy(audit)
        changed[name]["value"] += 0.01
        assert faults(tmp_path, changed), name
    changed = copy.deepcopy(audit)
    changed["clean"]["value"] -= 0.00005  # less than one decision of one image
    assert "decisions" in faults(tmp_path, changed)


def counted(images: int, n: int = 100) -> dict[str, Any]:
    return as_json(rate((np.arange(n) < images).astype(np.float64)[None]))


def named(audit: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in audit["attacks"] if one["name"] == name)


def test_what_is_consistent_in_itself_must_fit_the_rest(tmp_path: Path) -> None:
    """Changes that leave a count a count and an interval that of its count."""
    audit = entry("hardened")
    weakest = max(audit["attacks"], key=lambda one: one["robust"]["value"])["name"]
    left = round(100 * audit["robust"]["value"])

    changed = copy.deepcopy(audit)
    named(changed, audit["winner"])["robust"] = counted(left - 1)
    assert "robust is" in faults(tmp_path, changed)
    changed = copy.deepcopy(audit)
    named(changed, "claimed")["robust"] = counted(left + 1)
    assert "the attack 'claimed'" in faults(tmp_path, changed)
    assert "winner" in faults(tmp_path, {**audit, "winner": weakest})
    twice = [*audit["attacks"], {**named(audit, weakest)}]
    assert "a name of its own" in faults(tmp_path, {**audit, "attacks": twice})
    random = entry("noise-head")
    for name in RATES[1:]:
        assert "n is not the same" in faults(tmp_path, {**random, name: {**random[name], "n": 99}})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"verdict": "holds"}, "verdict"),
        ({"cause": "steps"}, "cause"),
        ({"cause": None}, "cause"),
        ({"robustness": "none"}, "robustness"),
        ({"sentence": "The claim holds."}, "sentence"),
        ({"winner": "claimed"}, "winner"),
        ({"winner": "nobody"}, "winner"),
        ({"delta": 0.9}, "verdict"),
        ({"delta": 0}, "delta"),
        ({"budget": "endless"}, "budget"),
        ({"schema": 2}, "schema"),
        ({"draws": 2}, "draws"),
        ({"stochastic": True}, "draws"),
        ({"stochastic": "no"}, "stochastic"),
        ({"threat": {"norm": "l7", "eps": 0.1}}, "threat"),
        ({"threat": {"norm": "linf", "eps": -0.1}}, "threat"),
        ({"threat": None}, "threat"),
        ({"title": ""}, "title"),
        ({"title": "x" * 500}, "title"),
        ({"title": "a\nb"}, "title"),
        ({"title": "\u202egnp"}, "title"),
        ({"network": 5}, "network"),
        ({"attacks": []}, "attacks"),
        ({"attacks": [5]}, "attacks"),
        ({"attacks": {}}, "attacks"),
        ({"keys": ["../../etc/passwd"]}, "keys"),
        ({"keys": []}, "keys"),
        ({"keys": ["0123456789abcdef"]}, "keys"),
        ({"clean": None}, "clean"),
        ({"clean": {"value": 1, "low": 1, "high": 1}}, "clean"),
        ({"clean": {"value": True, "low": 0.0, "high": 1.0, "n": 100}}, "clean"),
        ({"clean": {"value": 2.0, "low": 2.0, "high": 2.0, "n": 100}}, "clean"),
        ({"ordinary": 3}, "ordinary"),
        ({"data": {"name": "digits"}}, "data"),
        ({"data": {"name": "digits", "checksum": "ab", "split": "test", "start": 0, "stop": 3}}, "data"),
        ({"about": {"link": "javascript:alert(1)"}}, "about"),
        ({"about": {"link": "https://a b"}}, "about"),
        ({"about": {"by": 5}}, "about"),
        ({"about": {"who": "me"}}, "about"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    assert told in faults(tmp_path, {**entry("plain-x100"), **change})


@pytest.mark.parametrize("name", ["schema", "title", "verdict", *RATES, "attacks", "keys", "version", "delta", "data"])
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    audit = entry("hardened")
    del audit[name]
    assert name in faults(tmp_path, audit)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", "{", '{"schema": 1, "audits": []}', "[" * 100000, '{"schema": 1, "title": "\\ud800"}'],
)
def test_what_is_no_audit_is_refused_with_a_word(text: str, tmp_path: Path) -> None:
    assert faults(tmp_path, text)


def test_no_number_is_no_number(tmp_path: Path) -> None:
    for word in ("NaN", "Infinity", "1e999"):
        text = json.dumps(entry("hardened")).replace('"delta": 0.05', f'"delta": {word}')
        assert "number" in faults(tmp_path, text)


def test_links_and_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.json").symlink_to(ENTRIES[0])
    assert "link" in check(tmp_path / "link.json").faults[0]
    os.mkfifo(tmp_path / "pipe.json")
    assert check(tmp_path / "pipe.json").faults
    monkeypatch.setattr("robassay.leaderboard.LARGEST", 100)
    assert "larger" in check(ENTRIES[0]).faults[0]


def test_the_card_beside_an_entry_is_its_own(tmp_path: Path) -> None:
    audit = entry("hardened")
    file = save(tmp_path, audit)
    card = file.with_suffix(".svg")
    card.write_text(verdict_svg(audit), encoding="utf-8")
    assert not check(file).faults
    card.write_text(verdict_svg(audit).replace("62", "72"), encoding="utf-8")
    assert "card" in check(file).faults[0]
    card.write_text(verdict_svg({**audit, "keys": ["0" * 16]}), encoding="utf-8")
    assert "digest" in check(file).faults[0] and digest(audit["keys"]) in check(file).faults[0]


def published(folder: Path, *audits: dict[str, Any]) -> tuple[str, Path]:
    entries, out = folder / "entries", folder / "site"
    entries.mkdir()
    for i, audit in enumerate(audits):
        save(entries, audit, f"{i}.json")
    publish(entries, out)
    return (out / "index.html").read_text(encoding="utf-8"), out


def test_a_real_folder_becomes_a_site(tmp_path: Path) -> None:
    made = publish(EXAMPLES, tmp_path / "site")
    assert {p.relative_to(tmp_path / "site").as_posix() for p in made} == {
        "index.html", *(f"cards/{f.stem}.svg" for f in ENTRIES)
    }  # fmt: skip
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    text = " ".join(Page(page).text.split())
    for file in ENTRIES:
        audit = entry(file.stem)
        for one in (audit["claimed"], audit["robust"]):
            said = f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
            assert said in text, (file.stem, said)
        assert audit["title"] in text and audit["claim"] in text and digest(audit["keys"]) in text
        assert (tmp_path / "site" / "cards" / f"{file.stem}.svg").read_text(encoding="utf-8") == verdict_svg(audit)
    assert "digits" in text and "L∞ ≤ 0.15" in text and "up to 100 draws each" in text and "Artefact" in text
    again = publish(EXAMPLES, tmp_path / "again")
    assert again[0].read_bytes() == made[0].read_bytes()


def test_landmarks_have_names_of_their_own(tmp_path: Path) -> None:
    """A section and the table in it that scrolls would else be two regions of one name."""
    publish(EXAMPLES, tmp_path / "site")
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    labels = re.findall(r'role="region" aria-label="([^"]*)"', page)
    heads = re.findall(r'<h2 id="board-\d+">([^<]*)<', page)
    assert labels == [f"Table of {head}" for head in heads] and heads


def test_only_the_same_images_and_ball_are_in_one_table(tmp_path: Path) -> None:
    one = entry("hardened")
    other = {**one, "threat": {"norm": "linf", "eps": 0.3}}
    third = {**one, "data": {**one["data"], "checksum": "0" * 16}}
    page, _ = published(tmp_path, one, {**one, "title": "again"}, other, third)
    tables = re.findall(r"<table.*?</table>", page, re.S)
    assert sorted(table.count("<tr") - 1 for table in tables) == [1, 1, 2]


def test_within_a_table_what_delivers_most_comes_first(tmp_path: Path) -> None:
    publish(EXAMPLES, tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'<th scope="row"[^>]*>\s*(?:<[^>]*>)*([^<]+)', page)
    by_rate = sorted((entry(f.stem) for f in ENTRIES), key=lambda a: (-a["robust"]["value"], a["title"]))
    assert [s.strip() for s in shown] == [a["title"] for a in by_rate]


def test_hostile_text_stays_text_and_nothing_is_loaded(tmp_path: Path) -> None:
    hostile = {name: HOSTILE for name in ("title", "network", "claim", "command", "version")}
    audit = entry("hardened")
    attacks = [{**a, "name": HOSTILE if a["name"] == audit["winner"] else a["name"]} for a in audit["attacks"]]
    about = {"by": HOSTILE, "link": "https://example.org/a?b=1&c='d'"}
    page, _ = published(tmp_path, {**audit, **hostile, "attacks": attacks, "winner": HOSTILE, "about": about})
    parsed = Page(page)
    assert page.count("<script") == 1 and not [t for t, _ in parsed.tags if t in ("img", "iframe", "object")]
    links = [a["href"] for t, a in parsed.tags if "href" in a]
    assert {h for h in links if not h.startswith(("#", "data:,", "cards/"))} == {about["link"]}
    assert all(a.get("rel") == "nofollow noopener noreferrer" for t, a in parsed.tags if a.get("href") == about["link"])
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    for _, attributes in parsed.tags:
        assert not {"src", "srcset", "action", "data"} & attributes.keys()
    assert not re.search(r"url\(|@import|//cdn", page)


def test_the_policy_admits_the_script_of_the_page_and_no_other(tmp_path: Path) -> None:
    import base64
    import hashlib

    publish(EXAMPLES, tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    policy = next(a["content"] for _, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    script = re.findall(r"<script>(.*?)</script>", page, re.S)
    wanted = [f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in script]
    assert len(script) == 1 and re.search(r"script-src ([^;]*);", policy)[1].split() == wanted
    assert policy.startswith("default-src 'none'") and "eval" not in policy


def test_a_file_that_fails_keeps_the_site_from_being_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0\.json.*verdict"):
        published(tmp_path, {**entry("hardened"), "verdict": "holds"})
    assert not (tmp_path / "site").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no entry"):
        publish(tmp_path / "empty", tmp_path / "site")
    with pytest.raises(UsageError, match="folder"):
        publish(tmp_path / "nowhere", tmp_path / "site")


def test_no_link_leads_out_of_the_site(tmp_path: Path) -> None:
    from robassay.errors import RobassayError

    outside, site = tmp_path / "outside", tmp_path / "site"
    outside.mkdir()
    site.mkdir()
    (site / "cards").symlink_to(outside)
    with pytest.raises(RobassayError, match="link"):
        publish(EXAMPLES, site)
    assert not list(outside.iterdir())


def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["robassay", "leaderboard", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    told = capsys.readouterr()
    return int(stop.value.code or 0), told.out, told.err


def test_the_command_checks_and_publishes(tmp_path: Path, monkeypatch, capsys) -> None:
    good = str(ENTRIES[0])
    bad = str(save(tmp_path, {**entry("hardened"), "verdict": "holds"}, "bad.json"))
    code, out, _ = invoke(monkeypatch, capsys, "--check", good)
    assert code == 0 and digest(entry(ENTRIES[0].stem)["keys"]) in out
    code, out, _ = invoke(monkeypatch, capsys, "--check", good, "--check", bad)
    assert code == 1 and "bad.json" in out and "verdict" in out
    code, out, _ = invoke(monkeypatch, capsys, "--check", bad, "--json")
    assert code == 1 and json.loads(out)[0]["faults"]
    code, out, _ = invoke(monkeypatch, capsys, str(EXAMPLES), "--out", str(tmp_path / "site"))
    assert code == 0 and "index.html" in out and (tmp_path / "site" / "index.html").is_file()
    assert invoke(monkeypatch, capsys)[0] == 2
    assert invoke(monkeypatch, capsys, str(EXAMPLES))[0] == 2


def test_the_columns_sort_when_asked(tmp_path: Path) -> None:
    """The page's own script, in Node on a document of three rows; skipped where there is no Node."""
    import shutil

    if shutil.which("node") is None:
        pytest.skip("needs node")
    script = (Path(cli.__file__).parents[1] / "report" / "leaderboard.js").read_text(encoding="utf-8")
    done = subprocess.run(
        ["node", "-e", STAGE + script + PLAY], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["a", "b", "c"], ["b", "a", "c"], ["a", "b", "c"], "ascending", None]


STAGE = """
const made = (name, rate) => ({ cells: [{ dataset: { sort: name } }, { dataset: { sort: rate } }], name });
const rows = [made("b", "0.5"), made("a", "10"), made("c", "")];
const body = { rows, append(...all) { this.rows = all; } };
const clicks = [];
const head = (kind) => ({
  dataset: { kind }, attributes: {}, textContent: kind,
  setAttribute(n, v) { this.attributes[n] = v; }, getAttribute(n) { return this.attributes[n] ?? null; },
  removeAttribute(n) { delete this.attributes[n]; },
  replaceChildren() {},
});
const heads = [head("text"), head("number")];
heads.forEach((h) => { h.cellIndex = heads.indexOf(h); });
const table = { tHead: { rows: [{ cells: heads }] }, tBodies: [body] };
globalThis.document = {
  querySelectorAll: () => [table],
  createElement: () => ({ append() {}, addEventListener(n, f) { clicks.push(f); } }),
};
"""
PLAY = """
const order = () => body.rows.map((r) => r.name);
const seen = [];
clicks[1](); seen.push(order());
clicks[1](); seen.push(order());
clicks[0](); seen.push(order());
console.log(JSON.stringify([...seen, heads[0].getAttribute("aria-sort"), heads[1].getAttribute("aria-sort")]));
"""
