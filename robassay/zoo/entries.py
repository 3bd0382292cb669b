"""Who is in the zoo: networks in honest and masked pairs, with what is true of them by construction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from robassay.classifier import Classifier
from robassay.rules import Rectangle
from robassay.zoo.layers import Behind, Jpeg, Levels, NoisyBackward, Ruling, Tempered, Thermometer, Times
from robassay.zoo.nets import EPS, LEVELS

Dress = Callable[[Classifier], Classifier]
SEEDS = 3
"""Training seeds of every network."""


def _as_trained(model: Classifier) -> Classifier:
    return model


def _behind(front: Callable[[], nn.Module]) -> Dress:
    return lambda model: Behind(model, front())


def _soft_thermometer(model: Classifier) -> Classifier:
    assert isinstance(model, Behind)
    return Behind(model.inner, Thermometer(LEVELS, soft=True))


@dataclass(frozen=True)
class Entry:
    """One network of the zoo, for every training seed.

    Attributes:
        name: what ``zoo:NAME`` says.
        masked: whether the claimed evaluation is fooled by more than its steps explain: by its loss, its gradient or
            what it is blind to. Measured for every seed, see :mod:`robassay.zoo.truth`.
        family: networks of one family owe their fate to one mechanism; they are never split between choosing a
            threshold and testing it.
        summary: what it is.
        trained: whose weights it has, see :data:`robassay.zoo.nets.TRAINED`.
        dress: what is put around them.
        bare: what an attacker differentiates who knows how the network is made: the same weights and decisions
            (nearly, where steps are softened), a gradient that leads somewhere.
        pair: its counterpart of the other truth.
        claimed: the evaluation that the truth speaks of, in the words of ``--claimed``; empty for the field's usual
            attack.
        same: its decisions are, image by image, those of this network.
        eps: radius (L∞) that the truth speaks of. What is adversarially trained is asked within a smaller ball than the
            one it was trained for: at its rim cross-entropy leaves 5 to 10 points more than a targeted margin even
            where nothing is masked.
    """

    name: str
    masked: bool
    family: str
    summary: str
    trained: str
    pair: str
    dress: Dress = _as_trained
    bare: Dress = _as_trained
    claimed: str = ""
    same: str = ""
    eps: float = EPS


SQUARE = "square:queries=1000"
INNER = 0.15

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("plain", False, "plain", "small CNN, trained on clean images", "plain", "plain-x100"),
        Entry(
            "hardened", False, "adversarial", "small CNN, adversarially trained", "hardened", "hardened-x100",
            eps=INNER,
        ),
        Entry(
            "plain-x30", True, "scaled logits", "plain, logits × 30", "plain", "plain",
            lambda m: Times(m, 30.0), same="plain",
        ),
        Entry(
            "plain-x100", True, "scaled logits", "plain, logits × 100", "plain", "plain",
            lambda m: Times(m, 100.0), same="plain",
        ),
        Entry(
            "hardened-x100", True, "scaled logits", "hardened, logits × 100", "hardened", "hardened",
            lambda m: Times(m, 100.0), same="hardened", eps=INNER,
        ),
        Entry(
            "temperature", True, "scaled logits", "plain, softmax at temperature 0.02 inside the net", "plain", "plain",
            lambda m: Tempered(m, 0.02), same="plain",
        ),
        Entry(
            "thermometer", True, "quantised input", f"small CNN that reads pixels as {LEVELS} bits, no gradient",
            "thermometer", "quantised-hardened", bare=_soft_thermometer,
        ),
        Entry(
            "bit-depth", True, "quantised input", "plain behind pixels of 2 bits, no gradient", "plain", "plain",
            _behind(lambda: Levels(3)), _behind(lambda: Levels(3, straight=True)),
        ),
        Entry(
            "jpeg", True, "quantised input", "plain behind JPEG of quality 75, no gradient", "plain", "plain",
            _behind(lambda: Jpeg(75)), _behind(lambda: Jpeg(75, straight=True)),
        ),
        Entry(
            "quantised-hardened-pgd", True, "quantised input",
            "hardened behind pixels of 17 levels, no gradient; claimed is what PGD finds", "hardened",
            "quantised-hardened", _behind(lambda: Levels(16)), _behind(lambda: Levels(16, straight=True)),
            eps=INNER,
        ),
        Entry(
            "quantised-hardened", False, "quantised input",
            "hardened behind pixels of 17 levels, no gradient; claimed is what Square finds", "hardened",
            "quantised-hardened-pgd", _behind(lambda: Levels(16)), _behind(lambda: Levels(16, straight=True)), SQUARE,
            eps=INNER,
        ),
        Entry("kwta", True, "k winners", "small CNN with k winners for every ReLU", "kwta", "plain"),
        Entry(
            "noise-head", True, "learnt noise", "small CNN with learnt anisotropic noise on its features", "noise-head",
            "noise-hardened",
        ),
        Entry(
            "noise-hardened", False, "noise", "small CNN with Gaussian noise in its layers, adversarially trained",
            "noise-hardened", "noise-head", eps=INNER,
        ),
        Entry(
            "bnn-narrow", True, "binarised", "binarised MLP, its signs differentiated in a window of 0.02", "bnn",
            "bnn", lambda m: Ruling(m, Rectangle(0.02)), same="bnn",
        ),
        Entry("bnn", False, "binarised", "binarised MLP, its signs differentiated as usual", "bnn", "bnn-narrow"),
        Entry("lif-narrow", True, "spiking", "spiking MLP trained with a surrogate of 0.004", "lif-narrow", "lif-wide"),
        Entry("lif-wide", False, "spiking", "spiking MLP trained with a wide surrogate", "lif-wide", "lif-narrow"),
        Entry(
            "binary-stochastic", False, "coins", "MLP of binary stochastic units", "binary-stochastic", "noise-head"
        ),
        Entry(
            "random-spiking", False, "random spiking", "small CNN with random spiking", "random-spiking", "noise-head"
        ),
        Entry(
            "backward-noise", True, "backward noise", "plain, noise added to its gradient only", "plain", "plain",
            _behind(lambda: NoisyBackward(10.0)), same="plain",
        ),
    )
}  # fmt: skip
"""The zoo by name."""
