"""Networks with a learning rule of their own, as cells, beside the accuracies their papers publish."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robassay.cell import Source
from robassay.errors import UsageError
from robassay.models import Learn
from robassay.nets.sefron import MCSefron
from robassay.papers.subjects import Subject, is_full


@dataclass(frozen=True)
class Setting:
    """How Tan et al. 2020 learn MC-SEFRON on a data set (Table VI), and the accuracy they report (Table I).

    Args:
        net: with the published receptive fields and step size.
        images: the first so many of the training images; None for all.
        published: accuracy.
        note: what the paper leaves open and we chose.
    """

    net: MCSefron
    images: int | None
    published: float
    note: str = "2 passes, their number is not published"


SEFRON = {
    "mnist": Setting(MCSefron(fields=5, rate=0.1), None, 0.861),
    "cifar10": Setting(MCSefron(fields=3, rate=0.5), 10_000, 0.372),
    "pcam": Setting(
        MCSefron(fields=3, rate=0.5), 30_000, 0.671, "2 passes, 3 fields, rate .5: as for CIFAR-10, none is published"
    ),
}


def sefron_subjects(data: Source, scale: str) -> dict[str, Subject]:
    """MC-SEFRON as published, and with logits whose gradient does not end at silent neurons (same weights).

    "small" learns 3,000 images.

    Raises:
        UsageError: unknown scale, or a data set that the paper does not have.
    """
    full = is_full(scale)
    if data.name not in SEFRON:
        raise UsageError(f"MC-SEFRON has no published figures on '{data.name}'. Write one of {', '.join(SEFRON)}.")
    setting = SEFRON[data.name]
    limit = setting.images if full else 3000
    note = setting.note if full else f"3,000 images, {setting.note}"
    nets = {"MC-SEFRON": setting.net, "MC-SEFRON, margin": replace(setting.net, form="margin")}
    return {
        name: Subject(Learn(net, data, limit=limit), setting.published, averaged=False, note=note)
        for name, net in nets.items()
    }
