"""Estimators for networks that spike: other gradients of the same forward pass.

Which gradient works is not known beforehand. A surrogate that is too narrow, or too wide, makes a network look robust
although no gradient is exactly 0, so an audit tries many and takes the worst per image: see :func:`sweep`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.analogue import Activation, ClipFloor, ReLU, standing_in
from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.estimators import Around, Backprop, Cost, Directed, Estimator, Ruled, drawn
from robassay.registry import part
from robassay.rng import Stream
from robassay.rules import BPTR, RGA, Atan, Rectangle, Rule, StraightThrough, Triangle, acting
from robassay.threat import Loss, per_example

OWN = "own rule"


@part(source="Sharmin et al. 2019, Algorithm 2; Bu et al. 2022 (clip and floor)")
class Twin(Around):
    """The direction of the analogue twin: same weights, ``convert`` for every layer of neurons, no encoder noise.

    Value and logits are the spiking network's own. A classifier without layers of neurons is its own twin.

    Args:
        convert: what stands in for a neuron.
        inner: how the twin is differentiated.
    """

    convert: Activation = ReLU()
    inner: Estimator = Backprop()

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        with standing_in(self.convert):
            found = self.inner(model, x, loss, rng.child("twin"))
        return _judged(found, model, x, loss, self.draws, rng)


@part(source="Bu et al. 2023 (time-extended attack)")
class Extended(Around):
    """The direction by ``inner`` of the same network run for more ``steps`` than it is deployed with; value and logits
    as deployed.

    Raises (when used):
        UsageError: the classifier has no time steps.
    """

    steps: int = 32
    inner: Estimator = Backprop()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"steps={self.steps}: a pass has one time step at least. Write Extended(steps=32).")

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        found = self.inner(model.lasting(self.steps), x, loss, rng.child("longer"))
        return _judged(found, model, x, loss, self.draws, rng)


@part(source="Hao et al. 2024 (gradients of several kinds in one step)")
class Averaged(Around):
    """Mean direction of ``inner`` under several ``rules``, each scaled to the same size: sizes differ a thousandfold.

    Value and logits are those of the first rule's passes; a forward pass is the same under every rule.
    """

    rules: tuple[Rule, ...] = (Triangle(0.25), Triangle(1.0), Atan(8.0))
    inner: Estimator = Backprop()

    def __post_init__(self) -> None:
        if not self.rules:
            raise UsageError("Averaged() needs one rule at least, such as Averaged((Triangle(0.25), RGA())).")

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        found = []
        for rule in self.rules:
            with acting(rule):
                # The same stream: what differs is then the rules' alone.
                found.append(self.inner(model, x, loss, rng))
        sizes = [f.gradient.flatten(1).abs().mean(1) for f in found]
        scaled = [f.gradient / per_example(s.clamp_min(1e-38), x) for f, s in zip(found, sizes, strict=True)]
        mean = torch.stack(scaled).mean(0) * per_example(torch.stack(sizes).mean(0), x)
        cost = Cost(sum(f.cost.draws for f in found), sum(f.cost.gradients for f in found))
        return found[0]._replace(gradient=mean, cost=cost)


def _judged(found: Directed, model: Classifier, x: Tensor, loss: Loss, draws: int, rng: Stream) -> Directed:
    """A direction of another network with the value and logits of ``model`` itself."""
    logits = drawn(model, x, draws, rng.child("here"))
    with torch.no_grad():
        value = loss(logits).mean(0)
    return Directed(value, found.gradient, logits, Cost(found.cost.draws + len(logits), found.cost.gradients))


SWEPT: dict[str, Rule] = {
    **{f"triangle {w:g}": Triangle(w) for w in (0.1, 0.25, 0.5, 1.0, 2.0)},
    **{f"rectangle {w:g}": Rectangle(w) for w in (0.25, 1.0)},
    **{f"atan {a:g}": Atan(a) for a in (2.0, 8.0, 32.0)},
    "straight through": StraightThrough(),
    "bptr": BPTR(),
    "rga": RGA(),
}
"""Rules that a default audit tries, widths in units of the threshold. From widths measured on a trained network: .25 to
.5 were the strongest, and .05 or straight-through overstated robustness by 5 to 15 points."""


def sweep(inner: Estimator | None = None, trains: bool = True) -> dict[str, Estimator]:
    """Estimators for a network that spikes or binarises, by name: its own rule, those of :data:`SWEPT`, two twins.

    None is the strongest on every network: attack with each, and take the worst per image.

    Args:
        inner: how each is averaged over draws, by default one pass.
        trains: whether it spikes over time: rules of spike trains and analogue twins are for such networks only.
    """
    inner = inner or Backprop()
    ruled = {name: Ruled(rule, inner) for name, rule in SWEPT.items() if trains or not isinstance(rule, (BPTR, RGA))}
    twins = {"twin relu": Twin(ReLU(), inner), "twin clip-floor": Twin(ClipFloor(8), inner)} if trains else {}
    return {OWN: inner, **ruled, **twins}
