"""MagNet's auto-encoders and how they are trained: a small loop of its own, since there are no classes in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay import checkpoint
from robassay.data import pixels
from robassay.errors import RobassayError, UsageError
from robassay.rng import Stream

FILTERS = 3


@dataclass(frozen=True)
class AutoEncoder:
    """One of the two auto-encoders of Meng and Chen 2017, and how it is trained to take noise away.

    3 × 3 convolutions of three filters, a sigmoid behind each, the last one's too, so that images stay in [0, 1]. The
    published loss has 1e-9 times the squared activations in it, which is left out.

    Args:
        layout: "I", with half the side length in the middle (310 parameters for one channel), or "II", without
            (142 for one channel, 252 for three).
        noise: standard deviation of the Gaussian noise on the training images, drawn once for the whole run.
        epochs, batch, lr: of Adam on the mean squared error.
    """

    layout: Literal["I", "II"] = "I"
    noise: float = 0.1
    epochs: int = 100
    batch: int = 256
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.layout not in ("I", "II"):
            raise UsageError(f"layout={self.layout!r} is not known. Write 'I' or 'II'.")
        if not (self.noise >= 0 and self.lr > 0) or self.epochs < 1 or self.batch < 1:
            raise UsageError(
                "an auto-encoder needs noise ≥ 0, lr > 0, epochs ≥ 1 and batch ≥ 1. Write AutoEncoder('I', noise=0.1)."
            )

    def build(self, shape: tuple[int, int, int]) -> nn.Sequential:
        """Images (B, C, H, W) of ``shape`` → images, with the weights that torch's generator gives.

        Raises:
            UsageError: layout "I" and an odd side length.
        """
        channels, height, width = shape
        if self.layout == "I" and (height % 2 or width % 2):
            raise UsageError(
                f"auto-encoder I halves the image and cannot take {height} × {width} pixels: even sides are needed. "
                "Use AutoEncoder('II')."
            )
        middle: list[nn.Module] = []
        if self.layout == "I":
            code = [*_layer(FILTERS, FILTERS), *_layer(FILTERS, FILTERS)]
            middle = [nn.AvgPool2d(2), *code, nn.Upsample(scale_factor=2)]
        last = [*_layer(FILTERS, FILTERS), *_layer(FILTERS, channels)]
        return nn.Sequential(*_layer(channels, FILTERS), *middle, *last)


def _layer(before: int, after: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, padding=1)
    nn.init.xavier_uniform_(convolution.weight)  # as Keras begins; sigmoids learn slowly from smaller weights
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return [convolution, nn.Sigmoid()]


def train_encoder(
    net: AutoEncoder,
    shape: tuple[int, int, int],
    images: Tensor,
    rng: Stream,
    folder: Path,
    progress: Callable[[int, int], None],
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Train an auto-encoder and return its weights after the last epoch.

    A checkpoint in ``folder`` is written after every epoch and continued from if it is there. All random numbers are
    named, so a run that was interrupted ends with the same bits as one that was not.

    Args:
        net: which, for images of ``shape`` (C, H, W).
        images: uint8 (N, C, H, W).
        rng: names the streams of weights, noise and order.
        folder: exists; holds the checkpoint of this run alone.
        progress: told (steps done, steps in all) after every step.
        device: where to compute.

    Returns:
        ``weight/NAME`` for every entry of the state dict; ``history/train_loss`` float64 (epochs,). On the CPU.

    Raises:
        UsageError: no images.
        RobassayError: the loss is no longer finite.
    """
    if not len(images):
        raise UsageError("there is no image to train the auto-encoder on. Raise limit, or leave it None.")
    with rng.child("init").active():
        model = net.build(shape).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=net.lr)
    losses = _load(folder, model, optimizer)
    noisy = with_noise(images, net.noise, rng.child("noise"))
    steps = -(-len(images) // net.batch)

    for epoch in range(len(losses), net.epochs):
        order = torch.randperm(len(images), generator=rng.child("order", epoch).generator())
        total = 0.0
        for i, rows in enumerate(order.split(net.batch)):
            loss = F.mse_loss(model(noisy[rows].to(device)), pixels(images[rows]).to(device))
            value = loss.item()
            if not math.isfinite(value):
                raise RobassayError(
                    f"the auto-encoder's loss became {value} in epoch {epoch + 1}. Try a smaller lr than {net.lr:g}."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += value * len(rows)
            progress(epoch * steps + i + 1, net.epochs * steps)
        losses.append(total / len(images))
        _save(folder, model, optimizer, losses)

    weights = {"weight/" + n: t.detach().cpu().clone().contiguous() for n, t in model.state_dict().items()}
    return {**weights, "history/train_loss": torch.tensor(losses, dtype=torch.float64)}


def restore_encoder(net: AutoEncoder, shape: tuple[int, int, int], arrays: dict[str, Tensor]) -> nn.Sequential:
    """The auto-encoder that :func:`train_encoder` returned the ``arrays`` of: frozen, on the CPU."""
    with Stream(("restore",)).active():  # whatever the initial weights are, the caller's generator must not notice
        model = net.build(shape)
    model.load_state_dict({n.removeprefix("weight/"): a for n, a in arrays.items() if n.startswith("weight/")})
    model.eval().requires_grad_(False)
    return model


def with_noise(images: Tensor, noise: float, rng: Stream) -> Tensor:
    """Float32 copies of uint8 ``images`` (N, C, H, W) with Gaussian noise of deviation ``noise``, clipped to [0, 1]."""
    clean = pixels(images)
    return (clean + noise * torch.randn(clean.shape, generator=rng.generator())).clamp_(0, 1)


def _load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """The losses of the finished epochs; model and optimiser as they were after them."""
    saved = checkpoint.load(folder)
    if saved is None:
        return []
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    losses: list[float] = saved["losses"]
    return losses


def _save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
    checkpoint.save(folder, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses})
