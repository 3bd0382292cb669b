"""What is true of the zoo's networks: measured by an attacker who knows how each of them is made.

It differentiates the bare network (see :class:`~robassay.zoo.entries.Entry`), so that no rounding, saturation or
narrow window is in its way, and delivers its images to the network as it is. Beside it stands the claimed evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robassay.access import Access, Attack, Scores, White
from robassay.attacks.apgd import APGD
from robassay.attacks.square import Square
from robassay.cell import Cell
from robassay.cells import Craft, Examples, Score
from robassay.claims import adequate, parse_claim
from robassay.data import find
from robassay.estimators import Backprop, ClosedForm
from robassay.folds import Rows, blocks, rows, worst
from robassay.intervals import difference, rate
from robassay.store import Store
from robassay.threat import Threat
from robassay.verdict import as_json
from robassay.zoo.entries import ENTRIES
from robassay.zoo.registry import model

IMAGES, DRAWS = 200, 100
"""Test images, from the first on, and fresh draws of each."""
UNAFRAID = ("noise-hardened", "binary-stochastic", "random-spiking")
"""Random networks with gradients that are plainly right: the white box is stronger than any search, and slow enough."""


@dataclass(frozen=True)
class Truth:
    """The evaluations that say what is true of one network."""

    clean: Score
    claimed: Score
    adequate: Score
    knowing: tuple[Score, ...]

    def needs(self) -> list[Cell]:
        """The cells behind it."""
        return [self.clean, self.claimed, self.adequate, *self.knowing]

    def read(self, store: Store) -> dict[str, Any]:
        """The truth as a JSON value.

        ``clean``, ``claimed``, ``adequate`` (the claimed attack or the same with enough steps, the worse per image) and
        ``best`` (the worst of all): rates with 95 % interval and n. ``hidden``: adequate − best, paired. ``left``: per
        image how many of :data:`DRAWS` fresh draws are right under the worst of all.
        """
        clean, claimed, enough, *knowing = (rows([store.read(one.key)]) for one in self.needs())
        lasting, left = worst([claimed, enough]), worst([claimed, enough, clean, *knowing])
        shared = blocks([claimed])
        return {
            "clean": as_json(_rate(clean)),
            "claimed": as_json(_rate(claimed)),
            "adequate": as_json(rate(lasting, shared)),
            "best": as_json(rate(left, shared)),
            "hidden": as_json(difference(lasting, left, shared)),
            "left": [round(DRAWS * float(share)) for share in left.mean(0)],
        }


def _rate(one: Rows) -> Any:
    return rate(one.survives(), blocks([one]))


def truth(name: str, seed: int, images: int = IMAGES) -> Truth:
    """The evaluations of a network of the zoo under the threat that the zoo is about."""
    target, bare = model(name, seed), model(name, seed, bare=True)
    on, threat = Examples(find("digits"), "test", 0, images), Threat("linf", ENTRIES[name].eps)
    claim = parse_claim(ENTRIES[name].claimed, threat)

    def against(source: Any, attack: Attack, access: Access | None) -> Score:
        return Score(target, Craft((source,), on, attack, threat, access), repeats=DRAWS)

    white, exact = White(Backprop(10)), White(ClosedForm() if ENTRIES[name].trained == "noise-head" else Backprop(10))
    knowing = [
        against(bare, APGD(steps=50, loss="scaled_ce", restarts=2), white),
        against(bare, APGD(steps=50, loss="margin", restarts=2), exact),
    ]
    if ENTRIES[name].trained in UNAFRAID:
        knowing.append(against(bare, APGD(steps=30, loss="margin", targets=3), white))
    else:
        knowing.append(against(bare, APGD(steps=30, loss="margin", targets=9), white))
        knowing.append(against(target, Square(queries=1000), Scores()))
    return Truth(
        Score(target, on, repeats=DRAWS),
        against(target, claim.attack, claim.access()),
        against(target, adequate(claim.attack, 100), White(Backprop(10))),
        tuple(knowing),
    )
