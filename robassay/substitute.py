"""Substitutes: networks trained from another model's hard labels, which a black-box attack then attacks instead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robassay import checkpoint
from robassay.access import DecisionAccess, Decisions
from robassay.cell import Arrays, Context, Model, Source, cell
from robassay.cells import Examples
from robassay.classifier import Classifier, Net
from robassay.data import Images, pixels
from robassay.errors import UsageError
from robassay.estimators import Backprop, Estimator
from robassay.imitation import Answered, Mimicry, check_recipe, imitate
from robassay.models import check_begin
from robassay.policy import Once, Policy
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.threat import REJECT
from robassay.told import Tell
from robassay.training import WEIGHT, restore

AT_ONCE = 500
"""Images asked about, or differentiated, together; a constant, because it decides which bits a draw gets."""
AGREEMENT = "history/agreement"


@cell
class Substitute(Model):
    """A network trained from an oracle's hard labels alone, on images of the attacker's own and what grows from them.

    Round ρ, from 0, labels the images that are new, trains the network from scratch, and, but for the last round, adds
    to every image x with label y the image x + λ(−1)^⌊ρ/τ⌋ · sign(∂F_y(x)/∂x), cut to [0,1]. F_y is the network's
    logit of the oracle's label. True labels are never looked at. An image that the oracle refuses to label is left
    out, and nothing grows from it.

    Every question is counted. With n images that are learnt, h that are held and no refusal there are n·2^rounds + h
    questions; with variance mimicking (m copies, E epochs) E·(m + 1)·n·(2^(rounds + 1) − 1) more.

    Source: Papernot et al. 2017, Algorithm 1, with the settings of Tan et al. 2020, App. G, H. As in the published code
    of the former, images keep the label that they were given when they were new; unlike it, every round begins with
    new weights, and added images are cut to the box.

    Args:
        net: the substitute's network.
        oracle: the model that is asked.
        on: the attacker's own images; judge the attack on others.
        recipe: of every round; "best" is the epoch that agrees most with the oracle's labels of the held images.
        policy: how the oracle decides.
        rounds: how often the set is doubled; there is one training more.
        step: λ, in pixel units.
        period: τ, rounds between two changes of the step's sign.
        estimator: how the gradient of the network's logit is found; of a random network, the mean of ten draws.
        mimic: noisy copies of every batch, as :class:`~robassay.imitation.Mimicry`; 0 for none, 10 as published.
        clip: whether the noisy copies are cut to [0,1].
        held: share of the own images, their last, that are asked about once and never learnt.
        enough: agreement with the oracle's labels of the held images, in (0,1], after which a round begins no further
            epoch; None to learn all of the recipe's.
        seed: names the streams of weights, order, noise and questions.

    Raises:
        UsageError: a step, period, share or agreement that means nothing; an oracle for other images; a recipe that
            changes the images.
    """

    net: Net
    oracle: Model
    on: Examples
    recipe: Recipe
    policy: Policy = Once()
    rounds: int = 5
    step: float = 0.1
    period: int = 2
    estimator: Estimator = Backprop(10)
    mimic: int = 0
    clip: bool = False
    held: float = 0.1
    enough: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.period < 1 or self.mimic < 0 or not self.step > 0:
            raise UsageError("a substitute needs rounds ≥ 0, period ≥ 1, mimic ≥ 0 and step > 0, such as step=0.1.")
        if self.clip and not self.mimic:
            raise UsageError("clip=True cuts the noisy copies, and there are none. Write mimic=10, or leave clip out.")
        if not 0 < self.held < 1:
            raise UsageError(f"held={self.held} is no share that leaves images to learn. Write held=0.1.")
        if self.enough is not None and not 0 < self.enough <= 1:
            raise UsageError(f"enough={self.enough} is no share of held images. Write enough=0.9, or None to learn on.")
        if not 2 <= self.learnt < self.on.stop - self.on.start:
            raise UsageError(
                f"{self.on.stop - self.on.start} own images, {self.held:g} of them held: two at least must be learnt "
                "and one held. Give more images."
            )
        check_recipe(self.recipe)
        check_begin(self.net, self.recipe)
        theirs = getattr(self.oracle, "data", self.data)  # known now, long before the oracle is trained
        if (theirs.shape, theirs.classes) != (self.data.shape, self.data.classes):
            raise UsageError(
                f"the oracle was trained for images {theirs.shape} of {theirs.classes} classes ({theirs.name}), "
                f"{self.data.name} has {self.data.shape} and {self.data.classes}. Ask it about such images."
            )

    @property
    def data(self) -> Source:
        """The data set of the own images."""
        return self.on.data

    @property
    def learnt(self) -> int:
        """How many of the own images are learnt; the others are held."""
        images = self.on.stop - self.on.start
        return images - max(1, round(self.held * images))

    @property
    def steps(self) -> tuple[float, ...]:
        """λ of every round that grows the set."""
        return tuple(self.step * (-1) ** (i // self.period) for i in range(self.rounds))

    def compute(self, ctx: Context) -> Arrays:
        own = self.on.load().x  # the labels stay where they are
        opened = Decisions(self.policy).open([ctx.open(self.oracle)], len(own))
        assert isinstance(opened, DecisionAccess)
        rng, ask = Stream(("substitute", self.key)), _Asking(opened, ctx.device, self.data.classes)
        state = _State.load(ctx, ask) or self._begin(own, ask, rng.child("begin"))
        for i in range(len(state.history), self.rounds + 1):
            before = int(opened.spent.queries.sum()) if i else 0
            if i:
                self._grow(ctx, state, self.steps[i - 1], ask, rng.child("grow", i))
            state.weights, agreement = self._train(ctx, own, state, i, ask, rng.child("round", i))
            state.history.append((agreement, len(state.y), int(opened.spent.queries.sum()) - before))
            state.save(ctx, ask)
        agreements, sizes, queries = zip(*state.history, strict=True)
        return {
            **{WEIGHT + name: tensor for name, tensor in state.weights.items()},
            AGREEMENT: torch.tensor(agreements, dtype=torch.float64),
            "history/images": torch.tensor(sizes),
            "history/queries": torch.tensor(queries),
            "queries": opened.spent.queries.clone(),
            "draws": opened.spent.draws.clone(),
            "answers": state.answers.to(torch.int16),
        }

    def open(self, ctx: Context) -> Classifier:
        arrays = {name: torch.from_numpy(a) for name, a in ctx.load(self).items() if name.startswith(WEIGHT)}
        return restore(self.net, self.data.shape, self.data.classes, arrays)

    def _begin(self, own: Tensor, ask: _Asking, rng: Stream) -> _State:
        """The own images with the oracle's labels.

        Raises:
            UsageError: labels of one class or of none.
        """
        x, origin = pixels(own), torch.arange(len(own))
        answers = ask(x, origin, rng)
        known = answers != REJECT
        learnt, held = known & (origin < self.learnt), known & (origin >= self.learnt)
        found = answers[learnt].unique().tolist()
        few = len(found) < (2 if self.rounds else 1)  # steps towards another label need a second one
        if few or not held.any():
            said = f"gave one label, {found[0]}, to" if found else "refused all of"
            what = f"{said} the {self.learnt} images to learn" if few else "refused all held images"
            raise UsageError(f"the oracle {what}, so there is nothing to learn from. Give other or more images.")
        return _State(answers, x[learnt], answers[learnt], origin[learnt], {}, [])

    def _grow(self, ctx: Context, state: _State, step: float, ask: _Asking, rng: Stream) -> None:
        """Double the set, and ask about what is new."""
        weights = {WEIGHT + name: tensor for name, tensor in state.weights.items()}
        model = restore(self.net, self.data.shape, self.data.classes, weights).to(ctx.device)
        new = torch.cat(
            [
                grown(model, x.to(ctx.device), y.to(ctx.device), step, self.estimator, rng.child("gradient", i)).cpu()
                for i, (x, y) in enumerate(zip(state.x.split(AT_ONCE), state.y.split(AT_ONCE), strict=True))
            ]
        )
        answers = ask(new, state.origin, rng.child("ask"))
        known = answers != REJECT
        state.origin = torch.cat([state.origin, state.origin[known]])
        state.x, state.y = torch.cat([state.x, new[known]]), torch.cat([state.y, answers[known]])

    def _train(
        self, ctx: Context, own: Tensor, state: _State, number: int, ask: _Asking, rng: Stream
    ) -> tuple[dict[str, Tensor], float]:
        """One training from scratch: weights and agreement on the held images."""
        held = torch.arange(self.learnt, len(own))
        held = held[state.answers[held] != REJECT]
        before, whole = 2**number - 1, 2 ** (self.rounds + 1) - 1

        def told(done: int, total: int) -> None:  # a round takes as long as all before it
            ctx.progress(before * total + done * 2**number, whole * total)

        mimicry = Mimicry(self.mimic, self.clip) if self.mimic else None
        return imitate(
            self.net,
            self.data.shape,
            self.data.classes,
            Answered(state.x, state.y),
            Images(own[held], state.answers[held]),
            self.recipe,
            rng,
            told,
            ctx.device,
            mimicry,
            lambda x, rows, stream: ask(x, state.origin[rows], stream),
            self.enough,
        )


@cell
class Asked(Tell):
    """What a substitute's oracle was asked, as an evaluation of the attacker's own images.

    The decisions are the oracle's first ones; the questions are those about an image and all that grew from it.
    """

    of: Substitute

    def compute(self, ctx: Context) -> Arrays:
        stored = ctx.load(self.of)
        labels = self.of.on.load().y.clone()
        zeros = torch.zeros(len(labels))
        return {
            "decisions": torch.from_numpy(stored["answers"])[None].clone(),
            "labels": labels,
            "index": torch.arange(self.of.on.start, self.of.on.stop),
            "block": torch.zeros(len(labels), dtype=torch.int64),
            "shared": torch.tensor(0, dtype=torch.uint8),
            **{name: zeros.clone() for name in ("linf", "l2", "l0", "gradients")},
            **{name: torch.from_numpy(stored[name]).clone() for name in ("queries", "draws")},
        }


def grown(model: Classifier, x: Tensor, labels: Tensor, step: float, estimator: Estimator, rng: Stream) -> Tensor:
    """Images (B, C, H, W) moved by ``step`` along the sign of the gradient of their label's logit, cut to [0,1]."""

    def logit(logits: Tensor) -> Tensor:
        index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
        return logits.gather(-1, index).squeeze(-1)

    return (x + step * estimator(model, x, logit, rng).gradient.sign()).clamp(0, 1)


@dataclass
class _Asking:
    """Asks the oracle, a batch at a time, on the account of the own images that the questions come from.

    An answer that is no class, with which MC-SEFRON says that no neuron fired, is a refusal.
    """

    opened: DecisionAccess
    device: torch.device
    classes: int

    def __call__(self, x: Tensor, origin: Tensor, rng: Stream) -> Tensor:
        """Labels int64 (B,) of images (B, C, H, W), REJECT where refused; all on the CPU."""
        answers = [
            self.opened.decisions(part.to(self.device), rng.child(i), rows)[0].cpu()
            for i, (part, rows) in enumerate(zip(x.split(AT_ONCE), origin.split(AT_ONCE), strict=True))
        ]
        found = torch.cat(answers)
        return torch.where(found < self.classes, found, REJECT)


@dataclass
class _State:
    """What one round hands to the next."""

    answers: Tensor
    """The oracle's first labels of all own images, int64 (N,)."""
    x: Tensor
    y: Tensor
    origin: Tensor
    """The own image, by position, that each image of the set has grown from."""
    weights: dict[str, Tensor]
    history: list[tuple[float, int, int]]
    """Agreement, size of the set and questions of every round."""

    @classmethod
    def load(cls, ctx: Context, ask: _Asking) -> _State | None:
        """The state after the last finished round, and the count of its questions; None before the first."""
        saved = checkpoint.load(ctx.scratch)
        if saved is None:
            return None
        spent = ask.opened.spent
        spent.queries, spent.draws = saved.pop("queries"), saved.pop("draws")
        return cls(**saved)

    def save(self, ctx: Context, ask: _Asking) -> None:
        """Write the state; a file under its final name is whole."""
        spent = ask.opened.spent
        checkpoint.save(ctx.scratch, {**vars(self), "queries": spent.queries, "draws": spent.draws})
