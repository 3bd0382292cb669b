"""Trained weights that travel: what is taken over, what is refused, and that nothing is trained again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robassay.adopt import adopt, share
from robassay.cells import Examples, Score
from robassay.data import find
from robassay.errors import UsageError
from robassay.models import Train
from robassay.nets.mlp import MLP
from robassay.plan import plan
from robassay.recipe import Recipe
from robassay.run import carry_out
from robassay.store import Store


def score(width: int) -> Score:
    data = find("digits")
    return Score(Train(MLP((width,)), data, Recipe(epochs=1)), Examples(data, "test", 0, 20))


@pytest.fixture
def trained(tmp_path: Path) -> Store:
    store = Store(tmp_path / "first")
    assert not carry_out([score(8), score(64)], store, 0, silent=True).failed
    return store


def test_a_second_store_takes_the_weights_and_trains_nothing(tmp_path: Path, trained: Store) -> None:
    wanted, folder = [score(8), score(64)], tmp_path / "weights"
    assert len(share(wanted, trained, folder, most=10).written) == 2
    other = Store(tmp_path / "second")
    done = adopt(wanted, other, folder)
    assert len(done.taken) == 2 and not done.had and not done.unasked
    assert [type(c) for c in plan(wanted, other).todo] == [Score, Score]
    for one in wanted:
        ours, theirs = other.read(one.target.key), trained.read(one.target.key)
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[n], theirs[n]) for n in ours)
        about = other.about(one.target.key)
        assert about["adopted"] and about["machine"] == trained.about(one.target.key)["machine"]
    assert not carry_out(wanted, other, 0, silent=True).failed
    assert np.array_equal(other.read(wanted[0].key)["decisions"], trained.read(wanted[0].key)["decisions"])
    assert adopt(wanted, other, folder).had == done.taken


def test_what_trained_longest_per_byte_comes_first(
    tmp_path: Path, trained: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large network that took long goes before a small one that did not, and one that does not fit hides none."""
    small, large = score(8).target.key, score(64).target.key
    sizes = {key: (trained.folder(key) / "out.safetensors").stat().st_size for key in (small, large)}
    assert sizes[small] < sizes[large]
    told = Store.about
    long = {small: 1.0, large: 1000.0}
    monkeypatch.setattr(Store, "about", lambda self, key: {**told(self, key), "seconds": long[key]})
    wanted, room = [score(8), score(64)], sizes[large] / 1e6
    done = share(wanted, trained, tmp_path / "a", most=room)
    assert (done.written, done.left_out) == ((large,), (small,))
    done = share(wanted, trained, tmp_path / "b", most=(sizes[large] - 1) / 1e6)
    assert (done.written, done.left_out) == ((small,), (large,))
    done = share(wanted, trained, tmp_path / "b", most=room)  # the small one is there, and stays
    assert (done.written, done.left_out) == ((small,), (large,))


def test_what_was_not_asked_for_is_left(tmp_path: Path, trained: Store) -> None:
    folder = tmp_path / "weights"
    share([score(8), score(64)], trained, folder, most=10)
    other = Store(tmp_path / "second")
    done = adopt([score(64)], other, folder)
    assert done.taken == (score(64).target.key,) and done.unasked == (score(8).target.key,)
    assert not other.has(score(8).target.key)


def test_the_smallest_come_first_and_the_folder_stays_small(tmp_path: Path, trained: Store) -> None:
    folder = tmp_path / "weights"
    done = share([score(8), score(64)], trained, folder, most=0.01)
    assert done.written == (score(8).target.key,) and done.left_out == (score(64).target.key,)
    assert len(list(folder.glob("*.safetensors"))) == 1
    share([score(64)], trained, folder, most=10)
    assert len(json.loads((folder / "index.json").read_text())["cells"]) == 2


@pytest.mark.parametrize("harm", ["flip", "gone", "other", "no safetensors", "another cell", "no description"])
def test_one_bad_file_and_nothing_is_adopted(tmp_path: Path, trained: Store, harm: str) -> None:
    wanted, folder = [score(8), score(64)], tmp_path / "weights"
    share(wanted, trained, folder, most=10)
    files = sorted(folder.glob("*.safetensors"))
    if harm == "flip":
        content = bytearray(files[1].read_bytes())
        content[-1] ^= 1
        files[1].write_bytes(content)
    elif harm == "gone":
        files[1].unlink()
    elif harm == "other":
        files[1].write_bytes(files[0].read_bytes())
    elif harm in ("another cell", "no description"):
        index = json.loads((folder / "index.json").read_text())
        a, b = index["cells"].values()
        if harm == "no description":
            del b["about"]
        else:
            a["about"], b["about"] = b["about"], a["about"]
        (folder / "index.json").write_text(json.dumps(index))
    else:
        import hashlib

        index = json.loads((folder / "index.json").read_text())
        files[1].write_bytes(b"nonsense")
        index["cells"][files[1].stem]["sha256"] = hashlib.sha256(b"nonsense").hexdigest()
        (folder / "index.json").write_text(json.dumps(index))
    other = Store(tmp_path / "second")
    with pytest.raises(UsageError, match="Nothing was adopted"):
        adopt(wanted, other, folder)
    assert not other.done()


@pytest.mark.parametrize(
    ("index", "said"),
    [(None, "has no index.json"), ("{", "is damaged"), ('{"cells": {}}', "is damaged"), ('{"format": 9}', "format 9")],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, index: str | None, said: str) -> None:
    if index is not None:
        (tmp_path / "index.json").write_text(index)
    with pytest.raises(UsageError, match=said):
        adopt([score(8)], Store(tmp_path / "store"), tmp_path)
