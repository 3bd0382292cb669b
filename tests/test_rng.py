"""Streams: the same name gives the same bits, whatever else happened."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from robassay.rng import Stream, identities, normal, uniform


def drawn() -> tuple[float, float, float]:
    """One number from each global generator."""
    return torch.rand(1).item(), random.random(), float(np.random.rand())


def test_the_same_key_gives_the_same_bits():
    a, b = Stream(("craft", 3)), Stream(("craft",)).child(3)
    assert a == b and a.seed() == b.seed()
    assert torch.equal(torch.rand(9, generator=a.generator()), torch.rand(9, generator=b.generator()))


def test_different_keys_give_different_seeds():
    keys = [(), (1,), ("1",), (1, 1), (11,), ("a", "b"), ("b", "a"), ("ab",), ("a", 1), ("a1",), (-1,), (0,), ("",)]
    assert len({Stream(key).seed() for key in keys}) == len(keys)
    many = {Stream(("score", i)).seed() for i in range(20_000)}
    assert len(many) == 20_000
    # The CPU generator looks at the low 32 bits alone, so they must be spread, too.
    assert len({seed % 2**32 for seed in many}) > 19_990


def test_an_index_from_numpy_names_the_same_stream():
    assert Stream(("a", np.int64(7))).seed() == Stream(("a", 7)).seed()


def test_seeds_are_pinned():
    """Stored results name their streams by key: another hash would silently change every number."""
    assert Stream(("score", 0)).seed() == 148_615_100_468_059_977


def test_active_seeds_every_global_generator():
    with Stream(("a",)).active():
        first = drawn()
    drawn()
    with Stream(("a",)).active():
        again = drawn()
    with Stream(("b",)).active():
        other = drawn()
    assert first == again
    assert all(x != y for x, y in zip(first, other, strict=True))


def test_active_restores_the_global_generators():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = [drawn() for _ in range(3)]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    found = [drawn()]
    with Stream(("a",)).active():
        drawn()
        with Stream(("b",)).active():
            drawn()
    found.append(drawn())
    with pytest.raises(ValueError), Stream(("a",)).active():
        drawn()
        raise ValueError
    found.append(drawn())
    assert found == expected


def test_a_nested_stream_does_not_disturb_the_outer_one():
    with Stream(("a",)).active():
        expected = [drawn(), drawn()]
    with Stream(("a",)).active():
        found = [drawn()]
        with Stream(("b",)).active():
            drawn()
        found.append(drawn())
    assert found == expected


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_rows_numbers_do_not_depend_on_its_mates(draw):
    x = torch.rand(6, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    rng = Stream(("start",))
    together = draw(x, rng)
    assert together.shape == x.shape and together.dtype == x.dtype
    assert torch.equal(draw(x.flip(0), rng).flip(0), together)
    assert torch.equal(torch.cat([draw(row, rng) for row in x.split(1)]), together)
    assert torch.equal(draw(x.transpose(2, 3).transpose(2, 3), rng), together)  # not contiguous
    assert not torch.equal(draw(x, rng.child(1)), together)
    assert len({row.sum().item() for row in together}) == 6
    assert draw(x[:0], rng).shape == (0, 2, 3, 3)


def test_uniform_and_normal_have_their_distributions():
    x = torch.rand(200, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    u, z = uniform(x, Stream()), normal(x, Stream())
    assert u.min() >= 0 and u.max() < 1
    n = u.numel()
    assert abs(u.mean() - 0.5) < 4 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 0.003
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
    # Rows are independent of each other: the mean over rows has the variance of independent numbers.
    assert abs(z.mean(0).var() * 200 - 1) < 0.6


def test_identities_depend_on_the_pixels_alone():
    x = torch.rand(3, 1, 2, 2)
    assert identities(x) == identities(x.clone())
    assert identities(x)[1:] == identities(x[1:])
    assert len(set(identities(x))) == 3
