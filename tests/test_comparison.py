"""Comparisons of models: paired differences, and words for what was bought with what."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robassay.access import White
from robassay.attacks.gradient import FGSM, PGD
from robassay.cells import Craft, Examples, Score
from robassay.comparison import Comparison
from robassay.data import find
from robassay.document import Document
from robassay.errors import UsageError
from robassay.folds import Accuracy, Difference, Gap, Rows, WorstCase
from robassay.intervals import Estimate
from robassay.models import Train
from robassay.nets.bsn import BSN
from robassay.nets.mlp import MLP
from robassay.pairs import compared, judged
from robassay.recipe import Recipe
from robassay.store import Store
from robassay.study import Curves, Measure, Study, Table
from robassay.threat import Threat

DIGITS = find("digits")
ON = Examples(DIGITS, "test", 0, 40)
MODELS = {"mlp": Train(MLP(), DIGITS, Recipe(epochs=1)), "bsn": Train(BSN(), DIGITS, Recipe(epochs=1))}


def evaluation(wrong: np.ndarray, attacked: bool = True) -> Rows:
    n = wrong.shape[1]
    size, zero, label = np.full(n, 0.1 if attacked else 0.0), np.zeros(n), np.zeros(n, np.int64)
    return Rows(wrong.astype(np.int16), label, label, False, size, size, zero, zero)


def errs(n: int, *images: range) -> np.ndarray:
    wrong = np.zeros((1, n))
    for one in images:
        wrong[0, list(one)] = 1
    return wrong


def test_rates_and_paired_differences_by_hand():
    """Of 200 images the reference errs on 10 clean and on 100 + 20 attacked ones, the other on 30 and on 60."""
    reference = [evaluation(errs(200, range(10)), False)]
    reference += [evaluation(errs(200, range(100))), evaluation(errs(200, range(50, 120)))]
    other = [evaluation(errs(200, range(30)), False), evaluation(errs(200, range(60)))]
    found = compared(["a", "b"], {"a": reference, "b": other}, {"a": ["k1"], "b": ["k2"]})
    assert [(m["clean"]["value"], m["robust"]["value"]) for m in found["models"]] == [(0.95, 0.4), (0.85, 0.7)]
    pair = found["pairs"][0]
    assert (pair["name"], pair["reference"]) == ("b", "a")
    assert pair["clean"]["value"] == pytest.approx(-0.1) and pair["robust"]["value"] == pytest.approx(0.3)
    assert pair["clean"]["high"] < 0 < pair["robust"]["low"]
    # Paired: all 60 images differ in the same direction, so the interval is that of a rate of 60 in 200, nearly.
    assert pair["robust"]["high"] - pair["robust"]["low"] < 0.14
    assert pair["outcome"] == "bought" and pair["unequal"]
    assert pair["sentence"].startswith("A robustness gain bought with clean accuracy.")
    assert set(pair["robust"]["keys"]) == {"k1", "k2"} and pair["robust"]["n"] == 200


@pytest.mark.parametrize(
    ("clean", "robust", "outcome", "words"),
    [
        ((-0.05, -0.08, -0.02), (0.1, 0.05, 0.15), "bought", "bought with clean accuracy"),
        ((-0.02, -0.05, 0.01), (0.1, 0.05, 0.15), "bought", "though which is higher is undecided"),
        ((-0.01, -0.02, 0.0), (0.1, 0.05, 0.15), "gain", "not bought"),
        ((0.05, 0.02, 0.08), (0.1, 0.05, 0.15), "gain", "differ by more than one point."),
        ((-0.05, -0.08, -0.02), (0.04, -0.01, 0.09), "undecided", "the interval of the difference holds 0"),
        ((0.0, -0.01, 0.01), (0.0, -0.01, 0.01), "undecided", "undecided"),
        ((0.05, 0.02, 0.08), (-0.1, -0.15, -0.05), "sold", "bought with robustness"),
        ((-0.05, -0.08, -0.02), (-0.1, -0.15, -0.05), "loss", "Less robust. The clean accuracies differ"),
        ((0.005, 0.0, 0.01), (-0.1, -0.15, -0.05), "loss", "Less robust."),
    ],
)
def test_words(clean, robust, outcome, words):
    found, sentence = judged(Estimate(*clean, 200), Estimate(*robust, 200))
    assert found == outcome and words in sentence
    assert ("one point" in sentence) == (abs(clean[0]) > 0.01)


def test_missing_models_are_not_compared():
    some = [evaluation(errs(20, range(2)), False), evaluation(errs(20, range(9)))]
    found = compared(["a", "b", "c"], {"a": some, "c": some}, {"a": [], "b": [], "c": []})
    assert found["models"][1]["clean"] is None and found["pairs"][0]["robust"] is None
    assert found["pairs"][1]["robust"]["value"] == 0
    assert all(pair["robust"] is None for pair in compared(["b", "a"], {"a": some}, {"a": [], "b": []})["pairs"])


def attacked(model: Train, attack=None, on: Examples = ON, source: Train | None = None) -> tuple[Score, ...]:
    craft = Craft((source or model,), on, attack or FGSM(), Threat("linf", 0.1), White())
    return (Score(model, craft, repeats=4),)


def study() -> Study:
    mlp, bsn = MODELS.values()
    models = {n: ((Score(m, ON, repeats=4),), attacked(m), attacked(m, PGD(steps=2))) for n, m in MODELS.items()}
    clean = models["mlp"][0]
    entries = {
        ("own", "one"): Measure((attacked(mlp),), Accuracy()),
        ("own", "gap"): Measure((clean, attacked(mlp)), Gap()),
        ("other", "one"): Measure((attacked(mlp, source=bsn),), Accuracy()),
        ("none", "one"): Measure((clean,), Accuracy()),
        ("none", "two"): Measure((attacked(mlp), attacked(mlp, source=bsn)), Difference()),
    }
    table = Table("t", "Knowledge", ("own", "other", "none"), ("one", "gap", "two"), entries, heat=True)
    curves = Curves("c", "Curves", "eps", "accuracy", (0.1,), {"mlp": (Measure(models["mlp"][1:], WorstCase()),)})
    return Study("compared", "Comparison", (Comparison("k", "Two networks", models), table, curves))


def test_what_was_known_is_frozen_and_shown_without_torch(tmp_path: Path):
    """The cells are made up here; page and results come from a process that cannot import torch."""
    store = Store(tmp_path)
    one = study()
    rng = np.random.default_rng(0)
    for score in one.needs():
        assert isinstance(score, Score)
        attack = isinstance(score.on, Craft)
        put(store, score, (rng.random((4, 40)) < (0.6 if attack else 0.1)).astype(np.int16), attack)
    (tmp_path / "frozen.json").write_text(json.dumps(one.freeze()), encoding="utf-8")
    code = (
        "import sys, json; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from robassay.store import Store\nfrom robassay.document import Document\nfrom robassay.report import render\n"
        "frozen = json.loads(Path(sys.argv[1], 'frozen.json').read_text())\n"
        "whole = Document(frozen, Store(sys.argv[1], create=False)).whole()\n"
        "print(json.dumps([whole, render(whole)]))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    whole, page = json.loads(run.stdout)
    labels = [[cell and cell["knowledge"] for cell in line] for line in whole["tables"][0]["cells"]]
    assert labels == [["white", "white", None], ["transfer", None, None], [None, None, "white"]]
    assert whole["tables"][0]["heat"] is True and 'class="r heat"' in page
    assert whole["figures"][0]["series"][0]["points"][0]["knowledge"] == "white"
    (comparison,) = whole["comparisons"]
    assert [m["name"] for m in comparison["models"]] == ["mlp", "bsn"]
    assert all(m["clean"]["n"] == 40 and m["robust"]["value"] < m["clean"]["value"] for m in comparison["models"])
    assert comparison["pairs"][0]["sentence"] and "bsn − mlp" in page


def put(store: Store, score: Score, wrong: np.ndarray, attack: bool) -> None:
    n = wrong.shape[1]
    size, label = np.full(n, 0.1 if attack else 0.0), np.zeros(n, np.int64)
    made = {"decisions": wrong, "labels": label, "block": label, "shared": np.array(0, np.uint8)}
    about = {"machine": "made up", "torch": "none", "seconds": 0.0}
    store.write(score.key, about, {**made, "linf": size, "l2": size}, "")


def test_what_is_not_computed_keeps_its_label():
    frozen = study().freeze()
    cell = Document(frozen, Empty()).tables()  # type: ignore[arg-type]
    assert cell[0]["cells"][0][0] is None
    found = replace_published(frozen)
    assert Document(found, Empty()).tables()[0]["cells"][0][0]["knowledge"] == "white"  # type: ignore[arg-type]


class Empty:
    """A store without cells."""

    def done(self) -> set[str]:
        return set()


def replace_published(frozen: dict) -> dict:
    copied = json.loads(json.dumps(frozen))
    next(item for item in copied["items"] if item["kind"] == "table")["published"][0][0] = 0.5
    return copied


def test_heat_is_for_rates():
    with pytest.raises(UsageError, match="only rates"):
        Table("t", "", ("a",), ("b",), {}, unit="L2", heat=True)


def test_what_cannot_be_compared_is_refused():
    mlp, bsn = MODELS.values()
    whole = ((Score(mlp, ON),), attacked(mlp))
    with pytest.raises(UsageError, match="has 1 model"):
        Comparison("k", "", {"mlp": whole})
    with pytest.raises(UsageError, match="'bsn' of comparison 'k' has 1 evaluation"):
        Comparison("k", "", {"mlp": whole, "bsn": whole[:1]})
    fewer = replace(ON, stop=20)
    with pytest.raises(UsageError, match="different images"):
        Comparison("k", "", {"mlp": whole, "bsn": ((Score(bsn, fewer),), attacked(bsn, on=fewer))})
