"""A BNN-S that begins from the signs of a trained BNN-D."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import robassay as ra
from robassay.data import pixels
from robassay.errors import UsageError
from robassay.models import Signed
from robassay.nets.binary import Binary
from robassay.nets.bnn import BNND, BNNS
from robassay.nets.mlp import MLP
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.run.worker import LocalContext
from robassay.store import Store

NARROW = (4, 6, 8)


def test_the_deterministic_network_stays_as_it_was(tmp_path: Path) -> None:
    data, store = ra.find("digits"), Store(tmp_path)
    plain = ra.Train(BNND(NARROW), data, Recipe(epochs=1, lr=5e-3), limit=200)
    begun = ra.Train(BNNS(NARROW), data, Recipe(epochs=1, lr=1e-9), limit=200, begin=Signed(plain))
    assert not carry_out([begun], store, 1, quiet=True).failed
    ctx = LocalContext(plain, store, torch.device("cpu"))
    before, signed, after = ctx.open(plain), ctx.open(Signed(plain)), ctx.open(plain)
    x = pixels(data.split("test").x[:50])
    assert torch.equal(signed(x), before(x))
    latent, signs, first = (
        {n: m.weight for n, m in model.named_modules() if isinstance(m, Binary)}
        for model in (after, signed, ctx.open(begun))
    )
    assert all(torch.equal(signs[n], latent[n].sign()) and not torch.equal(signs[n], latent[n]) for n in latent)
    assert all((first[n] - signs[n]).abs().max() < 1e-6 for n in latent)


def test_a_network_without_signs_is_refused(tmp_path: Path) -> None:
    data, store = ra.find("digits"), Store(tmp_path)
    mlp = ra.Train(MLP((8,)), data, Recipe(epochs=1), limit=100)
    carry_out([mlp], store, 1, quiet=True)
    with pytest.raises(UsageError, match="no binarised layer"), Stream(("t",)).active():
        LocalContext(mlp, store, torch.device("cpu")).open(Signed(mlp))
