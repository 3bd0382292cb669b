"""A random share of a data set's training images, for training several networks apart from each other."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch

from robassay.data import Data, Images
from robassay.errors import UsageError
from robassay.images import SplitName
from robassay.registry import part
from robassay.rng import Stream


@part(name="portion", source="Ge et al. 2020, §5.2: every network learns a random half")
class Portion:
    """A random share of the training images of a data set; its other splits are the data set's own.

    Args:
        of: the data set.
        seed: which share.
        share: of the training images, in (0, 1].
    """

    kind: ClassVar[str] = "data"
    of: Data
    seed: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"share={self.share} is no share of the images. Write one in (0, 1], such as 0.5.")

    @property
    def name(self) -> str:
        """The data set's."""
        return self.of.name

    @property
    def checksum(self) -> str:
        """The data set's: images of a portion are images of it. The portion itself is told apart by its fields."""
        return self.of.checksum

    @property
    def classes(self) -> int:
        """The data set's, whether or not the share has images of each."""
        return self.of.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, in pixels."""
        return self.of.shape

    @property
    def note(self) -> str:
        """What is to be known of this copy of the data set; "" where there is nothing."""
        return self.of.note

    def split(self, name: SplitName) -> Images:
        """uint8 images (N, C, H, W) and labels int64 (N,) of the split ``name``; of "train" the share, in its order."""
        return _drawn(self.of, self.seed, self.share) if name == "train" else self.of.split(name)


@functools.lru_cache(maxsize=2)
def _drawn(of: Data, seed: int, share: float) -> Images:
    images = of.split("train")
    rng = Stream(("portion", of.checksum, seed)).generator("cpu")
    chosen = torch.randperm(len(images.y), generator=rng)[: max(1, round(share * len(images.y)))].sort().values
    return Images(images.x[chosen], images.y[chosen])
