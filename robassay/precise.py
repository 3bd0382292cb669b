"""Gradients in double precision, for networks whose last non-linearity is flat in single precision."""

from __future__ import annotations

import copy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.estimators import Around, Backprop, Directed, Estimator
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import Loss, per_example

_doubled: WeakKeyDictionary[Classifier, Classifier] = WeakKeyDictionary()


@part(source="Carlini and Wagner 2017, §VIII-A (a saturated softmax); double precision")
class Precise(Around):
    """The direction of ``inner`` on a copy of the classifier in float64, each image's scaled to a largest entry of 1.

    A softmax inside the network, or a tanh, is exactly flat in float32 where its argument passes about 90, in float64
    about 700; what is left may be of size 1e-300, and would be 0 again in float32 if it were not scaled. Value and
    logits are the copy's, rounded.
    """

    inner: Estimator = Backprop()

    def __call__(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> Directed:
        found = self.inner(doubled(model), x.double(), loss, rng)
        size = found.gradient.flatten(1).abs().amax(1)
        scaled = found.gradient / per_example(torch.where(size > 0, size, 1.0), x)
        return Directed(found.value.to(x.dtype), scaled.to(x.dtype), found.logits.to(x.dtype), found.cost)


def doubled(model: Classifier) -> Classifier:
    """The classifier's copy in float64, made once."""
    if model not in _doubled:
        _doubled[model] = copy.deepcopy(model).double()
    return _doubled[model]


def doubles(model: Classifier, x: Tensor) -> bool:
    """Whether the classifier works in float64 on images (B, C, H, W); one that names float32 itself does not."""
    try:
        with torch.no_grad(), Stream(("doubles",)).active():
            return doubled(model)(x.double()).dtype == torch.float64
    except (RuntimeError, TypeError, ValueError):
        return False
