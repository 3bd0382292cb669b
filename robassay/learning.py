"""Learning by a network's own local rule, such as spike-timing-dependent plasticity: passes over the images.

There is no loss and no optimiser here. What is shared with the training loop is what users rely on: named random
streams, a checkpoint after every pass, a history, and the choice of a pass by validation accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from robassay import checkpoint
from robassay.classifier import Classifier
from robassay.data import Images
from robassay.errors import UsageError
from robassay.learner import Learner, Told
from robassay.rng import Stream
from robassay.training import WEIGHT, accuracy_of, check_images_for, copied


def learn(
    net: Learner,
    shape: tuple[int, int, int],
    classes: int,
    images: Images,
    val: Images,
    rng: Stream,
    folder: Path,
    progress: Told,
) -> dict[str, torch.Tensor]:
    """Let ``net`` learn and return its state, named as :func:`robassay.training.train` names it.

    ``history/val_accuracy``, float64 (passes,), is not a number after passes where the network cannot decide yet;
    ``history/epoch``, int64 (), is the pass that the weights are of.

    Raises:
        UsageError: fewer than one pass, no image to learn from or to validate on, one class only, or labels outside
            0..classes−1.
    """
    if net.passes < 1:
        raise UsageError(f"passes={net.passes}: a network learns by seeing images. Write passes=1 or more.")
    check_images_for(images, val, classes)
    with rng.child("init").active():
        model = net.build(shape, classes).eval().requires_grad_(False)
    state = _load(folder, model)
    total = net.passes * len(images.y)
    for number in range(len(state["accuracy"]), net.passes):
        begun = number * len(images.y)
        net.present(model, images, number, rng.child("pass", number), _shifted(progress, begun, len(images.y), total))
        decides = net.decides(number)
        accuracy = accuracy_of(model, val, None, rng.child("val", number), "cpu") if decides else -1.0
        state["accuracy"].append(accuracy if decides else float("nan"))
        if net.keep == "last" or accuracy >= state["best"]:
            state |= {"best": accuracy, "epoch": number, "weights": copied(model)}
        _save(folder, model, state)
        progress(begun + len(images.y), total)
    return {
        **{WEIGHT + name: tensor for name, tensor in state["weights"].items()},
        "history/val_accuracy": torch.tensor(state["accuracy"], dtype=torch.float64),
        "history/epoch": torch.tensor(state["epoch"]),
    }


def _shifted(progress: Told, begun: int, images: int, total: int) -> Told:
    """One pass's progress as that of all; a pass may present some of the images only."""
    return lambda done, of: progress(begun + done * images // max(of, 1), total)


def _load(folder: Path, model: Classifier) -> dict[str, Any]:
    saved = checkpoint.load(folder)
    if saved is None:
        return {"accuracy": [], "best": -1.0, "epoch": -1, "weights": {}}
    model.load_state_dict(saved["model"])
    state: dict[str, Any] = saved["state"]
    return state


def _save(folder: Path, model: Classifier, state: dict[str, Any]) -> None:
    checkpoint.save(folder, {"model": model.state_dict(), "state": state})
