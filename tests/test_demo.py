"""The demonstration that the README opens with, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.long
def test_the_demo_finds_what_the_readme_says(tmp_path):
    """Five networks are trained and audited with two worker processes (about 90 s)."""
    line = [sys.executable, "-m", "robassay.cli", "demo", "--json", "--workers", "2"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    audits = {a["title"]: a for a in json.loads(done.stdout)["audits"]}
    assert audits["noise head (A2SNN)"]["verdict"] == "artefact"
    assert audits["adversarial training"]["robust"]["low"] > 0.15
    assert audits["adversarial training"]["cause"] in (None, "steps")
    weak = ("plain CNN", "binary stochastic", "spiking (LIF)")
    assert all(audits[name]["robustness"] == "none" for name in weak)
    page = (tmp_path / "robassay-store" / "reports" / "demo.html").read_text(encoding="utf-8")
    assert "noise head (A2SNN)" in page and "http" not in page.split("<main")[0].replace("http-equiv", "")
