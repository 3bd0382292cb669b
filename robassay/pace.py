"""How long a step of training takes: of several networks in turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import time

import torch

from robassay.cell import Arrays, Context, Source, cell
from robassay.classifier import Net
from robassay.data import Images, pixels
from robassay.errors import UsageError
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.told import Tell, telling
from robassay.training import loss_of, optimizer_for


@cell
class Pace(Tell):
    """Seconds of one step of every training, round after round; a round is one step of each, in turn.

    A step is what an epoch repeats: the adversary's images, loss, gradient, optimiser, projection. It is made from
    untrained weights, on the same images for all; an epoch of N images takes N / batch of them. On a CPU processor time
    is taken, which other work on the machine does not lengthen as it does the time on the wall.

    As every clock's, the result is not the same twice; the key names what was measured, not a value.

    Told of every round: "NAME" for every name, seconds per image.

    Args:
        data: whose training images, in their order.
        names: of the trainings.
        nets, recipes: one for each.
        rounds: counted ones, ≥ 2.
        idle: rounds before them.
        epoch: number, from 0, of the epoch that a step is of: noise or an adversary may begin late.
    """

    data: Source
    names: tuple[str, ...]
    nets: tuple[Net, ...]
    recipes: tuple[Recipe, ...]
    rounds: int = 20
    idle: int = 2
    epoch: int = 0

    def __post_init__(self) -> None:
        counts = len(self.nets), len(self.recipes), len(set(self.names))
        if set(counts) != {len(self.names)} or not self.names:
            raise UsageError(f"{counts[0]} nets and {counts[1]} recipes have {counts[2]} names. Give each all three.")
        if self.rounds < 2 or self.idle < 0:
            raise UsageError(f"rounds={self.rounds}, idle={self.idle}: an interval needs two rounds at least.")

    def compute(self, ctx: Context) -> Arrays:
        images = self.data.split("train")
        runs = [
            _Run(net, recipe, images, self.data, ctx, self.epoch)
            for net, recipe in zip(self.nets, self.recipes, strict=True)
        ]
        seconds = torch.zeros(len(runs), self.rounds, dtype=torch.float64)
        for r in range(-self.idle, self.rounds):
            for i, run in enumerate(runs):
                taken = run.step(r + self.idle, Stream(("pace", self.key, i, r)))
                if r >= 0:
                    seconds[i, r] = taken
            ctx.progress(r + self.idle + 1, self.rounds + self.idle)
        return telling(dict(zip(self.names, seconds, strict=True)), torch.zeros(self.rounds, dtype=torch.int64))


class _Run:
    """A training that has just begun.

    Args:
        net, recipe: what is trained, and how.
        images, data: to learn from.
        ctx: whose device is used.
        epoch: which epoch's steps.
    """

    def __init__(self, net: Net, recipe: Recipe, images: Images, data: Source, ctx: Context, epoch: int) -> None:
        self.recipe, self.images, self.device, self.epoch = recipe, images, ctx.device, epoch
        with Stream(("pace", "init")).active():
            self.model = net.build(data.shape, data.classes).to(ctx.device)
        self.optimizer = optimizer_for(self.model, recipe)
        self.model.begin_epoch(epoch)

    def step(self, number: int, rng: Stream) -> float:
        """Seconds per image of a step on the images that have their turn."""
        recipe, batch = self.recipe, self.recipe.batch
        whole = len(self.images.y) // batch
        start = batch * (number % max(1, whole))
        x = pixels(self.images.x[start : start + batch]).to(self.device)
        y = self.images.y[start : start + batch].to(self.device)
        begun = self._now()
        for k, change in enumerate(recipe.augment):
            x = change(x, rng.child("augment", k))
        adversary = recipe.adversary
        lessons = [(1.0, x)]
        if adversary is not None:
            lessons = adversary.lessons(self.model, x, y, self.epoch, rng.child("attack"))
        loss = loss_of(self.model, lessons, y, recipe.temperature, rng, len(self.images.y), False)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.model.after_step(recipe.lr)
        return (self._now() - begun) / len(y)

    def _now(self) -> float:
        if self.device.type == "cuda":  # work is queued: it is over when the device says so
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()
