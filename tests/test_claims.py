"""A claimed evaluation in a line: what it means, what an adequate one of its kind is, and what is refused."""

from __future__ import annotations

import pytest
import torch

import robassay
from robassay import registry
from robassay.access import Decisions, Scores, White
from robassay.attacks.apgd import APGD
from robassay.attacks.cw import CW
from robassay.attacks.gradient import BIM, FGSM, PGD, RFGSM
from robassay.attacks.hopskipjump import HopSkipJump
from robassay.attacks.noise import JPEG
from robassay.attacks.snn_crafted import SNNCrafted
from robassay.attacks.square import Square
from robassay.auditing import describe_audit
from robassay.cells import Craft, Examples
from robassay.claims import Claim, adequate, parse_claim
from robassay.data import find, pixels
from robassay.errors import UsageError
from robassay.estimators import Backprop, Differences
from robassay.models import Train
from robassay.nets.mlp import MLP
from robassay.policy import MeanOf, Once, VoteOf
from robassay.threat import Threat
from robassay.training import Recipe

LINF, L2 = Threat("linf", 0.2), Threat("l2", 1.0)
USUAL = PGD(steps=10, step=0.02, loss="ce", keep="last")


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("", Claim(USUAL, 50)),
        ("pgd:steps=10,loss=ce,draws=50", Claim(USUAL, 50)),
        (" PGD : steps = 10 ", Claim(USUAL, 50)),
        ("pgd:steps=40,step=2/255,draws=1", Claim(PGD(steps=40, step=2 / 255, loss="ce", keep="last"), 1)),
        ("pgd:steps=5", Claim(PGD(steps=5, step=0.04, loss="ce", keep="last"), 50)),
        ("pgd:steps=40", Claim(PGD(steps=40, step=0.02, loss="ce", keep="last"), 50)),
        ("pgd:restarts=3,step=none", Claim(PGD(steps=10, restarts=3), 50)),
        ("pgd:random_start=False,keep=best", Claim(PGD(steps=10, step=0.02, random_start=False), 50)),
        ("pgd:draws=7,average=logits", Claim(USUAL, 7, "logits")),
        ("fgsm", Claim(FGSM(), 50)),
        ("r-fgsm:share=1/4", Claim(RFGSM(share=0.25), 50)),
        ("bim:early=true,steps=3", Claim(BIM(steps=3, early=True), 50)),
        ("apgd:loss=dlr,steps=100", Claim(APGD(), 50)),
        ("square:queries=30", Claim(Square(queries=30), 1)),
        ("jpeg:quality=50", Claim(JPEG(quality=50), 0)),
    ],
)
def test_what_a_line_means(text, claim):
    """A tenth of eps per step, but never so short a way that the edge of the ball is out of reach."""
    assert parse_claim(text, LINF) == claim


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pdg:steps=10", "Did you mean 'pgd'"),
        ("pgd:setps=10", "no field 'setps'. Did you mean 'steps'"),
        ("pgd:steps=ten", "steps=ten: steps is a whole number"),
        ("pgd:steps=10.5", "steps is a whole number"),
        ("pgd:step=8/0", "a number such as 0.01 or 2/255 or none"),
        ("pgd:step=nan", "a number such as"),
        ("pgd:step=inf", "a number such as"),
        ("pgd:random_start=maybe", "true or false"),
        ("pgd:random_start=none", "true or false"),
        ("pgd:loss=hinge", "one of ce, scaled_ce, margin, dlr"),
        ("pgd:average=mean", "one of loss, probs, logits"),
        ("pgd:steps", "no field=value"),
        ("pgd:steps=", "no field=value"),
        ("pgd:steps=1,", "no field=value"),
        ("pgd:steps=1,steps=2", "twice"),
        ("pgd:steps=0", "at least one step"),
        ("pgd:steps=20,step=2", "step=2 is more than the whole range [0,1] of a pixel. Write step=2/255?"),
        ("bim:step=1.5", "Write step=1.5/255?"),
        ("halves", "FILE.py:NAME"),
        ("none.py:halves", "No file 'none.py'"),
        ("pgd:draws=0", "at least one pass"),
        ("square:draws=0", "at least one pass"),
        ("square:average=probs", "no field 'average'"),
        ("jpeg:draws=3", "no field 'draws'"),
        ("snn-crafted:attack=fgsm", "no field 'attack'"),
        ("cw:accept=single", "no field 'accept'"),
    ],
)
def test_a_mistake_is_named_with_what_was_given(text, words):
    with pytest.raises(UsageError, match="claimed '") as told:
        parse_claim(text, LINF)
    assert words in str(told.value) and text in str(told.value)


def test_steps_beyond_a_pixel_are_none_of_our_business_in_l2():
    assert parse_claim("pgd:step=2", L2).attack.step == 2 and parse_claim("pgd:step=1", LINF).attack.step == 1


def test_an_attack_of_ones_own_file_is_claimed_on_the_command_line(tmp_path, monkeypatch):
    """Named by file and by its name in there, with its fields; what is computed is the class of that file."""
    import re
    from pathlib import Path

    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "own-attack.md").read_text(encoding="utf-8")
    text = next(t for t in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Halves" in t)
    (tmp_path / "halving.py").write_text(text.replace("Halves", "Halving"))
    monkeypatch.chdir(tmp_path)
    claim = parse_claim("halving.py:halving:steps=7,draws=3", LINF)
    assert claim.attack.steps == 7 and claim.draws == 3 and str(claim) == "halving:steps=7,draws=3"
    assert type(claim.attack).__module__.startswith("robassay_user_")
    with pytest.raises(UsageError, match=r"no field 'stpes'\. Did you mean 'steps'"):
        parse_claim("halving.py:halving:stpes=7", LINF)
    with pytest.raises(UsageError, match="Did you mean 'halving'"):
        parse_claim("halving.py:halvin", LINF)


def test_what_each_kind_of_attack_may_ask():
    assert parse_claim("fgsm:draws=3,average=probs", LINF).access() == White(Backprop(3, "probs"))
    assert parse_claim("fgsm:draws=3", LINF).access(False) == White(Differences(0.05, 20, 2))
    assert parse_claim("square", LINF).access() == Scores(Once())
    assert parse_claim("square:draws=4", LINF).access() == Scores(MeanOf(4, "logits"))
    assert parse_claim("hopskipjump:draws=4", LINF).access() == Decisions(VoteOf(4))
    assert parse_claim("jpeg", LINF).access() is None
    with pytest.raises(UsageError, match="needs a gradient"):
        parse_claim("fgsm:average=probs", LINF).access(False)


@pytest.mark.parametrize(
    ("claimed", "enough"),
    [
        (USUAL, APGD(steps=80, loss="ce")),
        (PGD(steps=200, step=0.1, loss="margin", momentum=0.5, restarts=2), APGD(200, "margin", 2)),
        (FGSM(loss="dlr"), APGD(steps=80, loss="dlr")),
        (RFGSM(), APGD(steps=80, loss="ce")),
        (BIM(steps=100, loss="margin"), APGD(steps=80, loss="margin")),
        (APGD(steps=20, targets=3), APGD(steps=80, targets=3)),
        (CW(steps=10), CW(steps=80)),
        (Square(queries=10), APGD(steps=80, loss="ce")),
        (HopSkipJump(), APGD(steps=80, loss="ce")),
        (SNNCrafted(steps=7), APGD(steps=80, loss="ce")),
    ],
)
def test_an_adequate_budget_keeps_the_loss_and_takes_more_steps(claimed, enough):
    assert adequate(claimed, 80) == enough


def plan(claimed: str, **more: bool):
    model = Train(MLP((8,)), find("digits"), Recipe(epochs=1))
    return describe_audit(model, Examples(find("digits"), "test", 0, 20), LINF, claimed=claimed, **more)


def test_the_default_claim_is_the_fields_usual_attack_and_keeps_its_cells():
    said, default = plan("pgd:steps=10,loss=ce,draws=50"), plan("")
    assert [c.key for c in said.needs()] == [c.key for c in default.needs()]
    craft = default.claimed[0].on
    assert isinstance(craft, Craft) and (craft.attack, craft.access) == (USUAL, White(Backprop(50)))
    craft = default.adequate[0].on
    assert isinstance(craft, Craft) and (craft.attack, craft.access) == (APGD(steps=80, loss="ce"), White(Backprop(10)))
    assert default.freeze()["claim"].startswith("pgd:steps=10,step=0.02,loss=ce,restarts=1,random_start=true,keep=last")


def test_a_claim_says_its_estimator_and_the_adequate_one_keeps_it():
    item = plan("pgd:steps=3,loss=margin,draws=2,average=probs")
    crafts = [e[0].on for e in (item.claimed, item.adequate)]
    assert [(c.attack.steps, c.attack.loss, c.access) for c in crafts] == [
        (3, "margin", White(Backprop(2, "probs"))),
        (80, "margin", White(Backprop(10, "probs"))),
    ]
    assert parse_claim(item.claim, LINF) == Claim(crafts[0].attack, 2, "probs"), "the words can be given again"


def test_a_weak_claim_of_a_plain_network_is_overstated_and_not_masked():
    """One small step, or three random squares, leave what many steps do not: no gradient is masked."""
    images = find("digits").split("train")
    x, y = pixels(images.x), images.y
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(150):
            rows = torch.randint(len(y), (128,))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    data = (pixels(find("digits").split("test").x[:60]), find("digits").split("test").y[:60])
    results = {
        claimed: robassay.audit(net, data, linf=0.12, examples=60, claimed=claimed, quiet=True)
        for claimed in ("square:queries=3", "pgd:steps=1,step=0.01", "")
    }
    for claimed in ("square:queries=3", "pgd:steps=1,step=0.01"):
        assert results[claimed]["verdict"] == "overstated" and results[claimed]["cause"] == "steps", claimed
        assert results[claimed]["claimed"]["value"] > results[""]["claimed"]["value"] + 0.15
        assert results[claimed]["claim"].startswith(claimed)
