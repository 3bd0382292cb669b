"""ART's boundary and one-pixel attack, made to run: float32 in and out, and every image it asks about counted.

Install:  pip install -e '.[bench]'
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from robassay.classifier import Classifier

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from art.attacks.evasion import BoundaryAttack, PixelAttack
    from art.estimators.classification import PyTorchClassifier


class Counted(nn.Module):
    """A classifier that counts the images it is shown. ART hands on float64, which float32 weights refuse.

    It returns probabilities: of logits ART's one-pixel attack would minimise the label's alone.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model, self.asked = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.model(x.float()).softmax(-1)


def estimator(model: Classifier, x: Tensor) -> tuple[PyTorchClassifier, Counted]:
    """ART's view of a classifier for images like ``x`` (B, C, H, W), and the counter inside."""
    counted = Counted(model)
    wrapped = PyTorchClassifier(
        counted, nn.NLLLoss(), tuple(x.shape[1:]), model.classes, clip_values=(0.0, 1.0), device_type="cpu"
    )
    return wrapped, counted


def attacked(make: Callable[[PyTorchClassifier], object], model: Classifier, x: Tensor) -> tuple[Tensor, float]:
    """Adversarial images, and images asked about per image."""
    wrapped, counted = estimator(model, x)
    attack = make(wrapped)
    np.random.seed(0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        found = attack.generate(x.numpy())  # type: ignore[attr-defined]
    return torch.from_numpy(np.asarray(found, dtype=np.float32)).clamp(0, 1), counted.asked / len(x)


def boundary(max_iter: int) -> Callable[[PyTorchClassifier], object]:
    """Untargeted, ART's own step sizes."""
    return lambda wrapped: BoundaryAttack(wrapped, targeted=False, max_iter=max_iter, verbose=False)


def one_pixel(pixels: int, generations: int) -> Callable[[PyTorchClassifier], object]:
    """Differential evolution with ART's population of 400."""
    return lambda wrapped: PixelAttack(wrapped, th=pixels, es=1, max_iter=generations, verbose=False)
