"""The report's script in a real browser, where one is installed: what sorts, filters and copies. A start takes 2 s."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from test_rasters import drawn
from test_report import audit, document, figure, rate, table
from test_report_evidence import chart, noise_table, plane, row

from robassay.report import render

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

DRIVER = """
const found = {};
const column = (table, at) => [...table.tBodies].flatMap(rowsOf).map((row) => row.cells[at].textContent.trim());
const shown = (place) => [...place.querySelectorAll("tbody tr:not([hidden])")].length;
const long = document.getElementById("table-1");
const heads = [...long.querySelectorAll("th .sort")];
found.first = column(long, 0);
for (const turn of ["up", "down", "back"]) { heads[1].click(); found[turn] = column(long, 0); }
heads[1].click();
found.state = heads[1].parentElement.getAttribute("aria-sort");
heads[0].click();
found.names = column(long, 0);
found.states = [...long.querySelectorAll("[aria-sort]")].length;
const field = document.querySelector("#tables .filter input");
field.value = "net  3";
field.dispatchEvent(new Event("input"));
found.left = [shown(long), document.querySelector("#tables .filter output").value];
found.drawn = document.querySelectorAll("#audit-1 table th .sort").length;
found.small = document.querySelectorAll("#overview .filter, #overview .sort").length;
found.worth = ["8/255", "1,234", "−0.5", "–", "text", "and/or"].map((words) => worth(made("td", [words])));
found.buttons = [...document.querySelectorAll("#tables .take button")].map((one) => one.getAttribute("aria-label"));
found.errors = errors;
document.title = JSON.stringify(found);
"""


def driven(page: str, tmp_path, driver: str = DRIVER, *options: str) -> dict:
    """What a driver found in the page, run behind its own script under the page's own policy."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    noted = 'const errors = []; addEventListener("error", (e) => errors.push(e.message));\n' + script + driver
    old, new = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in (script, noted))
    assert old in page
    file = tmp_path / "page.html"
    file.write_text(page.replace(old, new).replace(script, noted), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
               "--virtual-time-budget=2000", *options, "--dump-dom", file.as_uri()]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return json.loads(unescape(re.search(r"<title>(.*?)</title>", told, re.S)[1]))


def test_sorting_filtering_and_copying(tmp_path):
    values = {"net 10": 0.3, "net 2": 0.09, "net 1": None, "net 11": 1.0, "a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8}
    cells = [[None if v is None else rate(v, published=None, keys=[])] for v in values.values()]
    one = table(rows=list(values), cols=["PGD"], cells=cells)
    twice = audit(checks=[], attacks=[*audit()["attacks"], {**audit()["attacks"][0], "name": "other"}])
    found = driven(render(document(audits=[twice], tables=[one], figures=[figure()])), tmp_path)
    assert found["first"] == found["back"] == list(values)
    upwards = ["net 2", "net 10", "a", "b", "c", "d", "net 11"]
    assert found["up"] == [*upwards, "net 1"], "9 % before 30 %, and last what is not computed"
    assert found["down"] == [*upwards[::-1], "net 1"]
    assert found["names"] == ["a", "b", "c", "d", "net 1", "net 2", "net 10", "net 11"]
    assert found["state"] == "ascending" and found["states"] == 1
    assert found["left"] == [2, "2 of 8"], "every word has to occur: nets with 30 % and 93 %, not a, b, c with 43 %"
    assert found["small"] == 0, "one row needs neither"
    assert found["drawn"] == 7, "of eight columns one holds drawings only"
    assert found["worth"] == [8 / 255, 1234, -0.5, None, "text", "and/or"]
    assert found["buttons"] == ["Copy CSV: Robust", "Copy LaTeX: Robust", "Copy Markdown: Robust"]
    assert found["errors"] == []


PRINTED = """
const wide = () => document.querySelector(".plot .main-svg")?.getAttribute("width");
const told = { screen: [], errors };
setTimeout(() => {
  told.screen.push(wide()); dispatchEvent(new Event("beforeprint")); told.paper = wide();
  dispatchEvent(new Event("afterprint")); told.screen.push(wide()); document.title = JSON.stringify(told);
}, 1500);
"""


def test_on_paper_a_figure_is_as_wide_as_a_page(tmp_path):
    """Not as the window was, or the page would be shrunk around it; afterwards it is as it was."""
    found = driven(render(document(figures=[figure()])), tmp_path, PRINTED, "--window-size=1280,900")
    before, after = found["screen"]
    assert found["paper"] == "660" and before == after and float(before) > 1000 and found["errors"] == []


ACCESS = (Path(__file__).parent / "access.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_names_roles_contrast_headings_tables_and_focus(tmp_path, width, dark):
    """The checks of tests/access.js, an own stand-in for a checker of accessibility, and that they find something."""
    shown = [chart(0.9, 0.5, 0.1), noise_table(), plane(), drawn()]
    answers = [row("seen"), row("not measured", "Pintor et al. 2022")]
    one = document(audits=[audit(evidence=shown, checklist=answers)], drawings=[drawn(caption="Trains")],
                   cells=[{"key": "44aa", "what": "Score()", "seconds": 1.0}])  # fmt: skip
    found = driven(
        render(one), tmp_path, ACCESS + "document.title = JSON.stringify({...access(), errors});",
        f"--window-size={width},900", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    )  # fmt: skip
    counted = found.pop("counted")
    assert counted["texts"] > 200 and counted["tables"] >= 12 and counted["jumpsBack"] == 0
    assert counted["dark"] is dark and counted["overflow"] <= 0
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_the_checks_find_what_is_wrong(tmp_path):
    bad = """<p style="color:#999;background:#fff">faint</p><h5>deep</h5><button></button><input>
      <table><tr><th>no scope</th></tr></table><img src="data:,"><svg width="9" height="9"></svg>"""
    page = render(document()).replace("<main>", f"<main>{bad}", 1)
    found = driven(page, tmp_path, ACCESS + "document.title = JSON.stringify(access());")
    for name in ("contrast", "headings", "names", "tables", "images", "small"):
        assert found[name], name
