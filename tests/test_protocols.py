"""Protocols on networks whose answers are known: every number is counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from robassay.access import Decisions, White
from robassay.attacks.boundary import Boundary
from robassay.attacks.cw import CW
from robassay.attacks.gradient import BIM
from robassay.attacks.noise import JPEG, Gaussian
from robassay.cell import Arrays, Context, Model, cell
from robassay.cells import Craft, Disturbed, Examples, Score
from robassay.classifier import Classifier
from robassay.data import find
from robassay.document import Document
from robassay.errors import UsageError
from robassay.folds import Broken, Distortion, Rows, Stability, Success
from robassay.gates import Joint
from robassay.goals import GivenTarget
from robassay.policy import MeanOf, Once, VoteOf
from robassay.protocols.cost import Asked, cost_to_break
from robassay.protocols.mixtures import mixtures
from robassay.protocols.parts import Means, clean, judged
from robassay.protocols.stability import gaussian, jpeg
from robassay.protocols.transfer import losses, matrix
from robassay.protocols.white import over_c, over_kappa, policies, white_box
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Study
from robassay.threat import Threat

DIGITS = find("digits")
IMAGES = Examples(DIGITS, "test", 0, 40)


class Known(Classifier):
    """Says the true class of an image unless one pixel is above a half: then the next class.

    ``pixel`` is 0 in every image, so that an attack on a network that watches one pixel fools exactly those that watch
    the same. A random one lets a coin decide, for the whole batch, whether it looks at all.
    """

    classes = 10

    def __init__(self, pixel: int, coin: float, labels: Tensor, images: Tensor) -> None:
        super().__init__()
        self.pixel, self.coin = pixel, coin
        self.stochastic = coin < 1
        self.rows = "independent"
        self.register_buffer("labels", labels)
        self.register_buffer("images", images)

    def draw(self, h: Tensor) -> Tensor:
        flat = h.flatten(1)
        rest = [i for i in range(flat.shape[1]) if i not in PIXELS]
        with torch.no_grad():
            at = torch.cdist(flat[:, rest], self.images.flatten(1)[:, rest]).argmin(1)
        label = self.labels[at]
        looks = (torch.rand(len(h), device=h.device) < self.coin).to(h.dtype)
        raised = looks * (flat[:, self.pixel] - 0.25)
        one = torch.nn.functional.one_hot
        return -4 * raised[:, None] * one(label, 10) + 4 * raised[:, None] * one((label + 1) % 10, 10) + one(label, 10)


PIXELS = (0, 7, 56)
"""Corners that are black in every digit."""


@cell
class Built(Model):
    """A :class:`Known` network."""

    pixel: int
    coin: float = 1.0

    def compute(self, ctx: Context) -> Arrays:
        return {"built": torch.tensor(1)}

    def open(self, ctx: Context) -> Classifier:
        images = IMAGES.load()
        return Known(self.pixel, self.coin, images.y, images.x.float() / 255)


FIRST, SECOND, COIN = Built(0), Built(7), Built(0, 0.5)
STEP = Means(BIM(steps=4, step=0.2, early=False), Threat("linf", 0.75), White())


def shown(tmp_path, *items):
    """The document of a study, everything computed in this process."""
    study = Study("known", "Known", items)
    store = Store(tmp_path)
    outcome = carry_out(study.needs(), store, 0, quiet=True)
    assert not outcome.failed, next(iter(outcome.failed.values()))
    return Document(study.freeze(), store).whole()


def entry(table, row, column):
    return table["cells"][table["rows"].index(row)][table["cols"].index(column)]


def test_the_corners_are_black_and_the_images_differ():
    x = IMAGES.load().x.flatten(1).float()
    assert not x[:, PIXELS].any()
    assert (torch.cdist(x, x) + 1e9 * torch.eye(len(x))).min() > 0


def test_a_matrix_has_white_boxes_on_its_diagonal_and_gates_elsewhere(tmp_path):
    nets = {"first": FIRST, "second": SECOND, "coin": COIN}
    table = matrix("m", "Known", {n: (nets[n], STEP) for n in ("first", "second")}, nets, IMAGES, repeats=200)
    found = shown(tmp_path, table)["tables"][0]
    for name in ("first", "second"):
        assert entry(found, name, name)["value"] == 1
    assert entry(found, "first", "second")["value"] == 0
    assert entry(found, "second", "coin")["value"] == 0
    half = entry(found, "first", "coin")  # it looks in every other draw
    assert half["low"] < 0.5 < half["high"]
    assert half["n"] == entry(found, "first", "second")["n"] == 40


def test_a_source_that_nothing_fools_leaves_rates_empty(tmp_path):
    weak = Means(BIM(steps=1, step=0.01), Threat("linf", 0.01), White())
    found = shown(tmp_path, matrix("m", "Weak", {"first": (FIRST, weak)}, {"second": SECOND}, IMAGES))["tables"][0]
    assert entry(found, "first", "second")["n"] == 0
    assert entry(found, "first", "second")["value"] is None


def test_losses_are_clean_minus_attacked(tmp_path):
    attackers = {"own": (FIRST, STEP), "another": (SECOND, STEP)}
    figure = shown(tmp_path, losses("l", "Lost", FIRST, attackers, IMAGES, (0.1, 0.75)))["figures"][0]
    values = {line["name"]: [p["value"] for p in line["points"]] for line in figure["series"]}
    assert values == {"own": [0, 1], "another": [0, 0]}
    with pytest.raises(UsageError, match="one radius"):
        losses("l", "Lost", FIRST, attackers, IMAGES, ())


def test_a_joint_attack_counts_where_all_are_fooled(tmp_path):
    nets = {"first": FIRST, "second": SECOND}
    success, distance = shown(tmp_path, *white_box("w", "White", nets, {"BIM": STEP}, IMAGES))["tables"]
    assert entry(success, "all 2 together", "BIM")["value"] == 1
    # Two pixels have to move instead of one; every other pixel has no gradient.
    one, both = (entry(distance, row, "BIM")["value"] for row in ("first", "all 2 together"))
    assert both == pytest.approx(one * 2**0.5, rel=1e-5)
    with pytest.raises(UsageError, match="two at least"):
        white_box("w", "White", {"first": FIRST}, {"BIM": STEP}, IMAGES)


def test_confidence_and_weight_cost_distance(tmp_path):
    attack = Means(CW(search=9, steps=100), Threat("l2"), White())
    some = Examples(DIGITS, "test", 0, 6)
    by_kappa = over_kappa("k", "κ", {"first": FIRST}, attack, some, (0.0, 2.0))
    by_c = over_c("c", "c", {"first": FIRST}, attack, some, (1e-4, 10.0))
    shares, sizes, c_shares, _ = shown(tmp_path, *by_kappa, *by_c)["figures"]
    # The margin is 1 − 8 (pixel − 1/4): 0 at a pixel of .375, −2 at .625.
    found = [p["value"] for p in sizes["series"][0]["points"]]
    assert found == [pytest.approx(0.375, abs=0.01), pytest.approx(0.625, abs=0.01)]
    assert [p["value"] for p in shares["series"][0]["points"]] == [1, 1]
    assert [p["value"] for p in c_shares["series"][0]["points"]] == [0, 1]
    with pytest.raises(UsageError, match="no constant c"):
        over_c("c", "c", {"first": FIRST}, STEP, some, (1.0,))


def test_decision_procedures_judge_the_same_attacked_images(tmp_path):
    by = {"single": Once(), "vote of 5": VoteOf(5), "mean of 5": MeanOf(5, "logits")}
    table = policies("p", "Policies", {"coin": Built(0, 0.8)}, by, STEP, IMAGES)
    crafts = {s.on.key for m in table.entries.values() for s in m.needs() if isinstance(s.on, Craft)}
    assert len(crafts) == 1
    found = shown(tmp_path, table)["tables"][0]
    # A single draw looks with probability .8; three of five do with .942.
    for word, wrong in (("single", 0.8), ("vote of 5", 0.94208)):
        cell = entry(found, "coin", f"{word}, attacked")
        assert cell["low"] <= 1 - wrong <= cell["high"]
    assert entry(found, "coin", "single, clean")["value"] == 1


def test_a_mixture_is_fooled_as_often_as_its_fooled_member_is_drawn(tmp_path):
    members = {"first": FIRST, "second": SECOND}
    items = mixtures("x", "Mixed", members, (("first", "second"),), STEP, {"BIM": STEP}, IMAGES)
    found = shown(tmp_path, *items)["tables"][0]
    both = "first + second"
    assert entry(found, "first", "ASR, mean gradient")["value"] == 1
    assert entry(found, both, "ASR, mean gradient")["value"] == 1  # the mean gradient moves both pixels
    assert entry(found, both, "robust, worst of all")["value"] == 0
    assert entry(found, both, "clean accuracy")["value"] == 1
    with pytest.raises(UsageError, match="third in a mixture"):
        mixtures("x", "Mixed", members, (("first", "third"),), STEP, {}, IMAGES)


def test_decisions_stand_still_without_noise_and_a_random_scheme_need_not(tmp_path):
    schemes = {"plain": (FIRST, Once()), "coin": (Built(0, 0.5), Once())}
    figure = shown(tmp_path, gaussian("g", "Noise", schemes, IMAGES, (0.0, 4.0)))["figures"][0]
    values = {line["name"]: [p["value"] for p in line["points"]] for line in figure["series"]}
    assert values["plain"][0] == values["coin"][0] == 1
    assert values["plain"][1] < 1
    figure = shown(tmp_path, jpeg("j", "JPEG", schemes, IMAGES, (100,)))["figures"][0]
    assert figure["series"][0]["points"][0]["value"] > 0.9


def test_noise_is_fresh_per_draw_and_the_same_for_every_model(tmp_path):
    noise = Disturbed(IMAGES, Gaussian(), Threat("l2", 2.0))
    x = IMAGES.load().x.float() / 255
    assert not torch.equal(noise.draw(x, 0, 0), noise.draw(x, 0, 1))
    assert torch.equal(noise.draw(x, 0, 0), noise.draw(x, 0, 0))
    store = Store(tmp_path)
    scores = [Score(net, noise, repeats=7) for net in (FIRST, SECOND)]
    carry_out(scores, store, 0, quiet=True)
    one, other = (store.read(s.key) for s in scores)
    assert one["decisions"].shape == (7, 40)  # a deterministic network, too: the noise is not
    assert np.array_equal(one["l2"], other["l2"])
    assert (one["l2"] <= 2.0 + 1e-6).all()
    with pytest.raises(UsageError, match="needs access=White"):
        Disturbed(IMAGES, BIM(), Threat("linf", 0.1))
    assert Disturbed(IMAGES, JPEG(), Threat("l2")).draw(x, 0, 0).shape == x.shape


def test_more_questions_break_more_and_come_nearer(tmp_path):
    queries = (40, 150, 600)
    asked = {"plain": Asked(FIRST), "mean of 3": Asked(COIN, MeanOf(3))}
    some = Examples(DIGITS, "test", 0, 10)
    share, distance = shown(tmp_path, *cost_to_break("b", "Cost", asked, some, queries, 2.0))["figures"]
    found = [p["value"] for p in distance["series"][0]["points"]]
    assert found[0] > found[-1]
    values = [p["value"] for p in share["series"][0]["points"]]
    assert values == sorted(values)
    spent = Means(Boundary(queries=40), Threat("l2"), Decisions(Once())).on((FIRST,), some)
    store = Store(tmp_path)
    carry_out(list(judged(FIRST, spent)), store, 0, quiet=True)
    assert store.read(spent[0].key)["queries"].max() <= 40


def rows(decisions, labels, l2=None, targets=None) -> Rows:
    decisions, labels = np.array(decisions, np.int16), np.array(labels)
    size = np.ones(len(labels)) if l2 is None else np.array(l2, float)
    none = np.zeros(len(labels))
    block = np.zeros(len(labels), np.int64)
    return Rows(decisions, labels, block, False, size, size, none, none, targets)


def test_success_of_a_targeted_attack_is_the_wanted_class():
    wanted = rows([[1, 2, 3, -1]], [0, 0, 0, 0], targets=np.array([1, 1, -1, 1]))
    # Wanted and hit, another wrong class, any wrong class would do, refused.
    assert wanted.fooled().tolist() == [[1, 0, 1, 0]]
    right = rows([[0, 0, 0, 0]], [0, 0, 0, 0], l2=[0, 0, 0, 0])
    assert Success()([wanted, right]).value == 0.5
    untouched = rows([[1, 1]], [0, 0], l2=[0, 1])
    assert untouched.fooled().tolist() == [[0, 1]]  # what the attack returned unchanged is its failure


def test_folds_count_by_hand():
    one = rows([[1, 1, 0], [1, 0, 0]], [0, 0, 0], l2=[1, 2, 3])
    other = rows([[1, 0, 1], [1, 1, 1]], [0, 0, 0], l2=[1, 2, 3])
    assert Joint()([one, other]).value == pytest.approx(2 / 6)
    assert Broken(1.5)([one]).value == pytest.approx(2 / 6)
    assert Distortion()([one]).value == pytest.approx(1.5)  # at least half of the draws: images 0 and 1
    assert Distortion()([one, other]).value == pytest.approx(1.5)
    reference = rows([[1, 0, -1]], [0, 0, 0], l2=[0, 0, 0])
    disturbed = rows([[1, 1, -1], [0, 0, -1]], [0, 0, 0])
    assert Stability()([disturbed, reference]).value == pytest.approx((0.5 + 0.5 + 1) / 3)  # two refusals agree


def test_targets_and_rounding_are_stored(tmp_path):
    craft = Craft((FIRST,), IMAGES, BIM(steps=1, step=0.0005), Threat("linf", 0.0005), White(), GivenTarget(3, 4))
    scores = [Score(FIRST, craft), Score(FIRST, craft, rounded=True)]
    store = Store(tmp_path)
    carry_out(scores, store, 0, quiet=True)
    exact, rounded = (store.read(s.key) for s in scores)
    labels = IMAGES.load().y.numpy()
    assert np.array_equal(exact["targets"], np.where(labels == 3, 4, 3))
    assert (exact["linf"] > 0).all()
    assert (rounded["linf"] == 0).all()  # less than half a grey level
    assert len(clean(FIRST, IMAGES)) == 1
