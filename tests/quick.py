"""A module trained for a second on the digits: real enough for attacks to find something."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from robassay.data import find, pixels


def digits_net(make: Callable[[], nn.Module]) -> nn.Module:
    """The module after 150 steps of Adam, frozen and in eval mode; the same on every call."""
    images = find("digits").split("train")
    x, y = pixels(images.x), images.y
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = make()
        optimizer = torch.optim.Adam(module.parameters(), 5e-3)
        for _ in range(150):
            rows = torch.randint(len(y), (128,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
    return module.eval().requires_grad_(False)
