"""Images as data URIs: lossless PNG, so that what is shown is what was judged."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PREFIX = "data:image/png;base64,"
SMALLEST = 1e-6
"""A change below this is rounding (uint8 against float), not an attack."""


def picture(pixels: NDArray[np.generic]) -> str:
    """A PNG data URI of one image.

    Args:
        pixels: (C, H, W) or (H, W), uint8, or float in [0,1]; values outside are clipped. One channel is shown grey,
            three in colour, four with transparency, any other number by the mean of its channels.
    """
    image = _bytes(pixels)
    if image.ndim == 2:
        image = image[None]
    if image.shape[0] not in (1, 3, 4):
        image = image.mean(0, keepdims=True).round().astype(np.uint8)
    image = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", optimize=True)
    return PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii")


def difference(x: NDArray[np.generic], x_adv: NDArray[np.generic]) -> tuple[str, float]:
    """The signed change x_adv − x, amplified around mid-grey, as a data URI, and the factor of amplification.

    The factor is a whole number where it is 1 or more, as large as possible without clipping.
    """
    change = _floats(x_adv) - _floats(x)
    peak = float(np.abs(change).max(initial=0.0))
    if peak < SMALLEST:
        return picture(np.full(change.shape, 0.5)), 1.0
    factor = 0.5 / peak
    if factor >= 1:
        # A float32 eps of 0.1 is a little above 0.1; without the allowance 5 would become 4.
        factor = float(math.floor(factor + 1e-3))
    return picture(0.5 + factor * change), factor


def extent(uri: str) -> tuple[int, int] | None:
    """Width and height of a PNG data URI, read from its header; None for anything else."""
    if not uri.startswith(PREFIX):
        return None
    try:
        header = base64.b64decode(uri[len(PREFIX) : len(PREFIX) + 32], validate=True)
    except ValueError:
        return None
    width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
    return (width, height) if width and height else None


def _floats(pixels: NDArray[np.generic]) -> NDArray[np.float64]:
    values = np.asarray(pixels, dtype=np.float64)
    return values / 255 if pixels.dtype == np.uint8 else values


def _bytes(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, dtype=np.uint8)
    return (np.nan_to_num(_floats(pixels)).clip(0, 1) * 255).round().astype(np.uint8)
