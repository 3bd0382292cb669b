"""What happens without an adversary: uniform and Gaussian noise, JPEG; and random search among uniform samples.

The first three ask the classifier nothing. They measure stability, and are what any attack has to beat.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robassay.access import Attack, ScoreAccess
from robassay.attacks.gradient import radius, random_start
from robassay.attacks.square import random_search
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream, normal
from robassay.threat import Goal, Threat, euclidean, per_example


@part(source="Athalye et al. 2018 (random sampling as a check on gradient attacks)")
class Uniform(Attack):
    """One sample, uniform in the L∞ or L2 ball and then cut to the box."""

    access = None

    def __call__(self, access: None, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        _check_ball(threat)
        return random_start(x, threat, rng)


@part(source="Athalye et al. 2018 (random sampling as a check on gradient attacks)")
class UniformSearch(Attack):
    """The sample with the largest margin among many that are uniform in the ball.

    Args:
        samples: images asked about per example.
        recheck: on a random classifier a sample has to win twice, and every so-manieth question is about the best
            again, see :func:`~robassay.attacks.square.random_search`; 0 for neither.
    """

    access = ScoreAccess
    samples: int = 100
    recheck: int = 5

    def __post_init__(self) -> None:
        if self.samples < 1 or self.recheck < 0 or self.recheck == 1:
            raise UsageError("uniform-search needs samples ≥ 1 and recheck ≥ 2 (or 0 for never).")

    def __call__(self, access: ScoreAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        _check_ball(threat)
        sample = lambda k, rows, best: random_start(x[rows], threat, rng.child("sample", k))
        return random_search(access, x, goal, sample, self.samples, self.recheck, rng)


@part(source="Ge et al. 2020, stability")
class Gaussian(Attack):
    """Gaussian noise scaled to Euclidean length eps exactly, then cut to the box, which makes it shorter."""

    access = None

    def __call__(self, access: None, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        if threat.norm != "l2":
            raise UsageError(f"gaussian has a Euclidean length, the threat is {threat.norm}. Write Threat('l2', 2.5).")
        noise = normal(x, rng)
        noise = noise * per_example(radius(threat) / euclidean(noise).clamp_min(1e-12), noise).to(x.dtype)
        return (x + noise).clamp(*threat.box)


@part(name="jpeg", source="Ge et al. 2020, stability")
class JPEG(Attack):
    """Compression: rounded to 8 bits, through PIL's JPEG and back; colour with 4:2:0 subsampling, or grey.

    Compression keeps to no radius: the threat must have none.

    Args:
        quality: PIL's quality, 1 to 100.
    """

    access = None
    quality: int = 75

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality={self.quality} is none of JPEG's. Write a whole number from 1 to 100.")

    def __call__(self, access: None, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        if threat.eps is not None:
            raise UsageError(f"jpeg keeps to no radius, the threat has eps={threat.eps}. Write Threat('l2').")
        if x.shape[1] not in (1, 3):
            raise UsageError(f"jpeg knows grey and RGB images, these have {x.shape[1]} channels.")
        low, high = threat.box
        levels = ((x - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)
        pixels = levels.permute(0, 2, 3, 1).cpu().numpy()
        found = np.stack([_through(image, self.quality) for image in pixels]) if len(pixels) else pixels
        back = torch.from_numpy(found).permute(0, 3, 1, 2).to(x.device, x.dtype) / 255
        return (low + (high - low) * back).contiguous()


def _through(pixels: np.ndarray, quality: int) -> np.ndarray:
    """An image uint8 (H, W, 1 or 3) after compression."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(pixels.shape)


def _check_ball(threat: Threat) -> None:
    radius(threat)
    if threat.norm == "l0":
        raise UsageError("uniform noise fills a ball in L∞ or L2, the threat is l0. Write Threat('linf', 0.1).")
