"""Whether rows of a batch have noise of their own: every way of sharing it has to be seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robassay.classifier import Wrapped
from robassay.independence import independent
from robassay.probe import as_classifier, probe
from robassay.rng import Stream

X = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A linear net whose noise is shared between rows in some way."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 4)
        self.kind = kind

    def forward(self, x):
        z = self.linear(x.flatten(1))
        own, shared, half = torch.randn_like(z), torch.randn(1, 4), torch.randn((len(z) + 1) // 2, 4)
        noise = {
            "own": lambda: own,
            "uniform": lambda: torch.rand_like(z),
            "own coin": lambda: 1.0 * (torch.rand(len(z), 1) < 0.5),
            "own scale": lambda: own * torch.rand(len(z), 1),
            "dropout": lambda: nn.functional.dropout(z, 0.5),
            "shared": lambda: shared,
            "weights": lambda: x.flatten(1) @ torch.randn(16, 4),
            "mostly own": lambda: own + 0.3 * shared,
            "in one class": lambda: torch.cat([own[:, 1:], shared[:, :1].expand(len(z), 1)], 1),
            "shared scale": lambda: own * (0.2 + 2 * torch.rand(())),
            "shared coin": lambda: (torch.rand(()) < 0.5).float() + 0.3 * own,
            "in pairs": lambda: half.repeat(2, 1)[: len(z)],
            "opposite pairs": lambda: torch.cat([half, -half])[: len(z)],
            "next to each other": lambda: half.repeat_interleave(2, 0)[: len(z)],
            "turned": lambda: torch.cat([half, half.flip(0)])[: len(z)],
            "sums to 0": lambda: own - own.mean(0),
        }[self.kind]()
        return z + 0.5 * noise


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        *((kind, True) for kind in ("own", "uniform", "own coin", "own scale", "dropout")),
        *((kind, False) for kind in ("shared", "weights", "mostly own", "in one class", "shared scale")),
        *((kind, False) for kind in ("shared coin", "in pairs", "opposite pairs", "next to each other", "turned")),
        ("sums to 0", False),
    ],
)
def test_rows(kind, found):
    assert independent(Wrapped(Net(kind), 4, stochastic=True), X, Stream((kind,))) is found


def test_large_images_are_not_asked():
    wide = torch.zeros(2, 3, 224, 224)
    model = Wrapped(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)), 4, stochastic=True)
    assert independent(model, wide, Stream()) is False


def test_folded_draws_have_the_moments_of_single_ones():
    """Mean and covariance of 4,000 draws, folded and one by one, and no two draws of a pass are equal."""
    module = Net("own").eval()
    model = as_classifier(module, probe(module, X), X)
    single = Wrapped(module, 4, stochastic=True)
    assert model.rows == "independent" and single.rows == "shared"
    folded, looped = (m.sample(m.prefix(X[:2]), 4000, Stream(("moments",))) for m in (model, single))
    assert len(model.groups(model.prefix(X[:2]), 4000)) < 10
    assert torch.allclose(folded.mean(0), looped.mean(0), atol=0.04)  # five standard errors of a difference
    assert torch.allclose(torch.cov(folded[:, 0].T), torch.cov(looped[:, 0].T), atol=0.03)
    assert float(torch.corrcoef(folded[:, :, 0].T)[0, 1].detach().abs()) < 0.08
    assert len(folded[:, 0].unique(dim=0)) == 4000
