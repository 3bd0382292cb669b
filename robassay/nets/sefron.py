"""MC-SEFRON: one layer of spiking neurons whose weights vary in time and are learnt from single spikes."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.data import Images, pixels
from robassay.errors import UsageError
from robassay.learner import Learner, Told
from robassay.nets.backbone import Shape
from robassay.nets.ops import ONE_HALF, spike
from robassay.nets.spike_times import (
    RANK,
    SILENT,
    SLOTS,
    STEPS,
    contribution,
    encode,
    firing_times,
    kernel_factor,
    potential,
    reach,
    whole,
)
from robassay.registry import part
from robassay.rng import Stream

IDEAL = 200
"""Step at which a class's first sample makes it fire, and by which every later one should."""
MARGIN = 5
"""Steps that wrong classes should fire later than the right one."""

EVERY = torch.arange(SLOTS)
"""All times that an input can spike at."""

Form = Literal["latch", "crossing", "margin"]
Tie = Literal["lowest", "interpolate"]


@part(name="mc-sefron", source="Jeyasothy et al. 2019; logits: Tan et al. 2020, App. C")
class MCSefron(Learner):
    """Single layer with time-varying weights: the class whose neuron fires first wins.

    The classifier has one logit more than there are classes. The last one wins when no neuron fires: such an image is
    not decided, which counts as an error whatever its label, and as a success of an untargeted attack.

    Args:
        fields: receptive fields per pixel, 3 or more.
        rate: factor on every update of the weights, > 0: the paper's learning rate.
        passes: passes over the images, one at a time, in file order.
        keep: the weights of the "best" pass on the validation images, or of the "last".
        tie: what decides between classes that fire at one step: the "lowest" label, as in the reference
            implementation, or the crossing between two steps ("interpolate").
        form: how the decision, which is the same in all, is written as logits that have a gradient.
            "latch": 400 − firing time, as the sum over time of latched spikes with an identity in place of the step's
            derivative; a neuron that does not fire has a constant logit, but a (meaningless) gradient.
            "crossing": the same values, with the exact derivative of the time of crossing; 0 for silent neurons.
            "margin": 100 (V − threshold)/threshold, the largest up to the first spike of any neuron; exact, and not
            flat where neurons are silent.
            None is the strongest everywhere: evaluate with all of them.
    """

    fields: int = 5
    rate: float = 0.1
    passes: int = 2
    keep: Literal["best", "last"] = "last"
    tie: Tie = "lowest"
    form: Form = "latch"

    def __post_init__(self) -> None:
        if self.fields < 3:
            raise UsageError(f"fields={self.fields}: the centres lie 1/(fields − 2) apart. Write fields=3 or more.")
        if not 0 < self.rate < math.inf:
            raise UsageError(f"rate={self.rate} is no step size. Write a positive number, such as rate=0.1.")
        if self.tie not in ("lowest", "interpolate"):
            raise UsageError(f"tie={self.tie!r} is not known. Write tie='lowest' or tie='interpolate'.")
        if self.form not in ("latch", "crossing", "margin"):
            raise UsageError(f"form={self.form!r} is not known. Write form='latch', 'crossing' or 'margin'.")

    def build(self, shape: Shape, classes: int) -> Classifier:
        return SefronClassifier(self, math.prod(shape), classes)

    def present(self, model: Classifier, images: Images, number: int, rng: Stream, told: Told) -> None:
        """A pass over ``images``; the first one begins with a sample of every class.

        Raises:
            UsageError: a class has no image.
        """
        assert isinstance(model, SefronClassifier)
        levels = model.times(pixels(torch.arange(256, dtype=torch.uint8))[:, None])
        # Spike times of one grey value are looked up: encoding anew costs as much as the rest of a step.
        times = lambda one: levels[images.x[one].flatten().long()].flatten()
        if number == 0:
            firsts = first_of_each(images.y, model.classes - 1)
            model.begin(torch.stack([times(one) for one in firsts]))
        for one, label in enumerate(images.y.tolist()):
            model.learn(times(one), label)
            if one % 1000 == 999:
                told(one + 1, len(images.y))


def first_of_each(labels: Tensor, classes: int) -> list[int]:
    """The index of the first of each class in labels (N,).

    Raises:
        UsageError: a class does not occur. Its neuron would have no threshold and fire at once.
    """
    missing = sorted(set(range(classes)) - set(labels.tolist()))
    if missing:
        raise UsageError(
            f"no image of class {', '.join(map(str, missing))} among {len(labels)}: mc-sefron sets a class's threshold "
            "by its first image. Give images of every class; a larger limit may do."
        )
    return [int((labels == c).nonzero()[0]) for c in range(classes)]


@final
class SefronClassifier(Classifier):
    """The network of a :class:`MCSefron` description; silent until :meth:`begin`.

    A weight is W[i, τ, c] = Σ_r state[c, i, r] · factor[τ, r]; the factor is kept beside the state, which means nothing
    without it.

    Args:
        net: its description.
        features: numbers per image.
        classes: of the data; there is one logit more, see the description.
    """

    state: Tensor
    factor: Tensor
    threshold: Tensor

    def __init__(self, net: MCSefron, features: int, classes: int) -> None:
        super().__init__()
        self.net, self.classes = net, classes + 1
        self.register_buffer("state", torch.zeros(classes, features * net.fields, RANK, dtype=torch.float64))
        self.register_buffer("factor", kernel_factor())
        self.register_buffer("threshold", torch.ones(classes, dtype=torch.float64))

    def times(self, x: Tensor) -> Tensor:
        """Spike times, int64 (B, features · fields) in 1..301, of features (B, …) in [0,1]."""
        return whole(encode(x.flatten(1), self.net.fields))

    def potentials(self, x: Tensor) -> Tensor:
        """V, float64 (B, classes of the data, 401), of features (B, …) in [0,1]."""
        return potential(encode(x.flatten(1), self.net.fields), self.state, self.factor)

    def begin(self, times: Tensor) -> None:
        """Set weights and thresholds by the spike times (classes, N) of one sample of each class, which fires at 201.

        Raises:
            RobassayError: a sample has no spike before step 200.
        """
        for c, one in enumerate(times):
            counts = one.bincount(minlength=SLOTS)
            share = contribution(EVERY, IDEAL, counts)
            self.threshold[c] = reach(share, EVERY, IDEAL, counts)
            self.state[c] = (share[:, None] * self.factor)[one]

    def learn(self, times: Tensor, label: int) -> Tensor | None:
        """One sample with spike times (N,): the firing times that were aimed at, (classes,), or None if none was.

        Raises:
            RobassayError: a firing time that no weights can give.
        """
        fired = firing_times(potential(times[None].double(), self.state, self.factor), self.threshold)[0]
        wanted = wanted_times(fired, label)
        moved = (wanted != fired).nonzero().flatten()
        if not len(moved):
            return None
        # Inputs that spike together have equal shares: they are worked out once per time, not once per input.
        counts = times.bincount(minlength=SLOTS)
        # Steps are counted from 1 in the source's plasticity, and from 0 in its potentials.
        now, then = fired[moved][:, None] + 1, wanted[moved][:, None] + 1
        share, old = contribution(EVERY, then, counts), contribution(EVERY, now, counts)
        height = 1 / reach(share, EVERY, then, counts) - 1 / reach(old, EVERY, now, counts)
        step = (self.net.rate * self.threshold[moved] * height)[:, None] * share
        rows = self.factor[times]
        for c, one in zip(moved.tolist(), step[:, times], strict=True):
            self.state[c].addcmul_(one[:, None], rows)
        return wanted

    def draw(self, h: Tensor) -> Tensor:
        values = self.potentials(h)
        fired = firing_times(values.detach(), self.threshold)
        late = crossings(values, fired, self.threshold)
        exact = late.detach() if self.net.tie == "interpolate" else fired.double()
        if self.net.form == "margin":
            return self._margins(values, fired, exact).float()
        slope = self._latched(values) if self.net.form == "latch" else -late
        logits = STEPS - exact + (slope - slope.detach())
        # Between the logit of a neuron that is silent and that of one that fires at the last step.
        return torch.cat([logits, logits.new_full((len(h), 1), 1.5)], 1).float()

    def _latched(self, values: Tensor) -> Tensor:
        """Σ_t of the latched spikes, (B, C): steps from the first spike on, identity in place of the step's slope."""
        fires = spike(values[..., :SILENT] - self.threshold[:, None], ONE_HALF)
        return fires.cummax(-1).values.sum(-1)

    def _margins(self, values: Tensor, fired: Tensor, exact: Tensor) -> Tensor:
        """Largest excess over the threshold up to the first spike, the winner's the largest: (B, C); and last, how far
        all neurons stay below it at all steps, negative if one fires."""
        # In percent, so that cross-entropy tells the classes apart as it does in the other forms.
        relative = 100 * ((values - self.threshold[:, None]) / self.threshold[:, None])[..., :SILENT]
        first = fired.amin(1)
        until = torch.arange(SILENT) <= first[:, None, None]
        margins = relative.masked_fill(~until, -torch.inf).amax(-1)
        # A neuron that fires at the same step as the winner has lost by the tie rule, whatever its potential.
        winner = exact.argmin(1, keepdim=True)  # the first of equals
        top = margins.detach().gather(1, winner)
        ceiling = torch.where(first[:, None] < SILENT, top * (1 - 1e-6), torch.inf)
        excess = (margins.detach() - ceiling).clamp_min(0).scatter(1, winner, 0.0)
        below = 1e-30 - relative.amax((1, 2))  # at the threshold no neuron fires
        return torch.cat([margins - excess, below[:, None]], 1)


def wanted_times(fired: Tensor, label: int) -> Tensor:
    """Firing times (classes,) to aim at, given those of a sample of class ``label``; equal where nothing is to learn.

    The right class should fire by step 199, the others 5 steps after it at least. Source: Jeyasothy et al. 2019.
    """
    own = int(fired[label])
    close = fired < own + MARGIN
    close[label] = False
    if not bool(close.any()):
        return fired
    wanted = torch.where(close, min(SILENT, own + MARGIN), fired)
    wanted[label] = min(own, IDEAL - 1)
    return wanted


def crossings(values: Tensor, fired: Tensor, threshold: Tensor) -> Tensor:
    """Times (B, C) at which V (B, C, 401) crosses the threshold, between two steps; 399 of silent neurons.

    Backward: −(dV/dx)/(dV/dt) at the crossing, 0 for silent neurons.
    """
    at = fired.clamp_min(1)[..., None]
    before, after = values.gather(-1, at - 1)[..., 0], values.gather(-1, at)[..., 0]
    silent = fired == SILENT
    rise = torch.where(silent, 1.0, (after - before).detach())
    value = (threshold - before.detach()) / rise
    late = fired - 1 + value + (after.detach() - after) / rise
    return torch.where(silent, float(SILENT), late)
