"""Cells of defences that are put around a trained model."""

from __future__ import annotations

import torch

from robassay.cells import Arrays, Context, Model, cell
from robassay.classifier import Classifier
from robassay.defences.region import Region


@cell
class Regional(Model):
    """A model that decides by votes around the image; see :class:`~robassay.defences.region.Region`.

    Args:
        of: the model; Quieted(model) where its own noise should be off.
        region: the cube and the number of votes; they are cast when the cell is judged with ``region.policy``.
    """

    of: Model
    region: Region = Region()

    def compute(self, ctx: Context) -> Arrays:
        return {"region": torch.tensor(self.region.radius)}

    def open(self, ctx: Context) -> Classifier:
        return self.region.around(ctx.open(self.of))
