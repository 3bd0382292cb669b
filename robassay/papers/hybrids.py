"""The networks of Sharmin et al. 2020: ANN, converted (SNN-conv), hybrid (SNN-BP), and SNN-BP of other time and leak.

What a scale spans is one value, :class:`Span`; tables and claims are written once for all scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from robassay.cell import Model, Source
from robassay.converted import Convert, Timed
from robassay.models import Train
from robassay.nets.published import VGG11, ResNet20
from robassay.papers.spiking import DELAYED, spiking_families
from robassay.recipe import Recipe

KINDS = ("ANN", "SNN-conv", "SNN-BP")
FINAL = Recipe(epochs=1, batch=64, lr=5e-4)
"""Of SNN-BP for another time or leak where training from the conversion is too long."""


@dataclass(frozen=True)
class Span:
    """What the study spans at a scale.

    Args:
        steps: time steps of SNN-BP.
        long: time steps of SNN-conv; the first are too few for its rates, and no claim is judged by them.
        leaks: of SNN-BP, the most leak first; in the paper's words a leak of 1 is none.
        levels: to which pixels are rounded, the fewest first.
        eps: radius of the attacks, L∞.
        images: test images under all attacks.
        few: test images of second data sets, of the sweeps over time, levels and leak, and of the layers.
        audited: test images of the audit.
        draws: passes that a gradient is averaged over where one draw is not enough.
        repeats: decisions per image.
        passes: behind the rates of a layer.
    """

    steps: tuple[int, ...]
    long: tuple[int, ...]
    leaks: tuple[float, ...]
    levels: tuple[int, ...]
    eps: float
    images: int
    few: int
    audited: int
    draws: int
    repeats: int
    passes: int


LEVELS, LEAKS = (2, 4, 8, 16, 256), (0.9, 0.95, 0.99, 1.0)
SPANS = {
    "smoke": Span((8, 12), (10, 20, 30), (0.9, 1.0), (2, 256), 0.1, 10, 10, 4, 2, 2, 3),
    "small": Span((10, 15, 25), (25, 50, 100), LEAKS, LEVELS, 0.1, 50, 32, 16, 3, 6, 8),
    "full": Span((50, 100, 150, 200, 250), (50, 100, 150, 200, 250, 2000), LEAKS, LEVELS, 8 / 255, 1000, 1000, 1000,
                 10, 10, 20),
}  # fmt: skip


@dataclass(frozen=True)
class Trio:
    """The three networks of one architecture and second ones of other seeds, whose images a black box uses.

    Args:
        name: architecture and data.
        own: by kind.
        second: by kind; SNN-conv is attacked as the others are and makes no images.
    """

    name: str
    own: Mapping[str, Model]
    second: Mapping[str, Model]

    @property
    def hybrid(self) -> Train:
        """SNN-BP."""
        found = self.own["SNN-BP"]
        assert isinstance(found, Train)
        return found

    def at(self, steps: int | None = None, leak: float | None = None, fresh: bool = False) -> Train:
        """SNN-BP for another time or leak: trained for it, ``fresh`` from the conversion or for one epoch more.

        Where it is not fresh, the network's own time and leak have that epoch, too, so that all have learnt alike.
        """
        was = self.hybrid
        net, begin = was.net, was.begin
        assert isinstance(begin, Convert)
        spikes = net.spikes  # type: ignore[attr-defined]
        spikes = replace(spikes, steps=steps or spikes.steps, leak=leak or spikes.leak)
        if fresh:
            begin = replace(begin, spikes=spikes)
            return replace(was, net=begin.net, begin=begin, recipe=replace(was.recipe, temperature=1 / spikes.steps))
        recipe = replace(FINAL, temperature=1 / spikes.steps)
        limit = min(was.limit or 5000, 5000)
        return replace(was, net=replace(net, spikes=spikes), begin=was, limit=limit, recipe=recipe)  # type: ignore[type-var]


def trio(name: str, data: Source, scale: str, hybrid_too: bool = True) -> Trio:
    """VGG5 and its spiking forms; second networks of the ANN and, ``hybrid_too``, of SNN-BP.

    At other scales than "full" SNN-conv runs for less time than its conversion.
    """
    relu, converted, spiking = (s.model for s in spiking_families(data, scale)[1].subjects.values())
    assert isinstance(relu, Train) and isinstance(converted, Convert) and isinstance(spiking, Train)
    span = SPANS[scale]
    own = {
        "ANN": relu,
        "SNN-conv": converted if scale == "full" else Timed(converted, span.long[1]),
        "SNN-BP": spiking,
    }
    # One quicker epoch is enough for a network that only lends its gradient.
    learnt = spiking if scale == "full" else replace(spiking, recipe=replace(spiking.recipe, epochs=1, lr=FINAL.lr))
    return Trio(name, own, second(relu, learnt, hybrid_too))


def second(relu: Train, spiking: Train, hybrid_too: bool) -> dict[str, Model]:
    """Networks from another seed."""
    again, begin = replace(relu, seed=1), spiking.begin
    assert isinstance(begin, Convert)
    found: dict[str, Model] = {"ANN": again}
    if hybrid_too:
        found["SNN-BP"] = replace(spiking, seed=1, begin=replace(begin, of=again))
    return found


def deeper(name: str, net: VGG11 | ResNet20, like: Trio, data: Source) -> Trio:
    """Another architecture by the published recipes of VGG5."""
    relu, converted, spiking = like.own["ANN"], like.own["SNN-conv"], like.hybrid
    assert isinstance(relu, Train) and isinstance(converted, Convert) and isinstance(spiking.begin, Convert)
    plain = replace(relu, net=replace(net, spikes=None), data=data)
    spikes = net.spikes
    assert spikes is not None
    long = replace(DELAYED, encoder=spikes.encoder)
    begin = replace(spiking.begin, of=plain, spikes=spikes)
    learn = replace(spiking.recipe, temperature=1 / spikes.steps)
    hybrid = replace(spiking, net=begin.net, data=data, recipe=learn, begin=begin)
    own = {"ANN": plain, "SNN-conv": replace(converted, of=plain, spikes=long), "SNN-BP": hybrid}
    return Trio(name, own, second(plain, hybrid, True))
