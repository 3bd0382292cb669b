"""Attacks that come after another one: what that has broken in every draw stays, the rest is attacked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robassay import zoo
from robassay.access import Scores, White
from robassay.attacks.gradient import FGSM, PGD
from robassay.attacks.noise import UniformSearch
from robassay.auditing import describe_audit
from robassay.battery import TWIN, Known
from robassay.budgets import EFFORT, effort_of
from robassay.cell import Arrays, Model, cell
from robassay.cells import Craft, Examples, Score
from robassay.classifier import Classifier
from robassay.data import Images, find, pixels
from robassay.document import Document
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.finalists import Finalist
from robassay.given import HeldData
from robassay.goals import RandomTarget
from robassay.imitation import Answered, imitate
from robassay.lowest import Lowest
from robassay.nets.mlp import MLP
from robassay.policy import Rejecting
from robassay.recipe import Recipe
from robassay.report.copies import of_attacks
from robassay.report.render import render
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Audit, Study
from robassay.substitute import Substitute
from robassay.threat import REJECT, Threat

THREAT = Threat("linf", 0.1)
PIXELS = torch.tensor([0.5] * 4 + [0.45] * 4 + [0.1] * 4)
"""Of a label 0: lost once the pixel is above .55; out of reach for one step of .1 of the second group's random net."""


def lamps() -> Examples:
    x = (PIXELS.view(-1, 1, 1, 1) * 255).round().to(torch.uint8)
    data = HeldData("lamps", classes=2, shape=(1, 1, 1), images=Images(x, torch.zeros(12, dtype=torch.int64)))
    return Examples(data, "test", 0, 12)


class Bright(Classifier):
    """Class 1 where the pixel is above .55, give or take noise: images of .5 are lost, of .45 in every other draw."""

    classes, stochastic, rows = 2, True, "independent"

    def draw(self, h: Tensor) -> Tensor:
        gap = 100 * (h[:, 0, 0, 0] - 0.55) + torch.randn(len(h))
        return torch.stack([torch.zeros_like(gap), gap], 1)


@cell
class Lamp(Model):
    """The network above; as a model it needs no training."""

    def compute(self, ctx: Any) -> Arrays:
        return {"there": torch.tensor(1)}

    def open(self, ctx: Any) -> Classifier:
        return Bright().eval()


def crafted(**fields: Any) -> Craft:
    whole: dict[str, Any] = {"sources": (Lamp(),), "on": lamps(), "threat": THREAT, "access": White(Backprop(5))}
    return Craft(**({"attack": PGD(steps=10, loss="margin")} | whole | fields))


FIRST = Score(Lamp(), crafted(attack=FGSM("margin")), repeats=100)


def results(tmp_path: Path, *cells: Any) -> list[dict[str, np.ndarray]]:
    store = Store(tmp_path)
    assert not carry_out(cells, store, 0, silent=True).failed
    return [store.read(one.key) for one in cells]


def test_what_every_draw_got_wrong_stays_and_the_rest_is_attacked(tmp_path):
    after = crafted(attack=UniformSearch(samples=20), access=Scores(), after=FIRST)
    scores, first, second = results(tmp_path, FIRST, FIRST.on, after)
    wrong = (scores["decisions"] != scores["labels"]).mean(0)
    assert (wrong[:4] == 1).all() and ((wrong[4:8] > 0.2) & (wrong[4:8] < 0.8)).all() and (wrong[8:] == 0).all()
    assert np.array_equal(second["x_adv"][:4], first["x_adv"][:4])
    assert (np.abs(second["x_adv"][4:] - first["x_adv"][4:]) > 0).all()
    assert (second["queries"][:4] == 0).all() and (second["queries"][4:] >= 20).all()
    assert (second["targets"] == -1).all() and np.array_equal(second["x"], first["x"])


def test_the_rest_is_what_it_would_be_without_the_others(tmp_path):
    """Alone in its batch: the noise of an image that is attacked does not depend on those that are kept."""
    attack = {"attack": PGD(steps=10, loss="margin", restarts=2), "start": FIRST.on}
    (found,) = results(tmp_path, crafted(after=FIRST, **attack))
    assert (found["gradients"][:4] == 0).all() and (found["gradients"][4:] == 100).all()
    assert found["x_adv"][4:8] == pytest.approx(np.float32(115 / 255 + 0.1), abs=1e-6)  # as far as the ball goes


def test_a_refusal_is_no_broken_image(tmp_path):
    """The first group is never right and sometimes refused (a gap of 5 ± 1, of 4.6 for .99): it is attacked again."""
    refusing = dataclasses.replace(FIRST, policy=Rejecting(confidence=0.99))
    scores, after = results(tmp_path, refusing, crafted(after=refusing))
    first = scores["decisions"][:, :4]
    assert (first != 0).all() and (first == REJECT).any(0).all() and (first == 1).any(0).all()
    assert (after["gradients"][:4] > 0).all()


def test_nothing_left_is_nothing_asked(tmp_path):
    on = dataclasses.replace(lamps(), stop=4)
    first = Score(Lamp(), crafted(on=on, attack=FGSM("margin")), repeats=20)
    made, second = results(tmp_path, first.on, crafted(on=on, after=first))
    assert np.array_equal(made["x_adv"], second["x_adv"]) and not second["gradients"].any()


@pytest.mark.parametrize(
    "fields",
    [
        {"threat": Threat("linf", 0.2)},
        {"on": dataclasses.replace(lamps(), stop=8)},
        {"aim": RandomTarget()},
        {"after": Score(Lamp(), lamps())},
    ],
)
def test_what_cannot_come_after_is_refused(fields):
    with pytest.raises(UsageError, match="after a Score"):
        crafted(**({"after": FIRST} | fields))


def test_a_target_asks_for_more_than_a_wrong_decision():
    first = Score(Lamp(), crafted(aim=RandomTarget()))
    with pytest.raises(UsageError, match="a target asks for more"):
        crafted(aim=RandomTarget(), after=first)


# ---------------------------------------------------------------------------------------------------- in an audit


def described(budget: str = "standard", draws: int = 100, **known: Any) -> Audit:
    on = Examples(find("digits"), "test", 0, 150)
    found = Known(**({"stochastic": True, "differentiable": True} | known))
    return describe_audit(zoo.model("binary-stochastic"), on, Threat("linf", 0.1), budget, draws, known=found)  # type: ignore[arg-type]


def after(item: Audit) -> dict[str, set[Score | None]]:
    return {name: {s.on.after for s in e if isinstance(s.on, Craft)} for name, e in item.battery.items()}


def test_all_but_the_transfer_come_after_the_adequate_attack():
    item = described()
    found = after(item)
    assert found.pop(TWIN) == {None}
    assert len(found) > 9 and all(one == set(item.adequate[: len(one)]) for one in found.values())
    assert item.freeze()["after"] == list(found)


@pytest.mark.parametrize("known", [{}, {"stochastic": False}, {"differentiable": False}])
def test_so_it_is_on_any_model_whose_images_are_alone(known):
    found = after(described(**known))
    assert found.pop(TWIN) == {None} and None not in set().union(*found.values())
    assert set().union(*after(described(coupled=True, **known)).values()) == {None}


@pytest.mark.parametrize("item", [described("quick"), described("quick", stochastic=False), described(draws=20)])
def test_few_draws_and_a_quick_audit_leave_nothing_out(item):
    assert set().union(*after(item).values()) == {None}
    assert "after" not in item.freeze()


def test_the_last_attack_begins_at_the_strongest_of_all_others():
    item = described()
    *others, last = item.battery.values()
    for k, score in enumerate(last):
        assert isinstance(score.on, Craft) and isinstance(score.on.start, Finalist) and score.on.start.place == 0
        attacked = {e[k] for e in others if not isinstance(e[k].on, Examples)}
        assert set(score.on.start.heats) == attacked and len(attacked) > 9
    assert all(last[k] in f[k].on.heats for f in item.finalists for k in range(2))  # type: ignore[union-attr]
    others = [described(differentiable=False), described(stochastic=False), described("quick")]
    assert not any("from the strongest" in name for one in others for name in one.battery)


def test_a_random_model_gets_half_the_steps_and_another_one_all():
    effort = effort_of("standard")
    assert effort.on(stochastic=False) is effort
    assert (effort.on(stochastic=True).steps, effort.on(stochastic=True).restarts) == (50, 1)
    assert all(e.on(stochastic=True).steps <= e.steps for e in EFFORT.values())
    assert EFFORT["quick"].on(stochastic=True) == EFFORT["quick"]


def test_the_report_says_which_attack_came_after(tmp_path):
    """A standard audit of a random network on 20 digits, made smaller: two attacks of the battery (about 3 s)."""
    on, store = Examples(find("digits"), "test", 0, 20), Store(tmp_path)
    model = zoo.model("binary-stochastic")
    item = describe_audit(model, on, Threat("linf", 0.1), "standard", 40, known=Known(differentiable=False))
    kept = {name: item.battery[name] for name in ("differences", "uniform search 300")}
    study = Study("after", "After", (dataclasses.replace(item, battery=kept, finalists=(), twin=None),))
    assert not carry_out(study.needs(), store, 0, silent=True, worst=Lowest(study.items, store)).failed
    (result,) = Document(study.freeze(), store).audits()
    marked = {attack["name"]: attack.get("after") for attack in result["attacks"]}
    assert marked == {"claimed": None, "adequate": None} | dict.fromkeys(kept, "adequate")
    page = render(Document(study.freeze(), store).whole())
    assert page.count("<td>union, after adequate</td>") == 2
    assert "where it came after another" in page and "union, after adequate" in of_attacks(result).markdown
    scores = store.read(item.adequate[0].key)
    broken = (scores["decisions"] != scores["labels"]).all(0).mean()
    left = {attack["name"]: attack["robust"]["value"] for attack in result["attacks"]}
    assert broken > 0.1 and left["uniform search 300"] <= 1.05 - broken


# ------------------------------------------------------------------------------------------ a twin that knows enough


def test_a_substitute_stops_learning_once_it_agrees():
    """At the first epoch whose agreement is enough: as if the recipe had no more epochs, and the progress says so."""
    images = find("digits").split("test")
    answered, held = Answered(pixels(images.x[:200]), images.y[:200]), Images(images.x[200:], images.y[200:])

    def learnt(epochs: int, enough: float | None) -> tuple[dict[str, Tensor], float, int]:
        told: list[tuple[int, int]] = []
        recipe, rng = Recipe(epochs=epochs, batch=20, lr=3e-3), Stream(("test", "enough"))
        given = (MLP((32,)), find("digits").shape, 10, answered, held, recipe, rng)
        kept, agreement = imitate(*given, lambda *done: told.append(done), enough=enough)
        return kept, agreement, len(told) // 10

    agreements = [learnt(n, None)[1] for n in range(1, 9)]
    assert agreements == sorted(agreements) and agreements[0] < 0.5 < agreements[-1] - 0.1
    stop = 1 + next(i for i, agreement in enumerate(agreements) if agreement >= 0.5)
    kept, agreement, epochs = learnt(8, 0.5)
    assert (epochs, agreement) == (stop, agreements[stop - 1])
    assert all(torch.equal(kept[name], weight) for name, weight in learnt(stop, None)[0].items())
    assert learnt(8, 1.0)[2] == 8


def test_no_agreement_is_no_part_of_a_name():
    whole = Substitute(MLP((32,)), zoo.model("plain"), Examples(find("digits"), "test", 0, 200), Recipe(), rounds=0)
    early = dataclasses.replace(whole, enough=0.9)
    assert early.key != whole.key == dataclasses.replace(early, enough=None).key


@pytest.mark.parametrize("enough", [0.0, 1.5])
def test_an_agreement_is_a_share(enough):
    with pytest.raises(UsageError, match=r"Write enough=0\.9"):
        Substitute(MLP((8,)), Lamp(), lamps(), Recipe(), enough=enough)


def test_only_where_gradients_reach_the_image_the_twin_stops_early():
    def twin(item: Audit) -> Substitute:
        (found,) = {s.target for s in item.twin or ()}
        assert isinstance(found, Substitute)
        return found

    assert twin(described()).enough == 0.9
    assert twin(described(differentiable=False)).enough is None and twin(described("quick")).enough is None
