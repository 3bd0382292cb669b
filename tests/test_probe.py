"""What the probe finds out about modules whose nature is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robassay.errors import RobassayError, UsageError
from robassay.probe import probe

X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3


class Net(nn.Module):
    """A linear net with a twist."""

    def __init__(self, twist: str = "") -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(64, 5)
        self.twist = twist
        self.calls = 0.0
        self.own = torch.Generator().manual_seed(0)

    def forward(self, x):
        z = self.linear(x.flatten(1))
        self.calls += 1
        return {
            "": lambda: z,
            "noise": lambda: z + 0.1 * torch.randn_like(z),
            "shared noise": lambda: z + 0.1 * torch.randn(1, 5),
            "batch mean": lambda: z - z.mean(0),
            "noisy batch mean": lambda: z - z.mean(0) + 0.1 * torch.randn_like(z),
            "noise between extremes": lambda: z + torch.rand_like(z) * (x.max() - x.min()),
            "state": lambda: z + self.calls,
            "own generator": lambda: z + torch.rand(z.shape, generator=self.own),
            "blocked": z.detach,
            "flat": lambda: z * 0,
            "softmax": lambda: z.softmax(-1),
            "nan": lambda: z / 0 * 0,
        }[self.twist]()


@pytest.mark.parametrize(
    ("twist", "found"),
    [
        ("", {}),
        ("noise", {"stochastic": True, "independent": True, "split": 1, "thin": True}),
        ("shared noise", {"stochastic": True, "split": 1, "thin": True}),
        ("batch mean", {"coupled": True}),
        ("noisy batch mean", {"stochastic": True, "coupled": True, "split": 1, "thin": True}),
        ("noise between extremes", {"stochastic": True, "coupled": True}),
        ("state", {"stochastic": True, "reproducible": False}),
        ("own generator", {"stochastic": True, "reproducible": False}),
        ("blocked", {"differentiable": False}),
        ("flat", {"differentiable": False}),
        ("softmax", {"probabilities": True}),
    ],
)
def test_findings(twist, found):
    expected = {
        "classes": 5,
        "stochastic": False,
        "reproducible": True,
        "coupled": False,
        "differentiable": True,
        "probabilities": False,
        "spiking": False,
        "ruled": False,
        "quiets": False,
        "gaussian": False,
        "independent": False,
        "split": 0,
        "thin": False,
        "alone": True,
        "opaque": False,
    }
    result = probe(Net(twist), X)._asdict()
    if twist in ("state", "own generator"):  # such a module changes from call to call: coupling cannot be told
        result["coupled"] = False
    assert result == expected | found


def test_batch_norm_left_in_training_mode_is_coupled():
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 5)).train()
    assert probe(module, X).coupled
    assert not probe(module.eval(), X).coupled


def test_nan_and_shapes_are_explained():
    with pytest.raises(RobassayError, match="NaN logits for 8 of 8 images"):
        probe(Net("nan"), X)
    with pytest.raises(UsageError, match="cannot take images of shape 1×8×8"):
        probe(nn.Sequential(nn.Flatten(), nn.Linear(63, 5)), X)
    with pytest.raises(UsageError, match="at least two classes"):
        probe(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), X)


def test_double_precision_modules_are_fed_doubles():
    assert probe(Net().double(), X).classes == 5
