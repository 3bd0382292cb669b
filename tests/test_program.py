"""A network written as a program of torch's: the same decisions, the same randomness, or a refusal."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.nets.encoders import Poisson
from robassay.nets.mlp import MLP
from robassay.nets.spikes import Spikes
from robassay.nets.spiking import Spiking
from robassay.program import write_program

IMAGES = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Noisy(Classifier):
    """Logits with noise that ``numbers(rows)`` draws."""

    classes, stochastic, rows = 10, True, "independent"

    def __init__(self, numbers) -> None:
        super().__init__()
        self.body, self.numbers = nn.Linear(64, 10), numbers

    def draw(self, h: Tensor) -> Tensor:
        return self.body(h.flatten(1)) + self.numbers(h.shape[0])


def drawn(rows: int) -> Tensor:
    return torch.randn(rows, 10)


def opened(file: Path) -> nn.Module:
    return torch.export.load(file).module()


def asked(net: nn.Module, x: Tensor, seed: int) -> Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return net(x)


def test_its_draws_are_the_networks_own_for_any_number_of_images(tmp_path: Path) -> None:
    net = Noisy(drawn).eval()
    assert write_program(net, tmp_path / "n.pt2", IMAGES)
    program = opened(tmp_path / "n.pt2")
    for x in (IMAGES, IMAGES[:1], IMAGES.repeat(5, 1, 1, 1)):
        assert torch.equal(asked(net, x, 7), asked(program, x, 7))
        assert not torch.equal(asked(program, x, 7), asked(program, x, 8)), "no noise of its own"


@pytest.mark.parametrize("encoder", [None, Poisson()])
def test_spikes_are_written_for_one_image_at_a_time(tmp_path: Path, encoder: Poisson | None) -> None:
    spikes = Spikes(steps=6, leak=0.9) if encoder is None else Spikes(steps=6, leak=0.9, encoder=encoder)
    net = Spiking(MLP((32,)), spikes).build((1, 8, 8), 10).eval()
    assert not write_program(net, tmp_path / "n.pt2", IMAGES)
    program = opened(tmp_path / "n.pt2")
    logits = torch.cat([asked(program, x, 7) for x in IMAGES.split(1)])
    assert torch.equal(logits, torch.cat([asked(net, x, 7) for x in IMAGES.split(1)]))
    assert logits.std(0).max() > 0, "silent whatever the image"


def test_numbers_that_are_not_torchs_are_refused(tmp_path: Path) -> None:
    """Traced, they would be the same in every pass: a network that was random would be shown without its noise."""
    drawn_elsewhere = np.random.default_rng(0)
    net = Noisy(lambda _: torch.as_tensor(drawn_elsewhere.normal(size=10), dtype=torch.float32)).eval()
    calls = itertools.count()
    counting = Noisy(lambda _: torch.full((10,), float(next(calls)))).eval()
    for one in (net, counting):
        with pytest.raises(UsageError, match="computes something else"):
            write_program(one, tmp_path / "n.pt2", IMAGES)


def test_what_torch_cannot_trace_is_refused_with_its_reason(tmp_path: Path) -> None:
    shared = Noisy(lambda rows: torch.randn(10) * len(range(rows))).eval()
    shared.rows = "shared"  # one image at a time would draw anew for each
    with pytest.raises(UsageError, match=r"torch\.export cannot write this network: \w+"):
        write_program(shared, tmp_path / "n.pt2", IMAGES)
    by_value = Noisy(lambda rows: torch.zeros(10) if float(torch.rand(1)) > 2 else torch.ones(10)).eval()
    with pytest.raises(UsageError, match=r"torch\.export cannot write this network: \w+"):
        write_program(by_value, tmp_path / "n.pt2", IMAGES)


def test_detectors_are_refused(tmp_path: Path) -> None:
    class Guarded(Noisy):
        def alarms(self, x: Tensor) -> Tensor:
            return x.new_ones(len(x), 1)

    with pytest.raises(UsageError, match="this network refuses images, too"):
        write_program(Guarded(drawn).eval(), tmp_path / "n.pt2", IMAGES)
