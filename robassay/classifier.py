"""The contract that every audited network meets: a classifier that can be drawn from."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from robassay.chunks import in_parts
from robassay.cut import Cut
from robassay.errors import RobassayError, UsageError
from robassay.outputs import check_finite, logits_of
from robassay.rng import Stream, restored

FOLD_ELEMENTS = {"cpu": 2**16, "cuda": 2**20}
"""Draws of a classifier with independent rows are folded into one pass up to this many elements of ``h``.

Constants, not settings: which draws share a pass decides which bits they get. On a CPU a pass that outgrows the caches
takes twice as long per draw: 2**16 was the fastest or within a twentieth of it for small CNNs and all batch sizes."""


class CannotQuiet(RobassayError):
    """The noise of this classifier cannot be switched off."""


class Classifier(nn.Module, abc.ABC):
    """Maps images float32 (B, C, H, W) in [0,1] to logits (B, classes), possibly at random.

    Normalisation lives inside. A pass has two parts: ``prefix``, deterministic and computed once, and ``draw``,
    everything from the first random operation on.

    Attributes:
        classes: number of logits.
        stochastic: whether two passes over one image can differ.
        rows: "independent" promises that every row of a batch gets noise of its own, so that draws may be folded
            into the batch axis; "shared" (one noise for the whole batch, such as noisy weights) loops over draws.
        coupled: an example's logits depend on its batch mates (such as noise between the batch's extremes).
    """

    classes: int
    stochastic: bool = False
    rows: Literal["shared", "independent"] = "shared"
    coupled: bool = False

    def prefix(self, x: Tensor) -> Tensor:
        """The deterministic part: images (B, C, H, W) → features (B, …). The identity unless overridden."""
        return x

    @abc.abstractmethod
    def draw(self, h: Tensor) -> Tensor:
        """One stochastic pass over features (B, …) → logits (B, classes), from torch's global generator."""

    def quiet(self, h: Tensor) -> Tensor:
        """The same weights with the noise off: features (B, …) → logits (B, classes).

        Raises:
            CannotQuiet: the noise has no agreed 'off'.
        """
        if self.stochastic:
            raise CannotQuiet(f"{type(self).__name__} does not say what it is without its noise.")
        return self.draw(h)

    def alarms(self, x: Tensor) -> Tensor:
        """How far every detector's score lies above its threshold: images (B, C, H, W) → (B, detectors).

        Deterministic, and differentiable for an attacker who evades. No detectors unless overridden.
        """
        return x.new_zeros(len(x), 0)

    @final
    def rejects(self, x: Tensor) -> Tensor:
        """Which images (B, C, H, W) are refused, whatever their logits say: bool (B,). One alarm at 0 is enough."""
        return ~(self.alarms(x) < 0).all(1)  # a score that is not a number raises the alarm

    def lasting(self, steps: int) -> Classifier:
        """The same weights, run for ``steps`` time steps.

        Raises:
            UsageError: the classifier has no time steps that could be set.
        """
        raise UsageError(f"{type(self).__name__} has no time steps. Extended() is for networks that spike.")

    def gaussian(self, h: Tensor) -> tuple[Tensor, Tensor] | None:
        """Where the logits of features (B, …) are Gaussian: their mean (B, classes) and a factor F (classes, D) of the
        covariance F Fᵀ, the same for all images. None unless overridden."""
        return None

    def regularizer(self, images: int) -> Tensor | None:
        """A scalar (a tensor of any shape with one element) that training on so many ``images`` adds to the loss of
        every batch; None for none."""
        return None

    def undecayed(self) -> Iterable[nn.Parameter]:
        """Parameters that a recipe's weight decay leaves alone, such as the scale of a noise."""
        return ()

    def begin_epoch(self, epoch: int) -> None:
        """What training does before ``epoch``, counted from 0, such as raising a slope. Kept in buffers if it matters
        afterwards: a checkpoint holds nothing else."""

    def after_step(self, rate: float) -> None:
        """What training does to the weights after every optimiser step of learning rate ``rate``, such as a
        projection."""

    def forward(self, x: Tensor) -> Tensor:
        """One pass, images (B, C, H, W) → logits (B, classes)."""
        return self.draw(self.prefix(x))

    @final
    def features(self, x: Tensor) -> Tensor:
        """:meth:`prefix`, in parts where memory is short: images (B, C, H, W) → features (B, …)."""
        return x if type(self).prefix is Classifier.prefix else self._divided(self.prefix, x)

    def _divided(self, compute: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        whole = self.coupled or self.training or (h.requires_grad and any(p.requires_grad for p in self.parameters()))
        return compute(h) if whole else in_parts(compute, h)

    @final
    def groups(self, h: Tensor, n: int) -> list[int]:
        """How ``n`` draws over ``h`` (B, …) are split into passes: draws per pass."""
        if not self.stochastic:
            return [1]
        if self.rows == "shared":
            return [1] * n
        most = max(1, FOLD_ELEMENTS.get(h.device.type, 2**20) // max(1, h.numel()))
        return [min(most, n - start) for start in range(0, n, most)]

    @final
    def passes(self, h: Tensor, n: int, rng: Stream) -> Iterator[Tensor]:
        """Logits of ``n`` draws over ``h`` (B, …), pass by pass: tensors (k, B, classes) whose k add up to ``n``.

        Pass i listens to ``rng.child(i)``; a deterministic classifier gives one pass with k = 1.
        """
        if not self.stochastic:
            yield self.fold(h, 1)
            return
        for i, k in enumerate(self.groups(h, n)):
            with rng.child(i).active():
                logits = self.fold(h, k)
            yield logits  # outside: a caller that stops half-way must not keep the global generators

    @final
    def drawn(self, h: Tensor, n: int, rng: Stream) -> Tensor:
        """Logits of ``n`` draws over ``h`` (B, …), the passes of :meth:`passes` together: (n, B, classes).

        (1, B, classes) of a deterministic classifier.
        """
        if not self.stochastic:
            return self.fold(h, 1)
        found = []
        with restored():
            for i, k in enumerate(self.groups(h, n)):
                rng.child(i).take_over()
                found.append(self.fold(h, k))
        return found[0] if len(found) == 1 else torch.cat(found)

    @final
    def fold(self, h: Tensor, k: int) -> Tensor:
        """``k`` draws in one pass under the generator in force: (B, …) → (k, B, classes).

        Raises:
            RobassayError: logits of another shape.
        """
        folded = h if k == 1 else h.repeat(k, *([1] * (h.dim() - 1)))
        # Noise for half of the rows would be other noise.
        logits = self.draw(folded) if self.stochastic else self._divided(self.draw, folded)
        expected = (folded.shape[0], self.classes)
        if tuple(logits.shape) != expected:
            raise RobassayError(f"the model returned logits of shape {tuple(logits.shape)}, expected {expected}.")
        return logits.reshape(k, h.shape[0], self.classes)

    @final
    def sample(self, h: Tensor, n: int, rng: Stream) -> Tensor:
        """Logits of ``n`` independent draws: features (B, …) → (n, B, classes).

        Raises:
            RobassayError: NaN logits, or logits of another shape.
        """
        logits = self.drawn(h, n, rng)
        check_finite(logits)
        return logits if self.stochastic else logits.expand(n, -1, -1)


@final
class Wrapped(Classifier):
    """Any ``nn.Module`` that maps images in [0,1] to logits, with what :mod:`robassay.probe` found out about it.

    Args:
        module: the network; put into eval mode.
        classes: number of logits.
        stochastic: whether passes differ.
        coupled: whether rows depend on batch mates.
        rows: "independent" where every row of a batch gets noise of its own.
        cut: where the part before the noise ends; None to run the whole module in every draw.
        probabilities: the module returns probabilities, whose logarithms then are the logits.
        alone: the module can take a single image; otherwise it is handed that image twice.
        opaque: the module fails where a gradient is asked for, so that it is never asked.
    """

    def __init__(
        self,
        module: nn.Module,
        classes: int,
        stochastic: bool,
        coupled: bool = False,
        *,
        rows: Literal["shared", "independent"] = "shared",
        cut: Cut | None = None,
        probabilities: bool = False,
        alone: bool = True,
        opaque: bool = False,
    ) -> None:
        super().__init__()
        self.module = module.eval()
        self.classes, self.stochastic, self.coupled, self.rows = classes, stochastic, coupled, rows
        self.cut, self.probabilities, self.alone, self.opaque = cut, probabilities, alone, opaque

    def prefix(self, x: Tensor) -> Tensor:
        if self.cut is None:
            return x
        if len(x) == 1 and not self.alone:
            return self.cut.features(self.module, self._given(torch.cat([x, x])))[:1]
        return self.cut.features(self.module, self._given(x))

    def draw(self, h: Tensor) -> Tensor:
        """The module's pass over features (B, …) → logits (B, classes); of probabilities their logarithms.

        Raises:
            UsageError: it returns something from which no logits can be taken.
        """
        if len(h) == 1 and not self.alone:
            return self.draw(torch.cat([h, h]))[:1]
        if self.cut is None:
            output = self.module(self._given(h))
        else:
            output = self.cut.rest(self.module, h.detach() if self.opaque else h, self._dtype)
        double = self.cut is None and h.dtype == torch.float64  # only robassay.precise asks in it
        logits = logits_of(output).to(h.device, torch.float64 if double else torch.float32)
        return logits.clamp_min(torch.finfo(logits.dtype).tiny).log() if self.probabilities else logits

    @property
    def _dtype(self) -> torch.dtype:
        return precision(self.module)

    def _given(self, x: Tensor) -> Tensor:
        """What the module gets: its precision, and never the caller's own tensor, which it might write to."""
        x = x.detach() if self.opaque else x
        return x.clone() if x.dtype == self._dtype else x.to(self._dtype)

    def quiet(self, h: Tensor) -> Tensor:
        """Dropout layers off. Noise from anywhere else cannot be found: CannotQuiet."""
        dropouts = [m for m in self.module.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
        for layer in dropouts:
            layer.training = False  # not eval(): dropout that stays on in eval mode overrides it
        try:
            logits = self.draw(h)
            if self.stochastic and not torch.equal(logits, self.draw(h)):
                raise CannotQuiet("The module is still random with every dropout layer off.")
        finally:
            for layer in dropouts:
                layer.training = True
        return logits


def precision(module: nn.Module) -> torch.dtype:
    """The floating type of a module's first parameter (or buffer): that of the images it takes."""
    return next((t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.float32)


@final
class Mixture(Classifier):
    """Each inference of each image draws one of the members uniformly. Source: Tan et al. 2020, §V.

    Members with detectors are refused when images are judged: an image would be rejected in some draws only.

    Args:
        members: one classifier or more, of the same classes.

    Raises:
        UsageError: no members, of different classes, or (when images are judged) with detectors.
    """

    stochastic = True

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        if len({m.classes for m in members}) != 1:
            raise UsageError("The members of a mixture need the same classes, and there must be one member at least.")
        self.members = nn.ModuleList(members)
        self.classes = members[0].classes
        self.coupled = any(m.coupled for m in members)
        # Which rows a member gets is drawn: folded draws would change a coupled member's batch.
        shared = any(m.coupled or (m.rows == "shared" and m.stochastic) for m in members)
        self.rows = "shared" if shared else "independent"

    def draw(self, h: Tensor) -> Tensor:
        chosen = torch.randint(len(self.members), (h.shape[0],))
        parts, order = [], []
        for i, member in enumerate(self.members):
            index = (chosen == i).nonzero().flatten().to(h.device)
            if len(index):
                parts.append(member(h[index]))
                order.append(index)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def alarms(self, x: Tensor) -> Tensor:
        if any(isinstance(m, Classifier) and m.alarms(x[:1]).shape[1] for m in self.members):
            raise UsageError("A member of the mixture has detectors. Put them around the mixture, not around a member.")
        return super().alarms(x)


@final
class Quiet(Classifier):
    """A classifier with its noise off: a model in its own right, not a decision procedure.

    Args:
        inner: the classifier.

    Raises (when first used):
        CannotQuiet: the inner classifier's noise cannot be switched off.
    """

    stochastic: ClassVar[bool] = False  # type: ignore[misc]

    def __init__(self, inner: Classifier) -> None:
        super().__init__()
        self.inner = inner
        self.classes, self.coupled = inner.classes, inner.coupled

    def prefix(self, x: Tensor) -> Tensor:
        return self.inner.prefix(x)

    def draw(self, h: Tensor) -> Tensor:
        return self.inner.quiet(h)

    def alarms(self, x: Tensor) -> Tensor:
        return self.inner.alarms(x)


class Net(abc.ABC):
    """The description of a network; calling ``build`` makes it, with the weights torch's generator gives.

    A net checks the image size it is asked for and says which it can take.
    """

    kind: ClassVar[str] = "nets"
    half: ClassVar[bool] = False
    """Whether its training may multiply in bfloat16 on a GPU: no threshold, sign or small noise would notice."""

    @property
    def begins(self) -> int:
        """The epoch, from 0, in which training switches the noise on."""
        return 0

    @abc.abstractmethod
    def build(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        """A classifier for images of ``shape`` (C, H, W).

        Raises:
            UsageError: the net cannot take that shape.
        """
