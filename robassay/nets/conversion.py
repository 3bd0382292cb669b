"""Conversion of a trained network of ReLU to spikes: thresholds from what the neurons receive, layer by layer.

Every layer's threshold is a statistic of its weighted input sum at single steps, not of its membrane, while the layers
before it already spike with theirs. Source: Sengupta et al. 2019; Sharmin et al. 2019 and 2020.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from robassay.errors import UsageError
from robassay.nets.backbone import Plain, Shape
from robassay.nets.encoders import Latency, Poisson
from robassay.nets.parts import part_steps
from robassay.nets.spikes import Carry, Neurons, Spikes, Synapses
from robassay.nets.spiking import SpikingClassifier
from robassay.rng import Stream

Method = Literal["threshold", "weight"]


@torch.no_grad()
def convert(
    plain: Plain,
    spikes: Spikes,
    shape: Shape,
    x: Tensor,
    steps: int,
    rng: Stream,
    method: Method = "threshold",
    percentile: float = 100.0,
) -> SpikingClassifier:
    """The spiking counterpart of a trained network, its thresholds set by images.

    While thresholds are set the neurons do not leak, ``spikes.scale`` is 1 and dropout is off. Biases are divided by
    all thresholds in front of them, so that they keep their share of the input. Thresholds of residual blocks and of
    neurons behind poolings stay. The output layer has none.

    Args:
        plain: in evaluation mode, on the device of ``x``.
        spikes: how the result spikes.
        shape: of the images (C, H, W).
        x: images (N, C, H, W) in [0,1] that set the thresholds; no labels are needed.
        steps: time steps for each of them.
        rng: names the encoder's draws.
        method: "threshold" sets the neurons' thresholds; "weight" divides weights and biases by them and leaves the
            thresholds at ``spikes.threshold``. The spikes are the same.
        percentile: of the input sums over steps, images and neurons that becomes the threshold; 100 is the maximum,
            which a single image can move.

    Raises:
        UsageError: as :class:`SpikingClassifier`; the encoder codes no rates; no neuron of a layer is ever excited.
    """
    if isinstance(spikes.encoder, Latency):
        raise UsageError(
            "a converted network computes with rates, and Latency() gives every pixel one spike. Write "
            "encoder=Poisson() or Direct()."
        )
    steady = replace(spikes, leak=1.0, scale=1.0, steps=max(steps, 1), output_leak=1.0)
    model = SpikingClassifier(plain, steady, shape).eval()
    h = model.prefix(x)
    # What a rate of 1 stands for in the network of ReLU: biases keep their share only if they are divided by it.
    unit = 1 / spikes.encoder.scale if isinstance(spikes.encoder, Poisson) else 1.0
    weights: nn.Conv2d | nn.Linear | None = None
    for place, layer in enumerate(model.layers):
        if isinstance(layer, Synapses) and isinstance(layer.layer, (nn.Conv2d, nn.Linear)):
            weights = layer.layer
            _divide(weights.bias, unit)
        if isinstance(layer, Neurons) and layer.balanced:
            layer.threshold.fill_(_statistic(model, h, place, steps, rng.child(place), percentile))
            threshold = layer.threshold.item()
            unit *= threshold
            if method == "weight" and weights is not None:
                threshold /= spikes.threshold
                _divide(weights.weight, threshold)
                _divide(weights.bias, threshold)
                layer.threshold.fill_(spikes.threshold)
        elif isinstance(layer, Neurons):
            unit *= layer.threshold.item()
    _divide(model.head.bias, unit)
    result = SpikingClassifier(plain, spikes, shape).eval()
    result.load_state_dict(model.state_dict())
    return result


def _divide(values: Tensor | None, by: float) -> None:
    if values is not None:
        values.div_(by)


def _statistic(model: SpikingClassifier, h: Tensor, place: int, steps: int, rng: Stream, percentile: float) -> float:
    """The percentile of the input sums of the layer of neurons at ``place``."""
    largest: _Largest | None = None
    most = part_steps(steps, model.values * len(h), model.spikes.rule)
    state: tuple[Tensor, ...] = ()
    with rng.active():
        for start in range(0, steps, most):
            carry = Carry(state)
            sums = model.spikes.encoder(h, steps, start, min(start + most, steps))
            for layer in model.layers[:place]:
                sums = layer(sums, carry)
            state = tuple(carry.after)
            largest = largest or _Largest(steps * sums[0].numel(), percentile)
            largest.add(sums.flatten())
    assert largest is not None
    value = largest.value
    if not value > 0:
        raise UsageError(
            f"the neurons of layer {place} never get a positive input ({percentile:g} % of their input sums lie at or "
            f"below {value:.3g}), so that no threshold suits them. Train the network, or take a higher percentile."
        )
    return value


class _Largest:
    """An exact percentile of many values, of which only the largest are kept."""

    def __init__(self, count: int, percentile: float) -> None:
        self.keep = max(1, math.ceil(count * (1 - percentile / 100)))
        self.values: Tensor | None = None

    def add(self, values: Tensor) -> None:
        if self.values is not None:
            floor = self.values.min() if len(self.values) == self.keep else -math.inf
            values = torch.cat([self.values, values[values > floor]])
        self.values = values.topk(min(self.keep, len(values))).values

    @property
    def value(self) -> float:
        assert self.values is not None
        return self.values.min().item()
