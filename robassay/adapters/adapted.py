"""A network of a spiking framework as a classifier: images in [0,1] → logits, without state from call to call."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor, nn

from robassay.adapters.framework import Framework, Layout
from robassay.adapters.readouts import Membrane, Readout
from robassay.analogue import Activation, stand_in
from robassay.classifier import CannotQuiet, Classifier
from robassay.errors import UsageError
from robassay.nets.encoders import Direct, Encoder
from robassay.nets.readouts import Undecided, undecided
from robassay.rng import Stream
from robassay.rules import chosen


@final
class Adapted(Classifier):
    """What :func:`robassay.adapt` returns.

    States are forgotten before and after every pass. Each layer's spikes are differentiated by the rule in force
    (:class:`~robassay.estimators.Ruled`), or by the framework's own surrogate; the forward pass is the same.

    Attributes:
        module: the user's network, in eval mode.
        steps: time steps of a pass; None where the network runs time itself.
        unruled: layers whose surrogate cannot be exchanged; with any, an attacker's rule is refused.
    """

    def __init__(
        self,
        module: nn.Module,
        framework: Framework,
        steps: int | None,
        layout: Layout,
        encoder: Encoder,
        readout: Readout,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.module = module.eval()
        self.framework, self.steps, self.layout = framework, steps, layout
        self.encoder, self.readout = encoder, readout
        self.mean, self.std = mean, std
        self.stochastic = encoder.stochastic
        self.rows = "independent"
        self.random = False
        self.output: str | None = None
        self.unruled: tuple[str, ...] = ()

    def draw(self, h: Tensor) -> Tensor:
        return self._logits(h)

    def quiet(self, h: Tensor) -> Tensor:
        """Poisson spikes replaced by their rates as a constant current. A network that is random itself has no off."""
        if self.random:
            raise CannotQuiet("The network is random itself, not only its encoder.")
        return self._logits(h, quiet=True)

    def lasting(self, steps: int) -> Adapted:
        """The same network, weights shared, that runs for ``steps`` time steps.

        Raises:
            UsageError: the network runs time itself.
        """
        if self.steps is None or steps < 1:
            raise UsageError(
                f"steps={steps} cannot be set: the network runs time itself, or that is no number of steps. Write "
                "adapt(…, steps=8) for a network that takes one step or a sequence."
            )
        other = copy.copy(self)
        other.steps = steps
        return other

    @torch.no_grad()
    def shares(self, x: Tensor, rng: Stream | None = None) -> Undecided:
        """How many images (B, C, H, W) leave every output at 0, and how many tie. More than 1 % make a rate or latency
        readout coarse: audit the membrane readout, too."""
        with (rng or Stream(("shares",))).active():
            outputs, membrane = self.sequence(self.pixels(x), self.encoder)
        return undecided(outputs.unsqueeze(0) if outputs.dim() == 2 else outputs, self._read(outputs, membrane))

    def describe(self) -> dict[str, Any]:
        """What a report says: framework and version, time, encoder, readout and every layer of neurons."""
        layers = self.framework.neurons(self.module)
        return {
            "framework": self.framework.name,
            "version": self.framework.version,
            "steps": self.steps,
            "layout": self.layout,
            "encoder": repr(self.encoder),
            "readout": repr(self.readout),
            "normalised": {"mean": self.mean, "std": self.std},
            "stochastic": self.stochastic,
            "neurons": [asdict(self.framework.described(name, neuron)) for name, neuron in layers.items()],
            "unruled": self.unruled,
        }

    def words(self) -> str:
        """The description in a line."""
        time = "time run by the network" if self.steps is None else f"{self.steps} steps"
        layers = [str(self.framework.described(n, m)) for n, m in self.framework.neurons(self.module).items()]
        same = sorted({line.split(": ", 1)[1] for line in layers})
        kept = f"{self.framework.name} {self.framework.version}, {time}, {self.encoder!r}, {self.readout!r}"
        return f"{kept}; {len(layers)} × {same[0]}" if len(same) == 1 else f"{kept}; {'; '.join(layers)}"

    def extra_repr(self) -> str:
        return f"{self.words()}; layout={self.layout}, mean={self.mean}, std={self.std}"

    # ------------------------------------------------------------------------------------------------------- passes

    def _logits(self, h: Tensor, quiet: bool = False) -> Tensor:
        activation, rule = stand_in(), chosen()
        if activation is not None:
            return self._analogue(h, activation)
        if rule is None:
            return self.plain(h, quiet)
        if self.unruled:
            raise UsageError(
                f"a rule cannot be chosen for this network: the spikes of {', '.join(self.unruled[:3])} come from code "
                "that ignores the surrogate. Attack it with Backprop(), Twin() or Differences()."
            )
        potential = self.output if isinstance(self.readout, Membrane) else None
        with self.framework.ruled(self.module, rule, set(), potential):
            return self.plain(h, quiet)

    def plain(self, x: Tensor, quiet: bool = False) -> Tensor:
        """Logits of one pass as the framework has it, whatever rule is in force."""
        return self._read(*self._sequence(x, quiet))

    def _analogue(self, x: Tensor, activation: Activation) -> Tensor:
        with self.framework.analogue(self.module, activation, self.output):
            outputs, membrane = self._sequence(x, quiet=True)
        # What the twin's last layer shows is a current already, the same at every step but for integrators.
        return outputs if outputs.dim() == 2 else (outputs if membrane is None else membrane).mean(0)

    def _read(self, outputs: Tensor, membrane: Tensor | None) -> Tensor:
        return outputs if outputs.dim() == 2 else self.readout(outputs, membrane)

    def pixels(self, x: Tensor) -> Tensor:
        """Normalised images."""
        return (x - _constants(self.mean, x)) / _constants(self.std, x)

    def _sequence(self, x: Tensor, quiet: bool) -> tuple[Tensor, Tensor | None]:
        pixels, encoder = self.pixels(x), self.encoder
        if quiet and encoder.stochastic:
            pixels, encoder = encoder.mean(pixels), Direct()
        return self.sequence(pixels, encoder)

    def sequence(self, x: Tensor, encoder: Encoder) -> tuple[Tensor, Tensor | None]:
        """Outputs and membrane (steps, B, classes) of one pass over normalised images; logits (B, classes) where the
        network returns them."""
        self.framework.reset(self.module)
        try:
            if self.steps is None:
                shown = self.framework.call(self.module, x, None)
                return shown.outputs, _alike(shown.membrane, shown.outputs)
            over_time = encoder(x, self.steps)
            return self._stepwise(over_time) if self.layout == "step" else self._at_once(over_time)
        finally:
            self.framework.reset(self.module)

    def _stepwise(self, over_time: Tensor) -> tuple[Tensor, Tensor | None]:
        outputs, potentials, state = [], [], None
        for x in over_time:
            shown = self.framework.call(self.module, x, state)
            state = shown.state
            outputs.append(shown.outputs)
            potentials.append(shown.membrane)
        kept = [p for p in potentials if p is not None]
        return torch.stack(outputs), torch.stack(kept) if len(kept) == len(outputs) else None

    def _at_once(self, over_time: Tensor) -> tuple[Tensor, Tensor | None]:
        flip = self.layout == "batch-first"
        shown = self.framework.call(self.module, over_time.transpose(0, 1) if flip else over_time, None)
        outputs, membrane = shown.outputs, _alike(shown.membrane, shown.outputs)
        if flip and outputs.dim() > 1:
            return outputs.transpose(0, 1), None if membrane is None else membrane.transpose(0, 1)
        return outputs, membrane


def _alike(membrane: Tensor | None, outputs: Tensor) -> Tensor | None:
    return membrane if membrane is not None and membrane.shape == outputs.shape else None


def _constants(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values).reshape(-1, 1, 1)
