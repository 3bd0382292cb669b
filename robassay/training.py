"""Training: one visible loop, its sections in the order in which things happen."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay import checkpoint
from robassay.classifier import Classifier, Net, Quiet
from robassay.data import Images, pixels
from robassay.defences.adversarial import AdversarialTraining
from robassay.errors import RobassayError, UsageError
from robassay.recipe import Recipe
from robassay.rng import Stream

__all__ = ["Recipe", "restore", "train"]

WEIGHT = "weight/"
LOSSES_AT_ONCE = {"cpu": 1, "cuda": 50}
"""Losses that wait on a device before they are looked at: each look makes the CPU wait for all that a GPU has to do."""
FAST = ("cuda",)
"""Devices where images and weights lie channels last, and nets that allow it learn with products in bfloat16."""
VAL_BATCH = 500
VAL_ATTACKED = 1000
"""Validation images that an adversary attacks after every epoch; accuracy on clean ones is cheap and uses them all."""


def train(
    net: Net,
    shape: tuple[int, int, int],
    classes: int,
    images: Images,
    val: Images,
    recipe: Recipe,
    rng: Stream,
    folder: Path,
    progress: Callable[[int, int], None],
    device: torch.device | str = "cpu",
    begin: dict[str, Tensor] | None = None,
    teacher: Classifier | None = None,
) -> dict[str, Tensor]:
    """Train ``net`` and return its weights.

    A checkpoint in ``folder`` is written after every epoch and continued from if it is there. All random numbers are
    named by epoch and step, so a run that was interrupted ends with the same bits as one that was not.

    Args:
        net: the network, for images of ``shape`` (C, H, W) and ``classes`` classes.
        images, val: uint8 (N, C, H, W) and int64 (N,), to learn from and to choose the epoch with.
        recipe: how.
        rng: names the streams of weights, order, augmentations, noise and adversary.
        folder: exists; holds the checkpoint of this run alone.
        progress: told (steps done, steps in all) after every step.
        device: where to compute.
        begin: a state dict of ``net`` to start from; None for the weights that ``net`` itself draws.
        teacher: in evaluation mode, on ``device``; the labels learnt are its softmax(logits / recipe.temperature) on
            the training images as they are, with its noise off, and none of the images' own.

    Returns:
        ``weight/NAME`` for every entry of the state dict; ``history/train_loss`` and ``history/val_accuracy``
        float64 (epochs,); ``history/epoch``, int64 (): the epoch, from 0, that the weights are of. On the CPU.

    Raises:
        UsageError: no image to learn from or to validate on, one class only, or labels outside 0..classes−1; ``begin``
            is of another net, or ``teacher`` has other classes.
        CannotQuiet: the teacher's noise cannot be switched off.
        RobassayError: the loss is no longer finite; on a GPU up to 50 steps late, but with the step where it began.
    """
    check_images_for(images, val, classes)

    # Model and optimiser.
    with rng.child("init").active():
        model = net.build(shape, classes).to(device)
    fast = torch.device(device).type in FAST
    layout = torch.channels_last if fast else torch.contiguous_format
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    half = fast and net.half
    if begin is not None:
        _begin(model, begin)
    check_last_batch(model, len(images.y), recipe.batch)
    optimizer = optimizer_for(model, recipe)

    # What is learnt: the labels, or what the teacher says.
    target = images.y if teacher is None else _soft(teacher, images.x, classes, recipe.temperature, device)

    # Where to start: at the beginning, or after the last finished epoch.
    state = _load(folder, model, optimizer)
    steps = -(-len(images.y) // recipe.batch)
    at_once = LOSSES_AT_ONCE.get(torch.device(device).type, 1)
    adversary = recipe.adversary

    for epoch in range(len(state["loss"]), recipe.epochs):
        if recipe.fresh and recipe.turns(epoch):
            optimizer = optimizer_for(model, recipe)
        model.begin_epoch(epoch)
        order = torch.randperm(len(images.y), generator=rng.child("order", epoch).generator())
        losses, waiting = list[float](), list[Tensor]()

        # One step per batch.
        for i, rows in enumerate(order.split(recipe.batch)):
            step = rng.child("step", epoch, i)
            x, y = pixels(images.x[rows]).to(device, memory_format=layout), images.y[rows].to(device)
            for k, change in enumerate(recipe.augment):
                x = change(x, step.child("augment", k))
            lessons = adversary.lessons(model, x, y, epoch, step.child("attack")) if adversary else [(1.0, x)]
            loss = loss_of(model, lessons, target[rows].to(device), recipe.temperature, step, len(images.y), half)
            waiting.append(loss.detach())
            if len(waiting) == at_once or i + 1 == steps:
                losses += values_of(waiting, epoch, i, recipe.lr)
                waiting = []
            rate = recipe.rate(epoch, epoch * steps + i)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            model.after_step(rate)
            progress(epoch * steps + i + 1, recipe.epochs * steps)

        # What the epoch has brought.
        accuracy = accuracy_of(model, val, adversary, rng.child("val", epoch), device)
        state["loss"].append(_mean(losses, [len(rows) for rows in order.split(recipe.batch)]))
        state["accuracy"].append(accuracy)
        if recipe.keep == "last" or accuracy >= state["best"]:
            state |= {"best": accuracy, "epoch": epoch, "weights": copied(model)}
        _save(folder, model, optimizer, state)

    return {
        **{WEIGHT + name: tensor for name, tensor in state["weights"].items()},
        "history/train_loss": torch.tensor(state["loss"], dtype=torch.float64),
        "history/val_accuracy": torch.tensor(state["accuracy"], dtype=torch.float64),
        "history/epoch": torch.tensor(state["epoch"]),
    }


def restore(net: Net, shape: tuple[int, int, int], classes: int, arrays: dict[str, Tensor]) -> Classifier:
    """The classifier that :func:`train` returned the ``arrays`` of: in evaluation mode, weights frozen, on the CPU."""
    # Whatever the initial weights are, they are overwritten; the caller's generator must not notice.
    with Stream(("restore",)).active():
        model = net.build(shape, classes)
    model.load_state_dict({n.removeprefix(WEIGHT): a for n, a in arrays.items() if n.startswith(WEIGHT)})
    return model.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------- sections of the loop


def check_images_for(images: Images, val: Images, classes: int) -> None:
    if not len(val.y):
        raise UsageError("there is no image to validate on. Give a data set with a val split, or at least ten images.")
    found = images.y.unique().tolist()
    if len(found) < 2:
        what = f"all {len(images.y)} training images are of class {found[0]}" if found else "there is no training image"
        raise UsageError(f"{what}; a classifier needs two classes at least. Raise --limit, or shuffle the data set.")
    if found[0] < 0 or found[-1] >= classes:
        raise UsageError(f"training labels lie in {found[0]}..{found[-1]}, the data set says {classes} classes.")


def check_last_batch(model: Classifier, images: int, batch: int) -> None:
    """Over a single image batch normalisation has no variance; torch would say so only at the end of an epoch."""
    if images % batch == 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise UsageError(
            f"{images} images in batches of {batch} leave a last batch of one, which batch normalisation cannot take. "
            f"Write batch={batch + 1}, or another limit."
        )


def optimizer_for(model: Classifier, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; weight decay spares what the classifier names."""
    free = {id(p) for p in model.undecayed()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in free], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if id(p) in free], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def _begin(model: Classifier, weights: dict[str, Tensor]) -> None:
    ours = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    theirs = {name: tuple(t.shape) for name, t in weights.items()}
    wrong = [name for name in (*ours, *sorted(theirs.keys() - ours)) if ours.get(name) != theirs.get(name)]
    if wrong:
        has, wants = theirs.get(wrong[0], "none"), ours.get(wrong[0], "none")
        raise UsageError(
            f"the weights to begin with do not fit: {wrong[0]} has shape {has}, this net's has {wants} "
            f"({len(wrong)} of {len(ours)} differ). Let it begin from a model of the same net, image size and classes."
        )
    model.load_state_dict(weights)


@torch.no_grad()
def _soft(teacher: Classifier, x: Tensor, classes: int, temperature: float, device: torch.device | str) -> Tensor:
    """What the teacher, its noise off, says of images uint8 (N, C, H, W): probabilities (N, classes), on the CPU."""
    if teacher.classes != classes:
        raise UsageError(
            f"the teacher has {teacher.classes} classes, the data set {classes}. Take one trained on this data."
        )
    quiet = Quiet(teacher) if teacher.stochastic else teacher
    logits = torch.cat([quiet(pixels(part).to(device)).cpu() for part in x.split(VAL_BATCH)])
    return (logits / temperature).softmax(1)


def loss_of(
    model: Classifier,
    lessons: list[tuple[float, Tensor]],
    y: Tensor,
    temperature: float,
    rng: Stream,
    images: int,
    half: bool,
) -> Tensor:
    """Cross-entropy on the lessons (shares of the loss, each with a batch of images), plus the regulariser.

    ``y``: labels (B,) or probabilities (B, classes). The gradient at a high temperature is small; no factor of its
    square makes up for it, since the published defence has none.
    """
    model.train()
    with rng.active():
        loss = torch.zeros((), device=y.device)
        for share, x in lessons:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
                logits = model(x)
            loss = loss + share * F.cross_entropy(logits.float() / temperature, y)
        extra = model.regularizer(images)
    return loss if extra is None else loss + extra


def values_of(waiting: list[Tensor], epoch: int, i: int, lr: float) -> list[float]:
    """The losses of the last steps up to step ``i`` of an epoch, both from 0, as numbers that are finite."""
    values: list[float] = torch.stack(waiting).tolist()
    for step, value in enumerate(values, i + 2 - len(values)):
        if not math.isfinite(value):
            raise RobassayError(
                f"the loss became {value} in epoch {epoch + 1}, step {step}. "
                f"Try a smaller learning rate than lr={lr:g}, or smaller weights of the regulariser."
            )
    return values


def _mean(losses: list[float], sizes: list[int]) -> float:
    total = 0.0
    for loss, size in zip(losses, sizes, strict=True):
        total += loss * size  # not sum(), whose rounding differs between versions of Python
    return total / sum(sizes)


def accuracy_of(
    model: Classifier, val: Images, adversary: AdversarialTraining | None, rng: Stream, device: torch.device | str
) -> float:
    """Share of validation images that one draw decides rightly, under the adversary if there is one.

    An adversary is there in its warm-up, too: the best epoch would else be one that was never attacked.
    """
    model.eval()
    most = validated(val, adversary)
    right = 0
    for i, rows in enumerate(torch.arange(most).split(VAL_BATCH)):
        x, y = pixels(val.x[rows]).to(device), val.y[rows].to(device)
        if adversary is not None:
            x = adversary.images(model, x, y, rng.child("attack", i))
        with torch.no_grad(), rng.child("draw", i).active():
            right += int((model(x).argmax(1) == y).sum())
    return right / most


def validated(val: Images, adversary: AdversarialTraining | None) -> int:
    """How many validation images are looked at after every epoch."""
    return len(val.y) if adversary is None else min(len(val.y), VAL_ATTACKED)


def copied(model: Classifier) -> dict[str, Tensor]:
    return {name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()}


def _load(folder: Path, model: Classifier, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of the run: losses and accuracies of the epochs so far, the best one and its weights."""
    saved = checkpoint.load(folder)
    if saved is None:
        return {"loss": [], "accuracy": [], "best": -1.0, "epoch": -1, "weights": {}}
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    state: dict[str, Any] = saved["state"]
    return state


def _save(folder: Path, model: Classifier, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    checkpoint.save(folder, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state})
