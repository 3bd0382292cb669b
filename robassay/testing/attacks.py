"""The exam of an attack."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robassay.access import (
    Access,
    Attack,
    DecisionAccess,
    Decisions,
    GradientAccess,
    Opened,
    ScoreAccess,
    Scores,
    White,
)
from robassay.errors import UsageError
from robassay.testing.exam import RNG, ContractError, Result, examine, need
from robassay.testing.nets import ExamNet, exam_images
from robassay.threat import TOLERANCE, Goal, Threat

THREATS = (Threat("linf", 0.05), Threat("l2", 0.5), Threat("l2"), Threat("l0", 2), Threat("linf"))
"""Tried in this order when no threat is given."""
COUNT = 8
CLOSE = 1e-4
SHIFT = 32.0
NOISE = 0.5


def check_attack(attack: Attack, threat: Threat | None = None, access: Access | None = None) -> list[Result]:
    """Examine an attack on two small networks, one of them random.

    Args:
        attack: the attack as configured; one of few steps makes a quick exam.
        threat: what it may change in images (3, 4, 4) in [0,1]; None takes the first of :data:`THREATS` that the
            attack does not refuse with a UsageError.
        access: what it may ask; None opens the kind that the attack names, with its defaults.

    Raises:
        ContractError: broken promises, all of them.
        UsageError: ``attack`` is no Attack, or refuses every threat.
    """
    if not isinstance(attack, Attack):
        raise UsageError(f"check_attack examines an Attack, this is a {type(attack).__name__}. Derive it from Attack.")
    needed = getattr(attack, "access", "nothing")
    known: dict[object, Access | None] = {
        GradientAccess: White(),
        ScoreAccess: Scores(),
        DecisionAccess: Decisions(),
        None: None,
    }
    if needed not in known:
        mend = "Write access = GradientAccess, ScoreAccess, DecisionAccess or None in the class."
        raise ContractError(type(attack).__name__, [Result("names its access", False, mend)])
    case = _Case(attack, access if access is not None else known[needed], THREATS[0])
    case = replace(case, threat=threat if threat is not None else _accepted(case))
    checks: tuple[tuple[str, Callable[[], str | None]], ...] = (
        ("returns images of the same shape", case.returns_images),
        ("keeps the budget and the box", case.keeps_budget),
        ("is a pure function of its arguments", case.is_pure),
        ("every question is counted", case.is_counted),
        ("leaves the model's parameters alone", case.spares_parameters),
        ("eps 0 gives the clean image", case.stays_at_zero),
        ("an unlimited eps succeeds", case.succeeds_unlimited),
        ("moves towards the goal, targeted or not", case.approaches_goal),
        ("a constant added to all logits changes nothing", case.ignores_shift),
        ("the size of the batch changes nothing", case.ignores_batch_size),
        ("keeps the batch of a coupled classifier together", case.keeps_coupled_batch),
    )
    return examine(type(attack).__name__, list(checks))


def _accepted(case: _Case) -> Threat:
    refusals = []
    for threat in THREATS:
        try:
            replace(case, threat=threat).on(ExamNet())
            return threat
        except UsageError as error:
            refusals.append(str(error))
        except Exception:  # a fault of the attack: the exam reports it
            return threat
    raise UsageError(f"the attack refuses every threat: {refusals[0]} Write check_attack(attack, Threat(…)).")


def _global_state() -> tuple[object, ...]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())


@dataclass(frozen=True)
class _Case:
    """An attack, what it may ask and what it may change."""

    attack: Attack
    access: Access | None
    threat: Threat

    def on(self, net: ExamNet, x: Tensor | None = None, goal: Goal | None = None) -> Tensor:
        return self.opened(net, x, goal)[0]

    def opened(self, net: ExamNet, x: Tensor | None = None, goal: Goal | None = None) -> tuple[Tensor, Opened | None]:
        x = exam_images(COUNT) if x is None else x
        opened = self.access.open([net], len(x)) if self.access is not None else None
        goal = self.goal(x) if goal is None else goal
        net.forwards = net.backwards = 0
        return self.attack(opened, x, goal, self.threat, RNG.child("attack")), opened

    def goal(self, x: Tensor, targeted: bool = False) -> Goal:
        """Leave the labels that the network gives the clean images, or reach the next ones."""
        with torch.no_grad():
            labels = ExamNet().quiet(x).argmax(-1)
        return Goal((labels + 1) % 4 if targeted else labels, targeted)

    def returns_images(self) -> str:
        x, x_adv = exam_images(COUNT), self.on(ExamNet())
        need(isinstance(x_adv, Tensor), f"it returned a {type(x_adv).__name__}. Return the images alone.")
        need(x_adv.shape == x.shape, f"it returned shape {tuple(x_adv.shape)} for images {tuple(x.shape)}.")
        need(x_adv.dtype == x.dtype, f"it returned {x_adv.dtype} for images {x.dtype}.")
        need(x_adv.isfinite().all(), "it returned NaN or infinite pixels.")
        need(not x_adv.requires_grad, "its images require a gradient. Return x_adv.detach().")
        return f"examined under {self.threat}"

    def keeps_budget(self) -> None:
        x = exam_images(COUNT)
        for net in (ExamNet(), ExamNet(noise=NOISE)):
            x_adv = self.on(net)
            broken = int((~self.threat.holds(x_adv, x)).sum())
            excess = "the box" if self.threat.eps is None else f"{self.threat.size(x_adv, x).max():.7g} in size"
            need(not broken, f"{broken} of {COUNT} images leave it ({excess}). End with threat.project(x_adv, x).")

    def is_pure(self) -> None:
        for net in (ExamNet(), ExamNet(noise=NOISE)):
            x = exam_images(COUNT)
            goal = self.goal(x)
            before = _global_state()
            first = self.on(net, x, goal)
            need(before == _global_state(), "it moves the global random state. Draw from rng, its last argument.")
            need(torch.equal(x, exam_images(COUNT)), "it changes the images it was given. Work on x.clone().")
            need(torch.equal(goal.labels, self.goal(x).labels), "it changes the labels it was given.")
            with RNG.child("elsewhere").active():
                again = self.on(net, x, goal)
            mend = "Take every random number from rng, its last argument, and keep nothing between calls."
            need(torch.equal(first, again), f"two calls with the same arguments differ. {mend}")

    def is_counted(self) -> None:
        net = ExamNet(noise=NOISE)
        _, opened = self.opened(net)
        if opened is None:
            return
        for what, spent, seen in (
            ("forward", opened.spent.draws, net.forwards),
            ("backward", opened.spent.gradients, net.backwards),
        ):
            need(
                int(spent.sum()) == seen,
                f"{int(spent.sum())} {what} passes of images were counted, the network saw {seen}. "
                "Ask through the access only, and name the rows that are asked about.",
            )

    def spares_parameters(self) -> None:
        net = ExamNet()
        self.on(net)
        mend = "Use torch.autograd.grad for the images alone."
        need(all(p.grad is None for p in net.parameters()), f"it leaves gradients in the parameters. {mend}")

    def stays_at_zero(self) -> str | None:
        if self.threat.eps is None:
            return "not asked: the threat has no radius"
        x = exam_images(COUNT)
        x_adv = replace(self, threat=replace(self.threat, eps=0.0)).on(ExamNet())
        moved = (x_adv - x).abs().max().item()
        need(moved <= TOLERANCE, f"pixels move by {moved:.2g}. End with threat.project(x_adv, x).")
        return None

    def succeeds_unlimited(self) -> str | None:
        everything = {"linf": 1.0, "l2": 48**0.5, "l0": 16.0}[self.threat.norm]
        unlimited = self.threat if self.threat.eps is None else replace(self.threat, eps=everything)
        x, net = exam_images(COUNT), ExamNet()
        with torch.no_grad():
            wrong = self.goal(x).reached(net(replace(self, threat=unlimited).on(net)).argmax(-1))
        rate = f"{int(wrong.sum())} of {COUNT} images are misclassified with eps = {unlimited.eps}"
        if self.attack.access is not GradientAccess:
            return rate
        need(
            wrong.all(), f"{rate}, on a smooth network. Look for a wrong sign, or for steps that are too small or few."
        )
        return None

    def approaches_goal(self) -> str | None:
        if self.attack.access is not GradientAccess:
            return "asked of gradient attacks only"
        x, net = exam_images(COUNT), ExamNet()
        for targeted in (False, True):
            goal = self.goal(x, targeted)
            try:
                x_adv = self.on(net, x, goal)
            except UsageError as error:
                need(targeted, f"it refuses an untargeted goal: {error}")
                return f"untargeted only: {error}"
            with torch.no_grad():
                gain = goal.margin(net(x_adv)) - goal.margin(net(x))
            nearer = int((gain > 0).sum())
            need(
                nearer > COUNT // 2 and gain.mean() > 0,
                f"{'targeted' if targeted else 'untargeted'}, the margin rose on {nearer} of {COUNT} images, by "
                f"{gain.mean():.3g} in the mean. Ascend the goal's losses: larger is closer for both kinds of goal.",
            )
        return None

    def ignores_shift(self) -> None:
        moved = (self.on(ExamNet()) - self.on(ExamNet(shift=SHIFT))).abs().max().item()
        mend = "Use differences of logits or log_softmax, never a logit alone."
        need(moved <= 1e-5, f"pixels differ by {moved:.2g} when {SHIFT:g} is added to all logits. {mend}")

    def ignores_batch_size(self) -> None:
        x, net = exam_images(COUNT), ExamNet()
        found = {}
        for size in (COUNT, 7, 1):
            x_adv = torch.cat([self.on(net, part) for part in x.split(size)])
            with torch.no_grad():
                found[size] = self.goal(x).reached(net(x_adv).argmax(-1)), self.threat.size(x_adv, x), x_adv
        wrong, sizes, images = found[COUNT]
        mend = (
            "Draw with rng.uniform and rng.normal, which give an image numbers of its own, and stop each image alone."
        )
        for size in (7, 1):
            flags = int((found[size][0] != wrong).sum())
            need(not flags, f"in batches of {size} success differs for {flags} of {COUNT} images. {mend}")
            gap = (found[size][1] - sizes).abs().max().item()
            need(gap <= CLOSE, f"in batches of {size} the size of a change differs by {gap:.2g}. {mend}")
            # A search may amplify the rounding of a few images, not that of most.
            other = int(((found[size][2] - images).abs() > 1e-3).flatten(1).any(1).sum())
            need(other <= COUNT // 4, f"in batches of {size} {other} of {COUNT} images are changed otherwise. {mend}")

    def keeps_coupled_batch(self) -> None:
        net = ExamNet(coupled=True)
        self.on(net)
        need(
            all(size % COUNT == 0 for size in net.batches),
            f"a coupled classifier saw {min(net.batches, default=COUNT)} of {COUNT} images. Keep finished ones in the "
            "batch when access.coupled, since the others' logits depend on them.",
        )
