"""Ge et al. 2020: published numbers beside ours, claims by constructed cases, and what is committed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robassay.contrasts import Farther
from robassay.errors import UsageError
from robassay.folds import Rows
from robassay.papers import study_of
from robassay.papers.published import table
from robassay.study import Check, Study
from robassay.thawed import thaw

FILE = Path(__file__).parents[1] / "results" / "small" / "ge2020.json"


def moved(l2: list[float]) -> Rows:
    """Images changed by so much; 0 says that nothing was found."""
    size = np.array(l2)
    zero = np.zeros(len(size))
    decided = np.ones((1, len(size)), np.int16)
    return Rows(decided, np.ones(len(size), int), zero.astype(int), False, (size > 0) * 0.1, size, zero, zero)


def test_sizes_are_compared_on_images_that_both_changed():
    """The first attack moves three images that two others move by 2, 2 and 4 in the mean: 1, 1 and 1 more."""
    joint = moved([3, 3, 5, 9, 0])
    alone = [moved([1, 2, 4, 0, 7]), moved([3, 0, 4, 0, 7])]
    found = Farther((1, 2))([joint, *alone])
    assert found.value == pytest.approx(3 / 8) and found.n == 3 and found.low == pytest.approx(found.value)
    back = Farther((2, 1))([*alone, joint])
    assert back.value == pytest.approx(-3 / 11)


def test_of_several_pairs_the_least_is_told():
    rng = np.random.default_rng(0)
    short, middle, long = (moved(list(k + rng.random(50))) for k in (1, 2, 3))
    up, down = Farther((1, 1))([long, short]), Farther((1, 1))([short, middle])
    assert up.low > 0 and down.high < 0
    assert Farther((1, 1, 1, 1))([long, short, short, middle])[:3] == pytest.approx(down[:3])
    assert Farther((1, 1))([long, moved([0.0] * 50)]).n == 0


def test_strategies_that_are_no_pairs_are_refused_and_pairs_survive_freezing():
    with pytest.raises(UsageError, match="3 strategies are no pairs"):
        Farther((1, 1, 1))
    assert thaw({"type": "Farther", "sizes": [1, 2]}) == Farther((1, 2))


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of("ge2020", "small", None)


@pytest.mark.data
def test_every_published_number_stands_beside_ours(study: Study):
    items = {item.id: item for item in study.items}
    errors = {place: 1 - figure.value / 100 for place, figure in table("ge2020", "2").figures.items()}
    assert items["ge2020-2"].published == pytest.approx(errors) and len(errors) == 27
    for id in ("4", "5"):
        sizes = {place: figure.value for place, figure in table("ge2020", id).figures.items()}
        assert items[f"ge2020-{id}"].published == sizes and len(sizes) == 24
    for id, count in (("noise", 9), ("jpeg", 11)):
        assert len(items[f"ge2020-{id}"].published) == count
    assert set(items["ge2020-2"].entries) == {(row, "MNIST") for row in table("ge2020", "2").rows}


@pytest.mark.data
def test_ours_stand_where_they_belong(study: Study):
    """Table 4 has one model attacked and Table 5 eight; a decision of Table 2 is the mean of ten but Standard's."""
    items = {item.id: item for item in study.items}
    for id, sources in (("4", 1), ("5", 8)):
        for (row, _), measure in items[f"ge2020-{id}"].entries.items():
            crafts = [score.on for evaluation in measure.evaluations for score in evaluation]
            assert all(len(craft.sources) == sources for craft in crafts), row
            assert all(craft.aim.kappa == 0 for craft in crafts), row
    policies = {row: m.evaluations[0][0].policy for (row, _), m in items["ge2020-2"].entries.items()}
    assert type(policies.pop("Standard")).__name__ == "Once" and type(policies.pop("RC")).__name__ != "MeanOf"
    assert {type(policy).__name__ for policy in policies.values()} == {"MeanOf"}
    magnet = items["ge2020-noise"].entries["MagNet", "MNIST, L2 above 1"].evaluations[0][0]
    assert magnet.on.threat.eps == 2.0


@pytest.mark.data
def test_claims_have_the_signs_of_their_sentences(study: Study):
    """The mean of ten is ahead of single passes, eight models' changes of one's, the first position of the others."""
    checks = {item.id: item for item in study.items if isinstance(item, Check)}
    assert list(checks) == ["g01", "g03", "g05-several", "g05-validation", "g07", "g12"]

    def right(share: float) -> Rows:
        one = moved([0.0] * 1000)
        return one._replace(decisions=(np.arange(1000) < share * 1000).astype(np.int16)[None])

    averaged = checks["g01"].evidence
    assert len(averaged.evaluations) == 2 * 6
    rows = [right(0.9 if type(e[0].policy).__name__ == "MeanOf" else 0.8) for e in averaged.evaluations]
    assert averaged.fold(rows).value == pytest.approx(0.1)
    later = checks["g12"].evidence
    rows = [right((9 - i) / 10) for i in range(5)]
    assert len(later.evaluations) == 5 and later.fold(rows).value == pytest.approx(0.1)
    joint = checks["g03"].evidence
    rows = [moved([3.0] * 9 if len(e[0].on.sources) == 8 else [2.0] * 9) for e in joint.evaluations]
    assert joint.fold(rows).value == pytest.approx(0.5)
