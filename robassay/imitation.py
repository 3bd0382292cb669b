"""Training from the answers of another classifier: plainly, or by mimicking its variance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robassay.classifier import Net
from robassay.data import Images
from robassay.errors import UsageError
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.threat import REJECT
from robassay.training import accuracy_of, check_last_batch, copied, loss_of, optimizer_for, values_of

Ask = Callable[[Tensor, Tensor, Stream], Tensor]
"""Images (B, C, H, W) that are, or come from, the rows (B,) of the set → labels int64 (B,), REJECT where refused."""


class Answered(NamedTuple):
    """Images with the labels that another classifier gave them."""

    x: Tensor
    """float32 (N, C, H, W) in [0,1]."""
    y: Tensor
    """int64 (N,), none of them REJECT."""


class Mimicry(NamedTuple):
    """Variance mimicking.

    Source: Tan et al. 2020, Algorithm 1: one step on a batch d with the oracle's labels, then ``copies`` times one step
    on d + N(0, σ²) with the oracle's labels of just that; σ² is the variance over the batch of every channel, row and
    column.
    """

    copies: int = 10
    clip: bool = False
    """Whether the noisy images are cut to [0,1]; the source does not say so."""


def imitate(
    net: Net,
    shape: tuple[int, int, int],
    classes: int,
    answered: Answered,
    held: Images,
    recipe: Recipe,
    rng: Stream,
    progress: Callable[[int, int], None],
    device: torch.device | str = "cpu",
    mimicry: Mimicry | None = None,
    ask: Ask | None = None,
    enough: float | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Train ``net`` from scratch on what was answered.

    With ``mimicry`` the labels of ``answered`` are not learnt: every batch is asked about anew, as are its noisy
    copies, by ``ask``. What is refused is left out of the step.

    Args:
        held: uint8 images and labels that the same classifier gave; agreement on them chooses the epoch.
        recipe: without an adversary and without augmentations, which would change what was asked about.
        rng: names the streams of weights, order, noise and questions.
        progress: told (batches done, batches in all).
        enough: agreement after which no further epoch is begun; None to learn all of the recipe's.

    Returns:
        The kept weights, and their agreement with the labels of ``held``, one draw each.

    Raises:
        RobassayError: the loss is no longer finite.
    """
    with rng.child("init").active():
        model = net.build(shape, classes).to(device)
    check_last_batch(model, len(answered.y), recipe.batch)
    optimizer = optimizer_for(model, recipe)
    steps = -(-len(answered.y) // recipe.batch)
    best, kept = -1.0, dict[str, Tensor]()
    for epoch in range(recipe.epochs):
        if recipe.fresh and recipe.turns(epoch):
            optimizer = optimizer_for(model, recipe)
        model.begin_epoch(epoch)
        order = torch.randperm(len(answered.y), generator=rng.child("order", epoch).generator())
        for i, rows in enumerate(order.split(recipe.batch)):
            step, rate = rng.child("step", epoch, i), recipe.rate(epoch, epoch * steps + i)
            for group in optimizer.param_groups:
                group["lr"] = rate
            for k, (x, y) in enumerate(_lessons(answered, rows, mimicry, ask, step)):
                lesson = [(1.0, x.to(device))]
                loss = loss_of(
                    model, lesson, y.to(device), recipe.temperature, step.child(k), len(answered.y), half=False
                )
                values_of([loss.detach()], epoch, i, recipe.lr)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                model.after_step(rate)
            progress(epoch * steps + i + 1, recipe.epochs * steps)
        agreement = accuracy_of(model, held, None, rng.child("held", epoch), device)
        if recipe.keep == "last" or agreement >= best:
            best, kept = agreement, copied(model)
        if enough is not None and agreement >= enough:
            break
    return kept, best


def _lessons(
    answered: Answered, rows: Tensor, mimicry: Mimicry | None, ask: Ask | None, rng: Stream
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of the steps that one batch gives: one, or with mimicry one more for every noisy copy."""
    x = answered.x[rows]
    if mimicry is None or ask is None:
        yield x, answered.y[rows]
        return
    for k in range(mimicry.copies + 1):
        shown = x if k == 0 else noisy(x, mimicry.clip, rng.child("copy", k))
        y = ask(shown, rows, rng.child("ask", k))
        known = y != REJECT
        if known.any():
            yield shown[known], y[known]


def noisy(x: Tensor, clip: bool, rng: Stream) -> Tensor:
    """Images (B, C, H, W) plus Gaussian noise with the batch's own variance of every channel, row and column.

    The noise is fresh for each image; a pixel that is the same in the whole batch stays as it is.
    """
    deviation = x.std(0, correction=0)
    noise = torch.randn(x.shape, generator=rng.generator()).to(x)
    moved = x + deviation * noise
    return moved.clamp(0, 1) if clip else moved


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError for a recipe that would change the images behind the oracle's labels."""
    wrong: dict[str, Any] = {"adversary": recipe.adversary, "augment": recipe.augment}
    for name, value in wrong.items():
        if value:
            raise UsageError(
                f"the recipe of a substitute has {name}={value!r}: it would learn labels of images that the oracle "
                f"never saw. Leave {name} out."
            )
