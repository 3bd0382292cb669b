"""What spiking neurons do over time on a few images, clean and attacked: spikes and potentials, for the eye only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robassay.adapters.framework import Framework, found_in, named, sequence, shown
from robassay.cell import Arrays, Cell, Context, Model, cell
from robassay.cells import Craft
from robassay.classifier import Classifier
from robassay.data import pixels
from robassay.errors import UsageError
from robassay.nets.neurons import Firing, watched
from robassay.rng import Stream


class Layer(NamedTuple):
    """Some steps of one layer."""

    place: int
    """Its number, in the order in which layers act."""
    spikes: Tensor
    """(steps, B, neurons)."""
    potentials: Callable[[], Tensor | None]
    """As the spikes; None where a framework does not tell."""
    threshold: float
    """NaN where it is not one number."""


@cell
class Rasters(Cell):
    """Spikes and potentials of a spiking network in one pass over each of a few images, clean and attacked.

    Both meet the same noise. Of a network with more layers than are shown, those that are shown lie evenly between the
    first and the last. In each, the neurons that fire at all on these images are put in order of how often, and of
    these as many as are shown, at even distances; so what is drawn is no selection of what the attack changes.

    Result arrays; first index clean, attacked; k counts the layers that are shown, from 0:
        labels: (N,), and decisions: (2, N), int64.
        rates: float32 (2, N, L), spikes per neuron and step in the whole layer; of all L layers.
        sizes: int64 (L,), neurons per image; thresholds: float32 (L,), NaN where a layer has several.
        layers: int64 (K,), which ones are shown.
        spikes_k: uint8 (2, N, T, neurons), the most active neuron first.
        potentials_k: float32 (2, N, T, traced), of neurons at even distances among the shown: of networks of this
            package what was held against the threshold, of frameworks what they keep after the step. Absent where a
            framework does not tell.
        traces_k: int64 (traced,), which of the shown neurons these are.

    Without layers that tell, L and K are 0.

    Args:
        target: a spiking network.
        on: attacked images.
        images: so many, from the first on.
        layers, neurons, traced: so many are shown at most.
    """

    target: Model
    on: Craft
    images: int = 2
    layers: int = 4
    neurons: int = 40
    traced: int = 2

    def __post_init__(self) -> None:
        if min(self.images, self.layers, self.neurons, self.traced) < 1:
            raise UsageError(
                "Rasters needs one image, layer, neuron and trace at least, such as Rasters(model, craft)."
            )

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        model, stored = ctx.open(self.target), ctx.load(self.on)
        x, x_adv = (torch.from_numpy(stored[name][: self.images]).to(ctx.device) for name in ("x", "x_adv"))
        pair, rng = (pixels(x), x_adv), Stream(("rasters", self.key))
        counts = [_counted(model, one, rng) for one in pair]
        ctx.progress(1, 2)
        layers = range(len(counts[0].fired))
        places = _even(len(layers), self.layers)
        busy = {k: counts[0].fired[k].sum(0) + counts[1].fired[k].sum(0) for k in places}
        chosen = {k: _chosen(busy[k], self.neurons) for k in places}
        traces = {k: torch.tensor(_even(len(chosen[k]), self.traced), dtype=torch.int64) for k in places}
        taken = [_taken(model, one, rng, chosen, traces) for one in pair]
        found = {
            "labels": self.on.on.load().y[: self.images],
            "decisions": torch.stack([one.decisions for one in counts]),
            "rates": torch.stack([one.rates(len(x)) for one in counts]),
            "sizes": torch.tensor([counts[0].fired[k].shape[1] for k in layers], dtype=torch.int64),
            "thresholds": torch.tensor([counts[0].thresholds[k] for k in layers], dtype=torch.float32),
            "layers": torch.tensor(places, dtype=torch.int64),
        }
        for k, place in enumerate(places):
            found[f"spikes_{k}"] = torch.stack([spikes[place] for spikes, _ in taken])
            if all(place in potentials for _, potentials in taken):
                found[f"potentials_{k}"] = torch.stack([potentials[place] for _, potentials in taken])
                found[f"traces_{k}"] = traces[place]
        return {name: array.contiguous().cpu() for name, array in found.items()}


class _Counts(NamedTuple):
    """Of one pass over images (B, …)."""

    decisions: Tensor
    fired: dict[int, Tensor]
    """Spikes (B, neurons) over all steps, by layer."""
    steps: dict[int, int]
    thresholds: dict[int, float]

    def rates(self, images: int) -> Tensor:
        """Spikes per neuron and step (B, layers)."""
        each = [self.fired[k].mean(1) / self.steps[k] for k in range(len(self.fired))]
        return torch.stack(each, 1).float() if each else torch.zeros(images, 0)


def _counted(model: Classifier, x: Tensor, rng: Stream) -> _Counts:
    fired, steps, thresholds = dict[int, Tensor](), dict[int, int](), dict[int, float]()

    def told(layer: Layer) -> None:
        k = layer.place
        fired[k] = fired.get(k, 0.0) + layer.spikes.sum(0).float()
        steps[k] = steps.get(k, 0) + len(layer.spikes)
        thresholds[k] = layer.threshold

    return _Counts(_pass(model, x, rng, told).argmax(1), fired, steps, thresholds)


def _taken(
    model: Classifier, x: Tensor, rng: Stream, chosen: dict[int, Tensor], traces: dict[int, Tensor]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Spikes uint8 (B, T, neurons) and potentials float32 (B, T, traced) of the chosen neurons, by layer."""
    spikes, potentials = dict[int, list[Tensor]](), dict[int, list[Tensor]]()

    def told(layer: Layer) -> None:
        k = layer.place
        if k not in chosen:
            return
        spikes.setdefault(k, []).append((layer.spikes[..., chosen[k]] > 0).to(torch.uint8))
        held = layer.potentials()
        if held is not None:
            potentials.setdefault(k, []).append(held[..., chosen[k][traces[k]]].float())

    _pass(model, x, rng, told)
    over_time = lambda parts: torch.cat(parts).transpose(0, 1)
    return {k: over_time(v) for k, v in spikes.items()}, {k: over_time(v) for k, v in potentials.items()}


def _pass(model: Classifier, x: Tensor, rng: Stream, told: Callable[[Layer], None]) -> Tensor:
    """Logits of one pass, every layer of neurons telling what it does; every pass meets the same draws."""
    with listened(model, told), rng.active():
        logits: Tensor = model(x)
    return logits


@contextmanager
def listened(model: Classifier, told: Callable[[Layer], None]) -> Iterator[None]:
    """A context in which the layers of neurons of a network, of this package or of a framework, tell what they do.

    It is for one pass: layers are counted as they begin.
    """
    begun, later, places = 0, 0, dict[int, int]()

    def own(firing: Firing) -> None:
        nonlocal begun, later
        place = begun if firing.begins else later % begun
        begun, later = (begun + 1, later) if firing.begins else (begun, later + 1)
        told(Layer(place, firing.spikes.flatten(2), lambda: firing.potentials().flatten(2), firing.threshold))

    def framed(neuron: nn.Module, given: Any, out: Any) -> None:
        place = places.setdefault(id(neuron), len(places))
        spikes = _in_time(neuron, shown(out))
        told(Layer(place, spikes, lambda: _kept(neuron, out, spikes), _threshold(frame, neuron)))

    name = found_in(model)
    frame = None if name is None else named(name)
    with ExitStack() as open_:
        open_.enter_context(watched(own))
        for neuron in {} if frame is None else frame.neurons(model).values():
            open_.callback(neuron.register_forward_hook(framed).remove)
        yield


def _in_time(neuron: nn.Module, values: Tensor) -> Tensor:
    """What a framework's layer returned, as (steps, B, neurons)."""
    return (values if sequence(neuron) else values.unsqueeze(0)).flatten(2)


def _kept(neuron: Any, out: Any, like: Tensor) -> Tensor | None:
    """The potential that a framework's layer keeps after the step: beside the spikes, in a state, or in itself."""
    beside = out[1] if isinstance(out, (tuple, list)) and len(out) > 1 else None
    for held in (beside, getattr(beside, "v", None), getattr(neuron, "v", None), getattr(neuron, "mem", None)):
        if isinstance(held, Tensor) and held.dim() > (2 if sequence(neuron) else 1):
            values = _in_time(neuron, held)
            if values.shape == like.shape:
                return values
    return None


def _threshold(frame: Framework | None, neuron: nn.Module) -> float:
    assert frame is not None
    threshold = torch.as_tensor(frame.constants(neuron).threshold, dtype=torch.float32)
    return threshold.item() if threshold.numel() == 1 else float("nan")


def _even(count: int, most: int) -> list[int]:
    """Up to ``most`` of ``count`` places at even distances, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / max(most - 1, 1)) for i in range(most)]


def _chosen(busy: Tensor, most: int) -> Tensor:
    """Up to ``most`` neurons of those with spikes, counted in ``busy`` (neurons,): from the most active downwards."""
    order = busy.argsort(descending=True, stable=True)
    active = order[: int((busy > 0).sum())]
    return active[_even(len(active), most)]
