"""A module in memory is audited: a network behind a noisy layer, trained here on digits.

Run:   python examples/audit_a_module.py
Cost:  about ten seconds of one core.

Prints:
    overstated because of steps: claimed … %, strongest attack … %
    random: True | images: 100
"""

import torch
from torch import nn

import robassay as ra
from robassay.data import pixels


class Noisy(nn.Module):
    """Noise between two layers, in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 100), nn.Linear(100, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 8, 8) in [0,1] → logits (B, 10)."""
        hidden = self.first(images.flatten(1)).relu()
        return self.last(hidden + 0.5 * torch.randn_like(hidden))


def main() -> None:
    """Train, audit, print."""
    digits = ra.find("digits")
    train, test = digits.split("train"), digits.split("test")
    torch.manual_seed(0)
    model = Noisy()
    learner = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(200):
        rows = torch.randint(len(train.y), (128,))
        learner.zero_grad()
        nn.functional.cross_entropy(model(pixels(train.x[rows])), train.y[rows]).backward()
        learner.step()
    found = ra.audit(model, (test.x, test.y), linf=0.1, examples=100, draws=20, quiet=True)
    claimed, left = (100 * found[name]["value"] for name in ("claimed", "robust"))
    print(f"{found['verdict']} because of {found['cause']}: claimed {claimed:.1f} %, strongest attack {left:.1f} %")
    print(f"random: {found['stochastic']} | images: {found['robust']['n']}")


if __name__ == "__main__":
    main()
