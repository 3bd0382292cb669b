"""What the attacker knew is read from the cells, one word per case of the papers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robassay.access import Decisions, Scores, White
from robassay.attacks.boundary import Boundary
from robassay.attacks.gradient import PGD
from robassay.attacks.noise import Gaussian
from robassay.attacks.square import Square
from robassay.cell import Model
from robassay.cells import Craft, Examples, Score
from robassay.data import find
from robassay.defended import Regional
from robassay.knowledge import KNOWLEDGE, knowledge
from robassay.models import Mixed, Quieted, Train
from robassay.nets.bsn import BSN
from robassay.nets.mlp import MLP
from robassay.portions import Portion
from robassay.recipe import Recipe
from robassay.substitute import Asked, Substitute
from robassay.threat import Threat

DIGITS = find("digits")
ON = Examples(DIGITS, "test", 0, 20)
TARGET = Train(MLP(), DIGITS, Recipe(epochs=2))
SIBLING = replace(TARGET, seed=1)
OTHER = Train(BSN(), DIGITS, Recipe(epochs=2))
HALF = Train(MLP(), Portion(DIGITS, 3), Recipe(epochs=2))


def stand_in(oracle: Model) -> Substitute:
    return Substitute(MLP(), oracle, Examples(DIGITS, "test", 40, 80), Recipe(epochs=1))


def craft(*sources: Model, **more) -> Craft:
    return Craft(sources, ON, PGD(steps=2), Threat("linf", 0.1), **more)


def label(*sources: Model, target: Model = TARGET) -> str | None:
    return knowledge(Score(target, craft(*sources)))


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ((TARGET,), "white"),
        ((Quieted(TARGET),), "white"),
        ((Regional(Quieted(TARGET)),), "white"),
        ((Mixed((OTHER, TARGET)),), "white"),
        ((OTHER, TARGET), "white"),
        ((SIBLING,), "translucent"),
        ((OTHER, SIBLING), "translucent"),
        ((HALF,), "translucent"),
        ((Quieted(SIBLING),), "translucent"),
        ((stand_in(TARGET),), "substitute"),
        ((stand_in(TARGET), SIBLING), "substitute"),
        ((replace(OTHER, teacher=TARGET),), "substitute"),
        ((stand_in(OTHER),), "transfer"),
        ((OTHER,), "transfer"),
        ((replace(TARGET, recipe=Recipe(epochs=3)),), "transfer"),
        ((replace(TARGET, net=MLP((9,))),), "transfer"),
        ((replace(SIBLING, teacher=OTHER),), "transfer"),
    ],
)
def test_sources(sources, expected):
    assert label(*sources) == expected and expected in KNOWLEDGE


def test_targets_in_wrappers():
    assert label(TARGET, target=Quieted(TARGET)) == "white"
    assert label(SIBLING, target=Quieted(TARGET)) == "translucent"
    mixture = Mixed((TARGET, OTHER))
    assert label(TARGET, OTHER, target=mixture) == "white", "the mean gradient of all members"
    assert label(TARGET, target=mixture) == "transfer", "one member is not the mixture"
    assert label(TARGET, target=Regional(TARGET)) == "transfer", "the defence was not known"
    assert label(Regional(SIBLING), target=Regional(TARGET)) == "translucent"
    assert label(TARGET, target=stand_in(TARGET)) == "transfer", "who taught does not know who learnt"


def test_accesses_to_the_target():
    scores = Craft((TARGET,), ON, Square(), Threat("linf", 0.1), Scores())
    decisions = Craft((TARGET,), ON, Boundary(), Threat("l2"), Decisions())
    assert knowledge(Score(TARGET, scores)) == "scores"
    assert knowledge(Score(TARGET, decisions)) == "decisions"
    assert knowledge(Score(SIBLING, decisions)) == "translucent"


def test_nothing_is_asked_and_clean_images():
    noise = Craft((TARGET,), ON, Gaussian(), Threat("l2", 1.0), None)
    assert knowledge(Score(TARGET, noise)) == "none"
    assert knowledge(Score(TARGET, ON)) is None
    assert knowledge(Asked(stand_in(TARGET))) is None


def test_where_a_search_began_does_not_count():
    begun = craft(OTHER, access=White(), start=craft(TARGET))
    assert knowledge(Score(TARGET, begun)) == "transfer"
    assert knowledge(Score(OTHER, begun)) == "white"
