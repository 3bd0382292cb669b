"""Names of results: what changes a key, what does not, and the pinned defaults."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import golden

from robassay.access import Decisions, White
from robassay.attacks.gradient import FGSM, PGD
from robassay.cell import describe, with_needs
from robassay.cells import Craft, Examples, Score
from robassay.data import find
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.goals import LeastLikely, RandomTarget
from robassay.models import Train
from robassay.nets.mlp import MLP
from robassay.run import carry_out
from robassay.store import Store
from robassay.threat import Threat
from robassay.training import Recipe

DIGITS = find("digits")
MODEL = Train(MLP(), DIGITS, Recipe(epochs=2))
ON = Examples(DIGITS, "test", 0, 40)
CRAFT = Craft((MODEL,), ON, FGSM(), Threat("linf", 0.1))


def test_defaults_and_versions_are_pinned():
    pinned = json.loads(golden.FILE.read_text(encoding="utf-8"))
    for name, now in golden.current().items():
        assert name in pinned, f"{name} is new: run `python tests/golden.py`"
        assert now == pinned[name], (
            f"{name} changed. If results may differ raise its `version`; then run `python tests/golden.py`"
        )


def test_a_key_depends_on_every_field_and_on_nothing_else():
    changes = {
        "attack": PGD(),
        "threat": Threat("linf", 0.2),
        "access": White(Backprop(5)),
        "aim": RandomTarget(),
        "seed": 1,
        "batch": 100,
        "on": Examples(DIGITS, "test", 0, 41),
    }
    keys = {CRAFT.key} | {replace(CRAFT, **{name: value}).key for name, value in changes.items()}
    assert len(keys) == len(changes) + 1
    assert Craft((Train(MLP(), DIGITS, Recipe(epochs=2)),), ON, FGSM(loss="ce"), Threat("linf", 0.1)).key == CRAFT.key
    moved = replace(CRAFT, on=replace(ON, data=replace(DIGITS, location="/elsewhere", note="x")))
    assert moved.key == CRAFT.key


def test_cells_contain_what_they_need_and_shared_children_are_visited_once():
    score = Score(MODEL, CRAFT)
    assert [type(c).__name__ for c in with_needs([score])] == ["Train", "Craft", "Score"]
    deep = [MODEL]
    for _ in range(60):  # a graph with 2^60 paths: recursion without memory would not end
        deep.append(Train(MLP(), DIGITS, Recipe(epochs=2), seed=len(deep)))
    assert len(with_needs([Craft(tuple(deep), ON, FGSM(), Threat("linf", 0.1))])) == 62


def test_an_attack_gets_only_what_it_may_know():
    with pytest.raises(UsageError, match="needs access=White"):
        Craft((MODEL,), ON, FGSM(), Threat("linf", 0.1), Decisions())


def test_a_field_without_identity_is_refused():
    with pytest.raises(UsageError, match="cannot be part of an experiment's name"):
        describe(torch.zeros(1))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("cells") / "s")
    least = replace(CRAFT, aim=LeastLikely(), attack=PGD(steps=5))
    wanted = [Score(MODEL, ON), Score(MODEL, CRAFT), Score(MODEL, least)]
    outcome = carry_out(wanted, store, 0, quiet=True)
    assert not outcome.failed
    return store, wanted


def test_scores_hold_decisions_not_rates(done):
    store, (clean, attacked, _) = done
    stored = store.read(attacked.key)
    assert stored["decisions"].shape == (1, 40) and stored["decisions"].dtype == np.int16
    assert (stored["labels"] == DIGITS.split("test").y[:40].numpy()).all()
    assert abs(stored["linf"].max() - 0.1) < 1e-6 and (stored["l0"] <= 64).all()
    assert stored["queries"].tolist() == [1] * 40 == stored["gradients"].tolist()
    assert (stored["decisions"] != stored["labels"]).mean() > (
        store.read(clean.key)["decisions"] != stored["labels"]
    ).mean() + 0.2


def test_targeted_images_move_towards_their_target(done):
    store, (clean, _, least) = done
    assert (store.read(least.key)["decisions"] != store.read(clean.key)["decisions"]).any()


def test_least_likely_and_random_targets_are_never_the_true_label():
    labels = torch.arange(10).repeat(20)
    from robassay.rng import Stream

    goal = RandomTarget().goal(labels, 10, None, torch.zeros(200, 1, 1, 1), Stream(("t",)))
    assert goal.targeted and (goal.labels != labels).all() and len(goal.labels.unique()) == 10


def test_a_cell_json_says_what_it_is(done):
    store, (clean, _, _) = done
    about = store.about(clean.key)
    assert about["cell"]["type"] == "Score" and about["cell"]["target"] == {"cell": MODEL.key}
    assert about["torch"] == torch.__version__ and about["machine"].startswith("cpu")


def test_more_images_than_there_are_is_said():
    with pytest.raises(UsageError, match="the split has 360"):
        Examples(DIGITS, "test", 0, 999).load()


def test_an_attack_that_breaks_the_threat_fails_its_cell(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import robassay as ra\n"
        "@ra.part\n"
        "class BreaksOut(ra.Attack):\n"
        "    access = ra.GradientAccess\n"
        "    by: float = 2.0\n"
        "    def __call__(self, access, x, goal, threat, rng):\n"
        "        return (x + self.by * threat.eps).clamp(0, 1)\n"
    )
    from robassay.registry import load_name

    cell = Craft((MODEL,), ON, load_name(file, "BreaksOut")(), Threat("linf", 0.1))
    outcome = carry_out([cell], Store(tmp_path / "s"), 0, quiet=True)
    assert "a larger change than Threat(norm='linf', eps=0.1" in outcome.failed[cell.key]
