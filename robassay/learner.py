"""Networks that learn by a local rule of their own, such as spike-timing-dependent plasticity."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Literal

from robassay.classifier import Classifier, Net
from robassay.data import Images
from robassay.rng import Stream

Told = Callable[[int, int], None]


class Learner(Net):
    """A network that learns by a local rule of its own, on the CPU.

    Everything that one pass hands to the next (rates that adapt, thresholds) is a buffer of the classifier: it is
    saved with the weights, and a run that was killed goes on from there.
    """

    passes: int
    """Passes over the images in all."""
    keep: Literal["best", "last"]
    """The weights of the pass with the best validation accuracy (of equal ones the last), or of the last pass."""

    @abc.abstractmethod
    def present(self, model: Classifier, images: Images, number: int, rng: Stream, told: Told) -> None:
        """Pass ``number``, from 0, over images uint8 (N, C, H, W), labels int64 (N,): changes the model in place.

        Args:
            model: what :meth:`build` made, in evaluation mode.
            rng: of this pass; images come in file order unless the rule says otherwise.
            told: call it with (images done, images in all) now and then.
        """

    def decides(self, number: int) -> bool:
        """Whether the network can decide after pass ``number``; before that its accuracy is not measured."""
        return True
