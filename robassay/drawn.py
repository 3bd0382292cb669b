"""Pictures of what a cell holds as points of a plane, or of decisions on one: nothing is judged by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robassay.cell import Cell
from robassay.clouds import Section
from robassay.rasters import Rasters
from robassay.study import Item, plain


@dataclass(frozen=True)
class Scatter(Item):
    """Points in a plane, coloured by label; both axes have the same scale.

    The cell has float "xy" (N, 2) and int "labels" (N,), each ≥ 0. If it has them, these are drawn as well, the k-th in
    the colour of label k: "centres" (K, 2) with "covariances" (K, 2, 2) as ellipses of two standard deviations, and
    "arrows" (K, 2) from the origin, the longest of them through two fifths of the picture, for weights have no unit in
    common with points.

    Args:
        id, caption: as of all items.
        cell: what holds the arrays.
        xlabel, ylabel: what the axes are.
    """

    id: str
    caption: str
    cell: Cell
    xlabel: str
    ylabel: str

    def needs(self) -> list[Cell]:
        return [self.cell]

    def freeze(self) -> dict[str, Any]:
        return {"kind": "scatter", **plain(self, "id", "caption", "xlabel", "ylabel"), "cell": self.cell.key}


@dataclass(frozen=True)
class Plane(Item):
    """Decisions on a plane through three images, a colour per class that fades where the draws disagree.

    Args:
        id, caption: as of all items.
        cell: the section.
    """

    id: str
    caption: str
    cell: Section

    def needs(self) -> list[Cell]:
        return [self.cell]

    def freeze(self) -> dict[str, Any]:
        return {"kind": "plane", **plain(self, "id", "caption"), "cell": self.cell.key}


@dataclass(frozen=True)
class Raster(Item):
    """Spikes and membrane potentials over time of a few images, clean beside attacked.

    Args:
        id, caption: as of all items.
        cell: what was recorded. Of a network without neurons that tell, nothing is drawn.
    """

    id: str
    caption: str
    cell: Rasters

    def needs(self) -> list[Cell]:
        return [self.cell]

    def freeze(self) -> dict[str, Any]:
        return {"kind": "raster", **plain(self, "id", "caption"), "cell": self.cell.key}
