"""Spiking counterparts of networks of ReLU: every ReLU becomes a layer of neurons, every dropout keeps its mask.

The layers run one after another over a part of the time steps, which is what running all of them step by step gives:
no layer sees a later one.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import takewhile
from typing import final

import torch
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Plain, Shape
from robassay.nets.encoders import Direct, Encoder
from robassay.nets.mlp import MLP
from robassay.nets.normalise import Normalise
from robassay.nets.parts import State, in_parts, part_steps
from robassay.nets.residual import Residual
from robassay.nets.spikes import POOL_THRESHOLD, Carry, FixedDropout, Neurons, Spikes, SpikingResidual, Synapses
from robassay.registry import part
from robassay.rules import Rule, WindowRule, in_force


@final
class SpikingClassifier(Classifier):
    """The spiking counterpart of a chain of layers that ends in a linear one.

    Leading normalisation is the deterministic prefix. The weights are copies.

    Args:
        plain: the network of ReLU.
        spikes: how it spikes.
        shape: of the images (C, H, W).

    Raises:
        UsageError: a layer has no spiking counterpart; or the steps do not suffice for a spike to pass all layers.
    """

    rows = "independent"

    def __init__(self, plain: Plain, spikes: Spikes, shape: Shape) -> None:
        super().__init__()
        plain = copy.deepcopy(plain)
        self.spikes, self.classes, self.stochastic = spikes, plain.classes, spikes.encoder.stochastic
        first = sum(1 for _ in takewhile(lambda m: isinstance(m, Normalise), plain.trunk))
        self.front = plain.trunk[:first]
        behind = list(plain.trunk)[first:]
        self.layers = nn.ModuleList(c for layer in behind for c in _counterparts(layer, spikes))
        self.head = plain.head
        self._check_steps(spikes)
        self.values = self._values(shape)

    def _check_steps(self, spikes: Spikes) -> None:
        depth = sum(isinstance(m, Neurons) for m in self.modules())
        if spikes.delay and spikes.steps <= depth:
            raise UsageError(
                f"steps={spikes.steps}: with delay=True a spike needs {depth} steps to pass {depth} layers of neurons, "
                f"so that no output could come. Write steps={depth + 1} or many more, or delay=False."
            )

    def lasting(self, steps: int) -> SpikingClassifier:
        """The same weights, shared, that run for ``steps`` time steps.

        Raises:
            UsageError: too few for a spike to pass all layers.
        """
        other = copy.copy(self)
        other.spikes = replace(self.spikes, steps=steps)
        other._check_steps(other.spikes)
        return other

    @torch.no_grad()
    def _values(self, shape: Shape) -> int:
        """Potentials per image and step, the input's pixels among them."""
        pixels, carry = self.head.weight.new_zeros(1, 1, *shape), Carry(())
        self.eval()
        self._layers(pixels, carry)
        self.train()
        return pixels.numel() + sum(state.numel() for state in carry.after)

    def prefix(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.front(x)
        return normalised

    def draw(self, h: Tensor) -> Tensor:
        return self._run(self.spikes.encoder, h)

    def quiet(self, h: Tensor) -> Tensor:
        """The expected input as a constant current."""
        return self._run(Direct(), self.spikes.encoder.mean(h))

    def _run(self, encoder: Encoder, h: Tensor) -> Tensor:
        steps, rule = self.spikes.steps, in_force(self.spikes.rule)
        most = part_steps(steps, self.values * len(h), rule)

        def run(start: int, stop: int, state: State) -> State:
            carry = Carry(state)
            fired = self._layers(encoder(h, steps, start, stop), carry)
            carry.after.append(self._accumulated(carry.take(), fired, rule))
            return tuple(carry.after)

        # The output's potential is linear in its input, so that the last layer need pass once only.
        logits: Tensor = self.head(in_parts(run, steps, most)[-1] / steps)
        return logits

    def _layers(self, x: Tensor, carry: Carry) -> Tensor:
        for layer in self.layers:
            x = layer(x, carry)
        return x

    def _accumulated(self, before: Tensor | None, fired: Tensor, rule: Rule) -> Tensor:
        """The sum of all spikes so far, older ones having leaked."""
        leak, whole = self.spikes.output_leak, fired.sum(0)
        if leak < 1:
            ages = torch.arange(len(fired) - 1, -1, -1, device=fired.device, dtype=fired.dtype)
            leaky = torch.einsum("t...,t->...", fired, leak**ages)
            whole = whole + (leaky - whole).detach() if isinstance(rule, WindowRule) and rule.history else leaky
        return whole if before is None else whole + before * leak ** len(fired)


def _counterparts(layer: nn.Module, spikes: Spikes) -> list[nn.Module]:
    """The spiking layers that take the place of one."""
    if isinstance(layer, nn.ReLU):
        return [Neurons(spikes, spikes.threshold, True, spikes.leak)]
    if isinstance(layer, nn.Dropout):
        return [FixedDropout(layer.p)]
    if isinstance(layer, Residual):
        return [SpikingResidual(layer, spikes)]
    if isinstance(layer, nn.AvgPool2d) and spikes.pooling == "spiking":
        return [Synapses(layer), Neurons(spikes, POOL_THRESHOLD, False, 1.0)]
    if isinstance(layer, (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.Flatten)):
        return [Synapses(layer)]
    name, why = type(layer).__name__, "it has no spiking counterpart here"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        why = "a batch norm's statistics are of activations, not of spikes at one step"
    elif isinstance(layer, nn.MaxPool2d):
        why = "the maximum of spikes is not the spikes of the maximum; average pooling is"
    raise UsageError(
        f"{name} cannot be made to spike: {why}. Take a chain of convolutions, linear layers, ReLU, dropout and "
        "average pooling without normalisation, such as VGG or resnet20."
    )


def counterpart(net: Net, spikes: Spikes, shape: Shape, classes: int) -> SpikingClassifier:
    """The spiking counterpart of a backbone, with the weights that torch's generator gives.

    Raises:
        UsageError: the net is no chain of layers, or as :class:`SpikingClassifier`.
    """
    plain = net.build(shape, classes)
    if not isinstance(plain, Plain):
        raise UsageError(
            f"{type(net).__name__} is no chain of layers that ends in a linear one, so that it has no spiking "
            "counterpart here. Take a net such as VGG, MLP or resnet20 without a defence around it."
        )
    return SpikingClassifier(plain, spikes, shape)


@part(name="spiking", source="Rueckauer et al. 2017 (rates for ReLU); Rathi et al. 2020")
class Spiking(Net):
    """The spiking counterpart of any chain of convolutions, linear layers, ReLU, dropout and average pooling.

    Args:
        net: the network of ReLU; batch normalisation and maximum pooling are refused.
        spikes: how it spikes.
    """

    net: Backbone = MLP()
    spikes: Spikes = Spikes()

    def build(self, shape: Shape, classes: int) -> Classifier:
        return counterpart(self.net, self.spikes, shape, classes)
