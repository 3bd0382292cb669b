"""Square: its sizes and shapes by hand, exact counts, as strong as the authors' own, no lucky draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_apgd import NETS, Noisy, X, Y, accuracy, trained

from robassay.access import ScoreAccess, Scores
from robassay.attacks.noise import UniformSearch
from robassay.attacks.square import HALVINGS, Square, pyramids, random_search, side
from robassay.classifier import Classifier, Wrapped
from robassay.errors import UsageError
from robassay.policy import MeanOf
from robassay.rng import Stream
from robassay.testing import check_attack
from robassay.threat import Goal, Threat, euclidean

RNG = Stream(("test", "square"))
LINF, L2 = Threat("linf", 0.1), Threat("l2", 0.6)


@pytest.fixture(scope="module")
def nets() -> dict[str, Classifier]:
    return {name: trained(make) for name, make in NETS.items()}


def attacked(
    attack: Any, model: Classifier, threat: Threat, draws: int = 1, rng: Stream = RNG
) -> tuple[torch.Tensor, ScoreAccess]:
    access = Scores(MeanOf(draws)).open([model], len(X))
    return attack(access, X, Goal(Y), threat, rng), access


def test_sizes_follow_the_paper():
    sides = [side(k, 10000, 0.8, 224, 224) for k in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert sides == [round(224 * (0.8 / 2**n) ** 0.5) for n in (0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert [side(k, 100, 0.8, 28, 28) for k in (0, 1, 3, 99)] == [25, 13, 9, 1]
    assert side(0, 10, 1.0, 28, 20) == 20 and side(9, 10, 0.8, 8, 8, least=3) == 3
    assert len(HALVINGS) == 9


@pytest.mark.parametrize("size", [3, 4, 5, 7, 12])
def test_pyramids_are_the_authors(size):
    peer = pytest.importorskip("pyautoattack.square").SquareAttack(None, norm="L2", eps=1.0, device="cpu")
    with RNG.active():
        theirs = peer.eta(size).numpy()
    ours = pyramids(size)
    assert min(abs(ours - theirs).max(), abs(ours.T - theirs).max()) < 1e-6
    assert (ours**2).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_not_weaker_than_the_authors_at_equal_queries(net, threat, nets):
    peer = pytest.importorskip("pyautoattack.square")
    model, norm = nets[net], {"linf": "Linf", "l2": "L2"}[threat.norm]
    x_adv, access = attacked(Square(200), model, threat)
    theirs = peer.SquareAttack(model, norm=norm, n_queries=200, eps=threat.eps, device="cpu", seed=0)
    with torch.random.fork_rng():
        found = theirs.perturb(X, Y)
    assert accuracy(model, x_adv) <= accuracy(model, found) + 2 / len(X)
    assert threat.holds(x_adv, X).all() and int(access.spent.queries.max()) == 200


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_every_query_is_counted_and_a_finished_image_asks_no_more(threat, nets):
    x_adv, access = attacked(Square(80), nets["relu"], threat)
    wrong = Goal(Y).reached(nets["relu"](x_adv).argmax(-1))
    assert (access.spent.queries[~wrong] == 80).all() and access.spent.queries[wrong].float().mean() < 40
    shorter, _ = attacked(Square(80), nets["relu"], threat, draws=3)  # draws mean nothing where nothing is random
    assert torch.equal(x_adv, shorter) and (access.spent.draws == access.spent.queries).all()


def test_linf_changes_lie_on_the_border_and_l2_uses_all_its_length(nets):
    x = torch.rand(20, 1, 8, 8, generator=RNG.generator()) * 0.4 + 0.3
    goal = Goal(nets["conv"](x).argmax(-1))
    for threat in (Threat("linf", 0.05), Threat("l2", 0.25)):
        access = Scores().open([nets["conv"]], len(x))
        delta = Square(40)(access, x, goal, threat, RNG) - x
        length = delta.abs().flatten(1) if threat.norm == "linf" else euclidean(delta)
        assert torch.allclose(length.double(), torch.tensor(threat.eps).double(), atol=1e-6)


def test_squares_beat_uniform_samples(nets):
    squares, _ = attacked(Square(100), nets["conv"], LINF)
    samples, _ = attacked(UniformSearch(100), nets["conv"], LINF)
    assert accuracy(nets["conv"], squares) < accuracy(nets["conv"], samples) - 0.1


def test_a_targeted_goal_is_approached(nets):
    wanted = (Y + 1) % 10
    access = Scores().open([nets["conv"]], len(X))
    x_adv = Square(150)(access, X, Goal(wanted, targeted=True), Threat("linf", 0.3), RNG)
    before, after = ((nets["conv"](x).argmax(-1) == wanted).float().mean() for x in (X, x_adv))
    assert after > before + 0.3


class Gamble(Classifier):
    """The margin towards label 1 is 1 ± 0.1 for a white image, 0 ± 2 for a dark one."""

    classes, stochastic, rows = 2, True, "independent"

    def draw(self, h):
        white = h[:, 0, 0, 0]
        margin = white + (2 - 1.9 * white) * torch.randn(len(h))
        return torch.stack([-margin / 2, margin / 2], 1)


def test_one_lucky_draw_does_not_stay_the_champion():
    x = torch.full((100, 1, 1, 1), 0.5)
    goal = Goal(torch.zeros(100, dtype=torch.int64))
    propose = lambda k, rows, best: torch.full_like(best, float(k % 3 == 0) or k * 1e-4)
    white = {}
    for recheck in (0, 5):
        access = Scores().open([Gamble()], 100)
        white[recheck] = random_search(access, x, goal, propose, 200, recheck, RNG).mean()
        assert access.spent.queries.tolist() == [200] * 100
    assert white[0] < 0.1 and white[5] > 0.45


def test_on_a_random_net_rechecks_cost_no_strength(nets):
    model = Wrapped(Noisy(nets["relu"].module), 10, stochastic=True)
    kept = {}
    for recheck in (0, 5):
        x_adv, access = attacked(Square(150, recheck=recheck), model, Threat("linf", 0.15), draws=5)
        assert access.spent.queries.tolist() == [150] * len(X)
        assert access.spent.draws.tolist() == [5 * 150] * len(X)
        kept[recheck] = accuracy(model, x_adv, 100)
    assert kept[5] < kept[0] + 0.02 and kept[5] < accuracy(model, X, 100) - 0.1


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_it_passes_the_exam(threat):
    check_attack(Square(60), threat)
    check_attack(Square(30), threat, Scores(MeanOf(3)))


def test_odd_shapes_keep_the_threat():
    class Sum(Classifier):
        classes = 2

        def draw(self, h):
            return torch.stack([h.flatten(1).sum(1), h.flatten(1).sum(1) * 0 + 1e3], 1)

    for shape in ((1, 1, 1), (3, 2, 7), (2, 9, 3)):
        x = torch.rand(5, *shape, generator=RNG.generator())
        for threat in (LINF, L2):
            x_adv = Square(30)(Scores().open([Sum()], 5), x, Goal(torch.ones(5, dtype=torch.int64)), threat, RNG)
            assert threat.holds(x_adv, x).all() and x_adv.isfinite().all()


def test_bad_settings_are_explained(nets):
    for make in (lambda: Square(0), lambda: Square(share=0.0), lambda: Square(recheck=1)):
        with pytest.raises(UsageError, match="square needs queries"):
            make()
    for threat, words in ((Threat("l0", 1), "Use one-pixel"), (Threat("l2"), "needs a radius")):
        with pytest.raises(UsageError, match=words):
            attacked(Square(5), nets["relu"], threat)
