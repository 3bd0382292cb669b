"""Networks with a learning rule of their own, as the papers have them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from robassay.cell import Source
from robassay.data import find
from robassay.errors import UsageError
from robassay.models import Learn
from robassay.nets.sefron import MCSefron
from robassay.papers.plastic import sefron_subjects


@dataclass(frozen=True)
class Named:
    """Stands for a data set that is not at hand."""

    name: str
    checksum: str = "0" * 16
    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "fields", "rate", "limit", "published"),
    [("mnist", 5, 0.1, None, 0.861), ("cifar10", 3, 0.5, 10_000, 0.372), ("pcam", 3, 0.5, 30_000, 0.671)],
)
def test_sefron_as_published(name: str, fields: int, rate: float, limit: int | None, published: float) -> None:
    data: Source = Named(name)  # type: ignore[assignment]
    small, full = (sefron_subjects(data, scale) for scale in ("small", "full"))
    assert small.keys() == full.keys() == {"MC-SEFRON", "MC-SEFRON, margin"}
    for whole, part in zip(full.values(), small.values(), strict=True):
        assert isinstance(whole.model, Learn) and isinstance(part.model, Learn)
        assert isinstance(whole.model.net, MCSefron)
        assert (whole.model.net.fields, whole.model.net.rate, whole.model.limit) == (fields, rate, limit)
        assert part.model.limit == 3000 and part.model.net == whole.model.net
        assert whole.published == published and not whole.averaged
        assert "passes" in whole.note and "3,000" in part.note
    assert full["MC-SEFRON"].model.net.form == "latch"  # type: ignore[attr-defined]
    assert full["MC-SEFRON, margin"].model.net.form == "margin"  # type: ignore[attr-defined]


def test_other_data_and_scales_are_refused() -> None:
    with pytest.raises(UsageError, match="'digits'"):
        sefron_subjects(find("digits"), "small")
    with pytest.raises(UsageError, match="small or full"):
        sefron_subjects(Named("mnist"), "smoke")  # type: ignore[arg-type]
