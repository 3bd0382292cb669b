"""Adversarial images that are made once, before a training, and learnt with it."""

from __future__ import annotations

import torch

from robassay.cell import Context, Source
from robassay.cells import Craft
from robassay.data import Images, pixels
from robassay.errors import RobassayError, UsageError
from robassay.models import Extra
from robassay.registry import part
from robassay.threat import euclidean


@part
class Offline(Extra):
    """Images that attacks have made once, before a training, appended to its images with their true labels.

    Only changed images count: a minimum-distance attack returns an image unchanged where it finds nothing. Of those the
    ``keep`` nearest in L2 are taken and rounded to 8 bits.

    Source: Ge et al. 2020, §5.1.1: 12,000 targeted CW images of the training split, the first 10,000 kept.

    Args:
        crafts: attacks on images of the "train" split.
        keep: how many.
    """

    crafts: tuple[Craft, ...]
    keep: int = 10_000

    def __post_init__(self) -> None:
        if len({craft.on.data.checksum for craft in self.crafts}) > 1:
            raise UsageError("the attacks of one Offline are on images of several data sets. Give crafts of one.")
        for craft in self.crafts:
            if craft.on.split != "train":
                raise UsageError(
                    f"images of the split '{craft.on.split}' cannot be learnt from. Write Examples(data, 'train', …)."
                )
        if not self.crafts or self.keep < 1:
            raise UsageError("Offline needs one Craft at least and keep ≥ 1, such as Offline((craft,), keep=10_000).")

    @property
    def data(self) -> Source:
        return self.crafts[0].on.data

    def images(self, ctx: Context) -> Images:
        """The kept images (uint8, nearest first) and their true labels.

        Raises:
            RobassayError: the attacks have changed fewer images than are to be kept.
            UsageError: what a craft has stored are no images in [0,1].
        """
        stored = [ctx.load(craft) for craft in self.crafts]
        x_adv, x = (torch.cat([torch.from_numpy(s[n]) for s in stored]) for n in ("x_adv", "x"))
        labels = torch.cat([craft.on.load().y for craft in self.crafts])
        distance = euclidean(x_adv - pixels(x))
        order = distance.argsort(stable=True)
        order = order[distance[order] > 0]
        if len(order) < self.keep:
            raise RobassayError(
                f"keep={self.keep}, but the attacks have changed {len(order)} of {len(x)} images only. Attack more "
                "images, give the attack more steps, or keep fewer."
            )
        kept = order[: self.keep]
        return Images((x_adv[kept] * 255).round().clamp(0, 255).to(torch.uint8), labels[kept])
