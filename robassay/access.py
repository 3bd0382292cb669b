"""What an attacker may ask, and a count of every question.

Knowledge is enforced by type: an attack that only sees decisions is handed an object that has no gradient.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.errors import AttackWarning, UsageError
from robassay.estimators import Backprop, Cost, Directed, Estimator
from robassay.outputs import like_probabilities
from robassay.policy import Once, Policy
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import REJECT, Goal, Loss, Threat, per_example

PROBABILITIES = (
    "the model returns probabilities (each row is non-negative and adds up to 1), not logits: where it is sure, their "
    "gradient vanishes and every loss but 'margin' is another one. Return what goes into the softmax instead."
)
FEW = 4


@final
class Spent:
    """Questions asked so far, per example: images shown, stochastic forward passes, backward passes.

    Attributes:
        queries, draws, gradients: int64 (B,).
    """

    def __init__(self, examples: int) -> None:
        self.queries = torch.zeros(examples, dtype=torch.int64)
        self.draws = torch.zeros(examples, dtype=torch.int64)
        self.gradients = torch.zeros(examples, dtype=torch.int64)

    def add(self, rows: Tensor | None, draws: int, gradients: int, queries: int = 1) -> None:
        """Count one question about ``rows`` (None: every example)."""
        for counts, more in ((self.queries, queries), (self.draws, draws), (self.gradients, gradients)):
            if rows is None:
                counts.add_(more)
            else:  # not counts[rows] += more, which counts a row that is asked about twice only once
                counts.index_add_(0, rows.cpu(), torch.full((len(rows),), more))


class Opened:
    """An open access to one or several models for one batch of B examples."""

    def __init__(self, models: Sequence[Classifier], examples: int) -> None:
        self.models = tuple(models)
        self.spent = Spent(examples)
        self.start: Tensor | None = None
        """Where a search may begin, images (B, C, H, W), such as those that another model was attacked with."""
        self.classes = self.models[0].classes
        self.stochastic = any(m.stochastic for m in self.models)
        self.coupled = any(m.coupled for m in self.models)
        self._looked = False

    def look(self, logits: Tensor) -> None:
        """Warn, once, when the first ``logits`` (…, B, C) seen look like probabilities; few rows may by chance."""
        if not self._looked:
            self._looked = True
            if logits[..., 0].numel() >= FEW and like_probabilities(logits):
                warnings.warn(PROBABILITIES, AttackWarning, stacklevel=4)


@final
class GradientAccess(Opened):
    """White box: value and gradient of any loss, and logits. Losses of several models are summed.

    Args:
        estimator: how the attacker differentiates.
    """

    def __init__(self, models: Sequence[Classifier], examples: int, estimator: Estimator) -> None:
        super().__init__(models, examples)
        self.estimator = estimator
        self.broken = torch.zeros(examples, dtype=torch.int64)
        """Steps per example (B,) whose gradient was not finite; on the models' device."""

    def direction(self, x: Tensor, loss: Loss, rng: Stream, rows: Tensor | None = None) -> Directed:
        """The estimator's answer for ``loss`` at ``x`` (b, C, H, W), which are the examples ``rows`` (b,) of the batch.

        ``loss`` maps logits (…, b, C) to values (…, b), larger where the attacker is closer to the goal, such as
        ``goal.margin``.
        With several models the values and gradients are summed and the logits stand one model after the other along
        the draws, so that a share of wrong draws is a share over models, too.
        """
        found = [
            self.estimator(model, x, loss, rng if len(self.models) == 1 else rng.child("model", i))
            for i, model in enumerate(self.models)
        ]
        for one in found:
            self.spent.add(rows, one.cost.draws, one.cost.gradients)
        self.look(found[0].logits)
        if len(found) == 1:
            return self._finite(found[0], rows)
        joined = Directed(
            torch.stack([f.value for f in found]).sum(0),
            torch.stack([f.gradient for f in found]).sum(0),
            torch.cat([f.logits for f in found]),
            Cost(sum(f.cost.draws for f in found), sum(f.cost.gradients for f in found)),
        )
        return self._finite(joined, rows)

    def _finite(self, found: Directed, rows: Tensor | None) -> Directed:
        """A gradient with a NaN or an infinity points nowhere: that of its example becomes zero, and is counted."""
        if found.gradient.device.type == "cpu" and math.isfinite(float(found.gradient.sum())):
            return found  # not asked of a GPU, which would have to be waited for
        bad = ~found.gradient.flatten(1).sum(1).isfinite()
        self.broken = self.broken.to(bad.device)
        self.broken[slice(None) if rows is None else rows] += bad
        return found._replace(gradient=found.gradient.masked_fill(per_example(bad, found.gradient), 0.0))

    @torch.no_grad()
    def undetected(self, x: Tensor) -> Tensor:
        """Which images (b, C, H, W) no detector refuses: bool (b,); all of them, for an attacker who does not evade."""
        passed = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for model in self.models if self.estimator.evades else ():
            passed &= ~model.rejects(x)
        return passed

    @torch.no_grad()
    def logits(self, x: Tensor, rng: Stream, draws: int = 1, rows: Tensor | None = None) -> Tensor:
        """``draws`` draws of each model's logits, (draws · models, b, C), without a gradient."""
        answers = []
        for i, model in enumerate(self.models):
            drawn = model.drawn(model.features(x), draws, rng.child("model", i))
            self.spent.add(rows, len(drawn), 0)
            answers.append(drawn)
        self.look(answers[0])
        return torch.cat(answers)


@final
class ScoreAccess(Opened):
    """The logits of a defender's passes, no gradient; what its detectors, if it has any, say of them stays unknown.

    Args:
        policy: whose number of draws is one question.
    """

    def __init__(self, models: Sequence[Classifier], examples: int, policy: Policy) -> None:
        super().__init__(models, examples)
        self.policy = policy

    @torch.no_grad()
    def scores(self, x: Tensor, rng: Stream, rows: Tensor | None = None) -> Tensor:
        """Logits (policy.draws · models, b, C) of ``x`` (b, C, H, W)."""
        answers = []
        for i, model in enumerate(self.models):
            drawn = model.drawn(model.features(x), self.policy.draws, rng.child("model", i))
            self.spent.add(rows, len(drawn), 0)
            answers.append(drawn)
        self.look(answers[0])
        return torch.cat(answers)


@final
class DecisionAccess(Opened):
    """The defender's decisions, nothing else.

    Args:
        policy: how the defender decides.
    """

    def __init__(self, models: Sequence[Classifier], examples: int, policy: Policy) -> None:
        super().__init__(models, examples)
        self.policy = policy

    @torch.no_grad()
    def decisions(self, x: Tensor, rng: Stream, rows: Tensor | None = None) -> Tensor:
        """Labels int64 (models, b) that the policy gives ``x`` (b, C, H, W); REJECT where a detector refuses."""
        answers = []
        for i, model in enumerate(self.models):
            logits = model.sample(model.features(x), self.policy.draws, rng.child("model", i))
            self.spent.add(rows, self.policy.draws if model.stochastic else 1, 0)
            answers.append(torch.where(model.rejects(x), REJECT, self.policy.decide(logits)))
        return torch.stack(answers)


class Access(abc.ABC):
    """What an attacker knows, as a value: part of an experiment's identity."""

    kind: ClassVar[str] = "access"
    opens: ClassVar[type[Opened]]
    label: ClassVar[str]

    @abc.abstractmethod
    def open(self, models: Sequence[Classifier], examples: int) -> Opened:
        """An access to ``models`` for a batch of ``examples``."""


@part
class White(Access):
    """Weights and architecture are known; the attacker chooses how to differentiate: by ``estimator``."""

    opens = GradientAccess
    label = "white"
    estimator: Estimator = Backprop()

    def open(self, models: Sequence[Classifier], examples: int) -> GradientAccess:
        return GradientAccess(models, examples, self.estimator)


@part
class Scores(Access):
    """Logits of single passes can be asked for, as many at once as ``policy`` takes draws."""

    opens = ScoreAccess
    label = "scores"
    policy: Policy = Once()

    def open(self, models: Sequence[Classifier], examples: int) -> ScoreAccess:
        return ScoreAccess(models, examples, self.policy)


@part
class Decisions(Access):
    """Only the final label can be asked for, which ``policy`` decides."""

    opens = DecisionAccess
    label = "decisions"
    policy: Policy = Once()

    def open(self, models: Sequence[Classifier], examples: int) -> DecisionAccess:
        return DecisionAccess(models, examples, self.policy)


class Attack(abc.ABC):
    """A pure function from images to images. It never judges its own success: fresh draws do, elsewhere.

    Attributes:
        access: the kind of open access it needs; None when it asks nothing (noise, compression).
    """

    kind: ClassVar[str] = "attacks"
    access: ClassVar[type[Opened] | None]

    @abc.abstractmethod
    def __call__(self, access: Any, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        """Adversarial images for ``x``, both float32 (B, C, H, W) in the threat's box; ``x`` is not modified."""


def check_match(attack: Attack, access: Access | None) -> None:
    """Whether an attack can work with what the attacker knows.

    Raises:
        UsageError: it cannot; the message names what it needs.
    """
    needed, given = attack.access, access.opens if access is not None else None
    if needed is given:
        return
    word: dict[type[Opened] | None, str] = {
        GradientAccess: "White(…)",
        ScoreAccess: "Scores(…)",
        DecisionAccess: "Decisions(…)",
        None: "None",
    }
    raise UsageError(
        f"{type(attack).__name__} needs access={word[needed]}, it was given "
        f"{type(access).__name__ if access is not None else 'None'}."
    )
