"""Random layers inside a network: always noisy, in training and evaluation alike, until they are silenced."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import takewhile
from typing import Literal, final

from torch import Tensor, nn

from robassay.classifier import Classifier

ACTIVATIONS = (nn.ReLU, nn.PReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardtanh, nn.Tanh, nn.Sigmoid)

_SILENT: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silence() -> Iterator[None]:
    """Every :class:`Noise` inside is off."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


class Noise(nn.Module, abc.ABC):
    """A random layer. It draws from torch's global generator.

    Attributes:
        rows: "independent" when every row of a batch gets noise of its own, "shared" when one noise serves them all.
        coupled: whether a row's noise depends on its batch mates.
    """

    rows: Literal["shared", "independent"] = "independent"
    coupled: bool = False

    @abc.abstractmethod
    def noisy(self, x: Tensor) -> Tensor:
        """One draw for inputs ``x`` (B, …)."""

    def silent(self, x: Tensor) -> Tensor:
        """What the layer is without its noise: the identity unless overridden."""
        return x

    def scales(self) -> Iterable[nn.Parameter]:
        """Learnt sizes of the noise, which weight decay leaves alone."""
        return ()

    def forward(self, x: Tensor) -> Tensor:
        return self.silent(x) if _SILENT.get() else self.noisy(x)


class Site(nn.Identity):
    """A place in a trunk that a defence may fill with a layer of its own.

    Args:
        role: what the place is for, such as "dropout".
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role


class Junction(nn.ReLU):
    """A ReLU behind a stem's normalisation or a residual sum: Learn2Perturb puts its noise in front of it."""


def fill(trunk: nn.Module, chosen: Callable[[nn.Module], bool], make: Callable[[int, nn.Module], nn.Module]) -> int:
    """Replace every module for which ``chosen`` holds by ``make(number, module)``, in order of definition.

    ``make`` may keep the module inside, such as ``nn.Sequential(module, noise)``. Returns how many were replaced.
    """
    names = [name for name, module in trunk.named_modules() if name and chosen(module)]
    for number, name in enumerate(names):
        parent, _, child = name.rpartition(".")
        owner = trunk.get_submodule(parent)
        setattr(owner, child, make(number, owner.get_submodule(child)))
    return len(names)


@final
class NoisyNet(Classifier):
    """A trunk with noise layers in it, then a linear layer (noisy, too, if it is or holds a :class:`Noise`).

    What comes before the first top-level layer with noise is the deterministic prefix.

    Args:
        trunk: images (B, C, H, W) → features (B, features).
        head: features → logits (B, classes).
        classes: number of logits.
    """

    def __init__(self, trunk: nn.Sequential, head: nn.Module, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.classes = classes
        noises = [m for m in self.modules() if isinstance(m, Noise)]
        self.stochastic = bool(noises)
        # A coupled layer behind another noise sees rows that differ: folded draws would share their extremes.
        late = any(n.coupled for n in noises[1:])
        self.rows = "shared" if late or any(n.rows == "shared" for n in noises) else "independent"
        self.coupled = any(n.coupled for n in noises)
        self.first = sum(1 for _ in takewhile(lambda layer: not _noisy(layer), trunk))

    def prefix(self, x: Tensor) -> Tensor:
        """The layers in front of the first noise."""
        features: Tensor = self.trunk[: self.first](x)
        return features

    def draw(self, h: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk[self.first :](h))
        return logits

    def quiet(self, h: Tensor) -> Tensor:
        """Every noise layer as it is without its noise."""
        with silence():
            return self.draw(h)

    def undecayed(self) -> Iterable[nn.Parameter]:
        """The scales of all noise layers."""
        return [scale for m in self.modules() if isinstance(m, Noise) for scale in m.scales()]


def layered(trunk: nn.Module) -> nn.Sequential:
    """The trunk as a chain of layers: itself, or a chain with it alone."""
    return trunk if isinstance(trunk, nn.Sequential) else nn.Sequential(trunk)


def _noisy(layer: nn.Module) -> bool:
    return any(isinstance(m, Noise) for m in layer.modules())
