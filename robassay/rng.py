"""Keyed, splittable randomness: a stream is a name, and the same name always gives the same bits."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch


@dataclass(frozen=True)
class Stream:
    """A source of random numbers named by purpose, such as ``("craft", "start", 3)``.

    A stream holds no state. Results therefore depend neither on the worker, nor on the order of work, nor on
    whether a run was interrupted, and judging never reuses the draws of an attacker.

    Args:
        key: the name, in parts.

    Example:
        >>> Stream(("score",)).child(0).seed() == Stream(("score", 0)).seed()
        True
    """

    key: tuple[str | int, ...] = ()

    def child(self, *parts: str | int) -> Stream:
        """The stream whose name is this one's followed by ``parts``."""
        return Stream(self.key + parts)

    def seed(self) -> int:
        """A 63-bit hash of the key; 1 and "1" are different parts, 1 and NumPy's 1 are not."""
        text = "\x1f".join(f"int:{int(p)}" if isinstance(p, Integral) else f"{type(p).__name__}:{p}" for p in self.key)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator on ``device``, seeded by the key."""
        return torch.Generator(device=device).manual_seed(self.seed())

    @contextmanager
    def active(self) -> Iterator[None]:
        """Seed the global generators (torch on CPU and CUDA, NumPy, ``random``) and restore them on exit.

        Third-party layers listen only to global generators, which is why one process computes one cell at a time.
        """
        with restored():
            self.take_over()
            yield

    def take_over(self) -> None:
        """Seed the global generators and leave them so: for passes in a row inside one :func:`restored`."""
        seed = self.seed()
        torch.random.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.manual_seed(seed)


@contextmanager
def restored() -> Iterator[None]:
    """Whatever is done to the global generators inside, they go on afterwards as if nothing had been.

    Saving and restoring them costs as much as a pass through a small network: draws in a row share one.
    """
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    saved = torch.get_rng_state(), random.getstate(), np.random.get_state()
    saved_cuda = torch.cuda.get_rng_state() if cuda else None
    try:
        yield
    finally:
        torch.set_rng_state(saved[0])
        random.setstate(saved[1])
        np.random.set_state(saved[2])
        if saved_cuda is not None:
            torch.cuda.set_rng_state(saved_cuda)


def identities(x: torch.Tensor) -> list[int]:
    """A number per image of ``x`` (B, …) that depends on its pixels alone: who an example is, in any batch."""
    rows = x.detach().cpu().contiguous().numpy()
    return [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=6).digest(), "big") for row in rows]


def uniform(x: torch.Tensor, rng: Stream) -> torch.Tensor:
    """Uniform [0,1) numbers in the shape of ``x`` (B, …); a row's numbers do not depend on its batch mates."""
    return _per_row(x, rng, torch.rand)


def normal(x: torch.Tensor, rng: Stream) -> torch.Tensor:
    """Standard normal numbers in the shape of ``x`` (B, …); rows as in :func:`uniform`."""
    return _per_row(x, rng, torch.randn)


def _per_row(x: torch.Tensor, rng: Stream, fill: Callable[..., torch.Tensor]) -> torch.Tensor:
    # Drawn on the CPU, so that a GPU sees the same numbers.
    generator, base = torch.Generator(), rng.seed()
    rows = [fill(x.shape[1:], generator=generator.manual_seed(base ^ row)) for row in identities(x)]
    return torch.stack(rows).to(x.device, x.dtype) if rows else torch.zeros_like(x)
