"""Data sets: embedded, by name, by path, by hub id; their checksums, cache and messages."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from robassay import data, hub, images
from robassay.errors import UsageError

DIGITS = "0741fc0a9500f2a9"


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """An own cache folder, no data folder, nothing remembered from another test."""
    monkeypatch.setenv(data.CACHE, str(tmp_path / "cache"))
    if not request.node.get_closest_marker("data"):
        monkeypatch.delenv(data.FOLDER, raising=False)
    forget()
    yield
    forget()


def forget() -> None:
    data._split.cache_clear()
    data._contents.cache_clear()


def encoded(array: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(out, kind)
    return out.getvalue()


def noise(n: int, *size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *size), dtype=np.uint8)


def write(
    file: Path,
    blobs: list[bytes | None],
    labels: list[Any],
    *,
    image: str = "image",
    label: str = "label",
    packed: bool = True,  # otherwise raw bytes
) -> Path:
    """A parquet file in the Hugging Face layout, or with raw bytes."""
    cells = pa.array([{"bytes": b, "path": None} for b in blobs], HF) if packed else pa.array(blobs, pa.binary())
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: cells, label: pa.array(labels)}), file)
    return file


HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def grey(file: Path, n: int = 4, size: tuple[int, int] = (28, 28), seed: int = 0) -> Path:
    return write(file, [encoded(a) for a in noise(n, *size, seed=seed)], [i % 10 for i in range(n)])


# ------------------------------------------------------------------------------------------------ digits


def test_digits_are_fixed() -> None:
    found = data.find()
    assert (found.name, found.checksum, found.classes, found.shape) == ("digits", DIGITS, 10, (1, 8, 8))
    assert found.location is None and found.note == ""
    splits = {s: found.split(s) for s in images.SPLITS}
    assert [len(s.y) for s in splits.values()] == [1200, 237, 360]
    assert splits["train"].y[:10].tolist() == [0, 4, 0, 7, 5, 5, 5, 7, 9, 7]
    assert splits["train"].x.dtype == torch.uint8 and splits["train"].y.dtype == torch.int64


def test_digits_splits_make_up_the_whole_set_once() -> None:
    from sklearn.datasets import load_digits

    found = data.find("Digits", data_dir="nowhere")
    x = torch.cat([found.split(s).x for s in images.SPLITS]).flatten(1)
    raw = torch.from_numpy(load_digits().data)
    ours = sorted(map(tuple, x.tolist()))
    assert ours == sorted(map(tuple, (raw * 255 / 16).round().to(torch.uint8).tolist()))
    assert all(found.split(s).y.bincount(minlength=10).min() > 10 for s in images.SPLITS)


def test_pixels_lie_in_the_unit_interval() -> None:
    x = data.pixels(data.find().split("val").x)
    assert x.dtype == torch.float32 and float(x.min()) == 0 and float(x.max()) == 1
    with pytest.raises(UsageError, match=r"uint8"):
        data.pixels(x)


# ---------------------------------------------------------------------------------------- the named sets


@pytest.mark.parametrize("name", [n for n in data.NAMES if n != "digits"])
def test_named_sets_from_a_folder(name: str, tmp_path: Path) -> None:
    known = data.NAMES[name]
    size = known.native or known.shape[1:]
    arrays = noise(20, *size) if known.shape[0] == 1 else noise(20, *size, 3)
    image, label = ("img", "fine_label") if name == "cifar100" else ("image", "label")
    labels: list[Any] = [i % known.classes for i in range(20)]
    if name == "pcam":
        labels = [bool(y) for y in labels]
    for split in ("train", "test"):
        write(tmp_path / f"{name}-{split}.parquet", [encoded(a) for a in arrays], labels, image=image, label=label)
    found = data.find(name, tmp_path)
    assert (found.name, found.classes, found.shape) == (name, known.classes, known.shape)
    assert [len(found.split(s).y) for s in images.SPLITS] == [18, 2, 20]
    test = found.split("test")
    assert test.y.tolist() == [int(y) for y in labels]
    if known.native is None:
        assert torch.equal(test.x, torch.from_numpy(arrays).reshape(20, *size, known.shape[0]).permute(0, 3, 1, 2))
    assert f"20 test images, the published data set {known.sizes['test']:,}" in found.note
    assert "JPEG" not in found.note and known.source and known.hub


def test_pcam_is_resized_with_antialiasing_and_keeps_its_own_val(tmp_path: Path) -> None:
    fine = np.indices((96, 96)).sum(0) % 2 * np.uint8(255)  # a chessboard must become even grey
    board = encoded(np.repeat(fine[:, :, None], 3, 2).astype(np.uint8))
    for split in ("train", "valid", "test"):
        write(tmp_path / "pcam" / f"{split}-00000-of-00001-4ab.parquet", [board] * 3, [0, 1, 1])
    found = data.find("pcam", tmp_path)
    assert [len(found.split(s).y) for s in images.SPLITS] == [3, 3, 3]
    inner = found.split("val").x[:, :, 2:-2, 2:-2].float()
    assert float((inner - 127.5).abs().max()) < 16


def test_ten_means_zero_in_svhn(tmp_path: Path) -> None:
    write(tmp_path / "svhn_test.parquet", [encoded(a) for a in noise(3, 32, 32, 3)], [10, 1, 9])
    assert data.find("svhn", tmp_path).split("test").y.tolist() == [0, 1, 9]


def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for i in (1, 0):
        grey(tmp_path / "fashion-mnist" / "data" / f"train-{i:05d}-of-00002.parquet", 3 + i, seed=i)
    found = data.find("FashionMNIST", tmp_path)
    assert found.name == "fashion_mnist" and found.split("train").y.tolist() == [0, 1, 2, 0, 1, 2, 3]


def test_the_folder_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey(tmp_path / "mnist-test.parquet")
    monkeypatch.setenv(data.FOLDER, str(tmp_path))
    assert data.find("mnist").location == str(tmp_path)


def test_val_is_the_last_tenth_and_at_most_5000() -> None:
    y = torch.arange(60_000)
    made = data._with_val({"test": data.Images(y, y), "train": data.Images(y, y)})
    assert list(made) == ["train", "val", "test"]
    assert len(made["train"].y) == 55_000 and made["val"].y[0] == 55_000
    assert "val" not in data._with_val({"train": data.Images(y[:9], y[:9])})


def test_jpeg_copies_say_so(tmp_path: Path) -> None:
    blobs: list[bytes | None] = [encoded(a, "JPEG") for a in noise(3, 32, 32, 3)]
    assert "lossy JPEG" in data.find(str(write(tmp_path / "mine.parquet", blobs, [0, 1, 2]))).note


# -------------------------------------------------------------------------------------- paths and folders


def test_a_parquet_file_with_raw_bytes_is_a_test_split(tmp_path: Path) -> None:
    arrays = noise(3, 5, 6)
    file = write(tmp_path / "mine.parquet", [encoded(a) for a in arrays], [0, 3, 1], packed=False)
    found = data.find(str(file))
    assert (found.name, found.classes, found.shape, found.note) == (str(file), 4, (1, 5, 6), "")
    assert torch.equal(found.split("test").x[:, 0], torch.from_numpy(arrays))


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        grey(tmp_path / f"{split}.parquet", 20, (7, 7))
    assert len(data.find(str(tmp_path)).split("val").y) == 2


def class_folder(root: Path, splits: tuple[str, ...] = ("train", "test"), n: int = 10) -> Path:
    for split in splits:
        for c, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                shade = np.full((6, 4, 3), 100 * c + i, np.uint8)
                (root / split / name / f"{i}.png").write_bytes(encoded(shade))
    return root


def test_class_folders_mix_their_classes_in_a_fixed_order(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "mine")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    found = data.find(str(root))
    assert (found.classes, found.shape) == (2, (3, 6, 4))
    train, val = found.split("train"), found.split("val")
    assert sorted(train.x[:, 0, 0, 0].tolist() + val.x[:, 0, 0, 0].tolist()) == [*range(10), *range(100, 110)]
    assert torch.equal(train.y, (train.x[:, 0, 0, 0] >= 100).long())
    assert set(train.y[:9].tolist()) == {0, 1}
    moved = class_folder(tmp_path / "elsewhere")
    assert data.find(str(moved)).checksum == found.checksum


def test_palettes_and_alpha_become_rgb(tmp_path: Path) -> None:
    base = noise(1, 6, 4, 3)[0] // 64 * 64
    blobs: list[bytes | None] = [encoded(base, mode=mode) for mode in ("RGB", "RGBA", "P")]
    x = data.find(str(write(tmp_path / "m.parquet", blobs, [0, 1, 0]))).split("test").x
    assert torch.equal(x[0], x[1]) and x.shape == (3, 3, 6, 4)


# --------------------------------------------------------------------------------------------- messages


def cut(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[:-200])
    return file


def hole(file: Path) -> Path:
    """Damage inside the data pages, under an intact footer."""
    raw = bytearray(file.read_bytes())
    raw[4:200] = bytes(196)
    file.write_bytes(raw)
    return file


def parquet(tmp_path: Path, labels: list[Any], arrays: list[np.ndarray] | None = None, **how: Any) -> str:
    arrays = arrays or list(noise(len(labels), 28, 28))
    return str(write(tmp_path / "mine.parquet", [encoded(a) for a in arrays], labels, **how))


def mixed_folder(tmp_path: Path) -> str:
    root = class_folder(tmp_path / "mine", ("test",))
    (root / "test" / "dog" / "big.png").write_bytes(encoded(noise(1, 9, 9, 3)[0]))
    return str(root)


def extra_class(tmp_path: Path) -> str:
    root = class_folder(tmp_path / "mine")
    (root / "test" / "dog").rename(root / "test" / "dgo")
    return str(root)


def empty_class(tmp_path: Path) -> str:
    root = class_folder(tmp_path / "mine")
    (root / "test" / "ant").mkdir()
    return str(root)


def text_file(tmp_path: Path) -> str:
    (tmp_path / "mine.csv").write_text("image,label\n")
    return str(tmp_path / "mine.csv")


def other_sets(tmp_path: Path) -> str:
    grey(tmp_path / "mnist-test.parquet")
    return str(tmp_path)


BAD: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "misspelt": (lambda p: "minst", ["minst", "Did you mean 'mnist'"]),
    "empty": (lambda p: "", ["unknown data set ''"]),
    "no such path": (lambda p: "./no/such", ["'./no/such'", "check the path"]),
    "not at hand": (lambda p: "mnist", ["not at hand", "ROBASSAY_DATA", "--data-dir", "hub:mnist", "robassay[hub]"]),
    "a file of another kind": (text_file, ["mine.csv", "parquet"]),
    "an empty folder": (str, ["CLASS/IMAGE.png", "train*.parquet"]),
    "named sets by path": (other_sets, ["mnist-test.parquet", "--data NAME --data-dir"]),
    "negative label": (lambda p: parquet(p, [0, -1]), ["mine.parquet, row 1", "-1"]),
    "null label": (lambda p: parquet(p, [0, None]), ["mine.parquet, row 1", "None", "whole numbers"]),
    "text label": (lambda p: parquet(p, ["cat"]), ["row 0", "'cat'", "whole numbers"]),
    "fractional label": (lambda p: parquet(p, [0.5]), ["row 0", "0.5"]),
    "absurd label": (lambda p: parquet(p, [2**40]), ["row 0", str(2**40), "0..32766"]),
    "mixed sizes": (mixed_folder, ["big.png is 9×9 RGB", "6×4 RGB", "one size"]),
    "mixed modes": (
        lambda p: parquet(p, [0, 1], [noise(1, 28, 28)[0], noise(1, 28, 28, 3)[0]]),
        ["row 1 is 28×28 RGB", "28×28 grey"],
    ),
    "sixteen bits": (lambda p: parquet(p, [0], [np.zeros((4, 4), np.uint16)]), ["I;16", "8-bit"]),
    "no images": (lambda p: parquet(p, pa.array([], pa.int64())), ["holds no images"]),
    "truncated": (
        lambda p: str(cut(Path(parquet(p, [0] * 9)))),
        ["mine.parquet", "not a readable parquet", "cut short"],
    ),
    "damaged page": (lambda p: str(hole(Path(parquet(p, [0] * 9)))), ["mine.parquet", "from row 0 on"]),
    "no image column": (lambda p: parquet(p, [0], image="photo"), ["photo, label", "'image'", "rename"]),
    "no label column": (lambda p: parquet(p, [0], label="y"), ["image, y", "'label'", "rename"]),
    "image column of numbers": (
        lambda p: (pq.write_table(pa.table({"image": [1], "label": [0]}), p / "m.parquet"), str(p / "m.parquet"))[1],
        ["m.parquet", "int64", "PNG"],
    ),
    "corrupt image": (
        lambda p: str(write(p / "m.parquet", [encoded(noise(1, 8, 8)[0]), b"\x89PNG no"], [0, 1])),
        ["m.parquet, row 1", "not a readable image"],
    ),
    "image cut short": (
        lambda p: str(write(p / "m.parquet", [encoded(noise(1, 40, 40)[0])[:-300]], [0])),
        ["m.parquet, row 0", "not a readable image"],
    ),
    "no bytes": (lambda p: str(write(p / "m.parquet", [None], [0])), ["m.parquet, row 0", "no image bytes"]),
    "class only in test": (extra_class, ["'dgo'", "train"]),
    "class without images": (empty_class, ["ant", "no image files"]),
    "digits on the hub": (lambda p: "hub:digits", ["scikit-learn", "--data digits"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_explained(case: str, tmp_path: Path) -> None:
    make, words = BAD[case]
    given, began = make(tmp_path), time.monotonic()
    with pytest.raises(UsageError) as caught:
        data.find(given)
    assert time.monotonic() - began < 5
    assert [w for w in words if w not in str(caught.value)] == [], str(caught.value)


@pytest.mark.parametrize(
    ("name", "size", "label", "words"),
    [
        ("mnist", (28, 28), 10, ["row 0", "the label 10", "0..9"]),
        ("svhn", (32, 32, 3), 11, ["row 0", "the label 11", "0..9"]),
        ("mnist", (32, 32), 0, ["32×32 grey", "28×28 grey"]),
        ("cifar10", (32, 32), 0, ["32×32 grey", "32×32 RGB"]),
        ("pcam", (64, 64, 3), 0, ["64×64 RGB", "32×32 RGB"]),
    ],
)
def test_named_sets_demand_their_labels_and_shape(
    name: str, size: tuple[int, ...], label: int, words: list[str], tmp_path: Path
) -> None:
    write(tmp_path / f"{name}-test.parquet", [encoded(noise(1, *size)[0])], [label])
    with pytest.raises(UsageError) as caught:
        data.find(name, tmp_path)
    assert [w for w in words if w not in str(caught.value)] == [], str(caught.value)


def test_files_that_contradict_each_other(tmp_path: Path) -> None:
    grey(tmp_path / "mnist-train.parquet")
    twin = grey(tmp_path / "mnist_train.parquet")
    with pytest.raises(UsageError, match=r"several files for the train split"):
        data.find("mnist", tmp_path)
    twin.unlink()
    (tmp_path / "mnist-train.parquet").rename(tmp_path / "mnist-train-00000-of-00002.parquet")
    with pytest.raises(UsageError, match=r"1 of 2 files of the train split"):
        data.find("mnist", tmp_path)


def test_splits_of_different_sizes(tmp_path: Path) -> None:
    grey(tmp_path / "train.parquet", size=(8, 8))
    grey(tmp_path / "test.parquet", size=(9, 9))
    with pytest.raises(UsageError, match=r"differ in image size.*train \(1, 8, 8\), test \(1, 9, 9\)"):
        data.find(str(tmp_path))


def test_not_at_hand_names_the_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        data.find("svhn", tmp_path / "typo")
    assert f"{tmp_path / 'typo'} (no such folder)" in str(caught.value) and "svhn-train.parquet" in str(caught.value)


def test_a_folder_of_classes_has_only_a_test_split(tmp_path: Path) -> None:
    root = class_folder(tmp_path, ("mine",)) / "mine"
    found = data.find(str(root))
    assert len(found.split("test").y) == 20
    with pytest.raises(UsageError, match=r"no train split, only test"):
        found.split("train")
    with pytest.raises(UsageError, match=r"unknown split 'tset'. Did you mean 'test'"):
        found.split("tset")  # type: ignore[arg-type]


def test_data_changed_after_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey(tmp_path / "one" / "mnist-test.parquet", seed=1)
    found = data.find("mnist", tmp_path / "one")
    shutil.move(tmp_path / "one", tmp_path / "two")
    monkeypatch.setenv(data.FOLDER, str(tmp_path / "two"))
    assert len(found.split("test").y) == 4  # lies elsewhere now: the same data all the same
    forget()
    grey(tmp_path / "two" / "mnist-test.parquet", seed=2)
    with pytest.raises(UsageError, match=rf"has changed.*{found.checksum}"):
        found.split("test")


# -------------------------------------------------------------------------------------- cache and progress


def test_the_second_load_does_not_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey(tmp_path / "mnist-train.parquet", 20)
    first = data.find("mnist", tmp_path)
    train = first.split("train")
    forget()
    monkeypatch.setattr(images, "decode", lambda *a, **k: pytest.fail("decoded again"))
    again = data.find("mnist", tmp_path)
    assert again == first and torch.equal(again.split("train").x, train.x)
    assert again.split("train").x is again.split("train").x
    assert [f.suffix for f in (tmp_path / "cache").iterdir()] == [".safetensors"]


@pytest.mark.parametrize("left", [0, 50, -10])
def test_a_truncated_cache_is_rebuilt(left: int, tmp_path: Path) -> None:
    grey(tmp_path / "mnist-train.parquet", 20)
    first = data.find("mnist", tmp_path)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    forget()
    file.write_bytes(whole[:left])
    assert data.find("mnist", tmp_path) == first
    assert file.stat().st_size == len(whole)


def test_it_works_without_a_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(data.CACHE, str(tmp_path / "file" / "cache"))
    grey(tmp_path / "mnist-test.parquet")
    assert len(data.find("mnist", tmp_path).split("test").y) == 4


def test_digits_need_no_cache(tmp_path: Path) -> None:
    data.find().split("test")
    assert not (tmp_path / "cache").exists()


def test_long_work_shows_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    grey(tmp_path / "mnist-test.parquet", 200)
    data.find("mnist", tmp_path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(images, "PATIENCE", -1.0)
    grey(tmp_path / "mnist-test.parquet", 200, seed=1)
    data.find("mnist", tmp_path)
    assert capsys.readouterr().err == "decoding mnist-test.parquet (200 images) …\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    grey(tmp_path / "mnist-test.parquet", 200, seed=2)
    assert len(data.find("mnist", tmp_path).split("test").y) == 200
    assert capsys.readouterr().out == ""


# ----------------------------------------------------------------------------------------------- the hub


class Split:
    """As much of a `datasets.Dataset` as is used."""

    column_names = ("image", "label")

    def __init__(self, rows: list[dict[str, Any]], file: Path) -> None:
        self.rows, self.cache_files = rows, [{"filename": str(file)}]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def select_columns(self, names: list[str]) -> Split:
        return self

    def cast_column(self, name: str, kind: object) -> Split:
        return self


def stub(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> types.ModuleType:
    module: Any = types.ModuleType("datasets")
    module.config = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    module.Image = lambda decode: None
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.arrow").write_bytes(b"whatever")
    asked: list[tuple[str, str | None, bool]] = []

    def load(ident: str, config: str | None) -> dict[str, Split]:
        asked.append((ident, config, module.config.HF_HUB_OFFLINE))
        if not module.config.HF_HUB_OFFLINE:
            rows = [{"image": {"bytes": encoded(a), "path": None}, "label": 10} for a in noise(4, 32, 32, 3)]
            return {"test": Split(rows, tmp_path / "x.arrow"), "extra": Split([], tmp_path / "x.arrow")}
        raise ConnectionError("no copy yet")

    module: Any = stub(monkeypatch, load)
    monkeypatch.setattr(hub, "_reachable", lambda url: True)
    found = data.find("hub:svhn")
    assert (found.name, found.location, found.shape) == ("svhn", "hub", (3, 32, 32))
    assert asked == [("ufldl-stanford/svhn", "cropped_digits", off) for off in (True, False)]
    assert found.split("test").y.tolist() == [0, 0, 0, 0] and module.config.HF_HUB_OFFLINE is False
    assert data.find("hub:someone/thing").name == "hub:someone/thing"


def test_hub_trouble_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*names: str) -> Any:
        raise FileNotFoundError("no such data set\nmore")

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"'hub:mnist'.*pip install 'robassay\[hub\]'"):
        data.find("hub:mnist")
    stub(monkeypatch, load)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "_reachable", lambda url: False)
    with pytest.raises(UsageError, match=r"'hub:mnist'.*cannot be reached.*--data-dir"):
        data.find("hub:mnist")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match=r"HF_HUB_OFFLINE forbids"):
        data.find("hub:mnist")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "_reachable", lambda url: True)
    with pytest.raises(UsageError, match=r"could not be loaded \(FileNotFoundError: no such data set\)"):
        data.find("hub:a/b")


def test_an_unreachable_host_is_noticed_quickly() -> None:
    began = time.monotonic()
    assert not hub._reachable("https://robassay.invalid")
    assert not hub._reachable("127.0.0.1:1")
    assert time.monotonic() - began < 5


# ------------------------------------------------------------------------------------------ check_images


GOOD = torch.full((4, 3, 8, 8), 0.5)
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("x", [GOOD, GOOD.double(), (GOOD * 255).to(torch.uint8)])
def test_good_images_pass(x: torch.Tensor) -> None:
    data.check_images(x, LABELS, 3)
    data.check_images(x, LABELS)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2], LABELS, ["list", "torch tensors"]),
        (GOOD[0], LABELS, ["(3, 8, 8)", "(N, C, H, W)"]),
        (GOOD[:0], LABELS[:0], ["(0, 3, 8, 8)"]),
        (GOOD.permute(0, 2, 3, 1), LABELS, ["(4, 8, 8, 3)", "permute(0, 3, 1, 2)"]),
        (GOOD.long(), LABELS, ["torch.int64", "[0, 1]"]),
        (GOOD * 400, LABELS, ["[200, 200]", "divide by 255"]),
        (GOOD * 4 - 3, LABELS, ["[-1, -1]", "normalisation"]),
        (GOOD / 0, LABELS, ["infinity"]),
        (torch.where(GOOD.cumsum(0) > 1.6, torch.nan, GOOD), LABELS, ["NaN", "row 3"]),
        (GOOD, LABELS.int(), ["torch.int32", "y.long()"]),
        (GOOD, torch.eye(4).long(), ["(4, 4)", "argmax"]),
        (GOOD, LABELS[:3], ["3 labels", "4 images"]),
        (GOOD, LABELS - 1, ["row 0", "-1"]),
        (GOOD, LABELS + 1, ["row 2", "is 3", "0..2"]),
    ],
)
def test_bad_images_are_explained(x: Any, y: torch.Tensor, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        data.check_images(x, y, 3)
    assert [w for w in words if w not in str(caught.value)] == [], str(caught.value)


# -------------------------------------------------------------------------------------------- real images


@pytest.mark.data
def test_real_mnist() -> None:
    found = data.find("mnist", os.environ["ROBASSAY_DATA"])
    assert found.note == ""
    assert [len(found.split(s).y) for s in images.SPLITS] == [55_000, 5_000, 10_000]
    assert found.split("train").y[:5].tolist() == [5, 0, 4, 1, 9]
    x = torch.cat([found.split("train").x, found.split("val").x]).double() / 255
    assert abs(float(x.mean()) - 0.13066) < 1e-5 and abs(float(x.std()) - 0.30811) < 1e-5
    forget()
    began = time.monotonic()
    found.split("train")
    assert time.monotonic() - began < 1


@pytest.mark.data
def test_real_cifar10() -> None:
    found = data.find("cifar10", os.environ["ROBASSAY_DATA"])
    assert (found.classes, found.shape) == (10, (3, 32, 32))
    assert [len(found.split(s).y) for s in images.SPLITS] == [45_000, 5_000, 10_000]
    first = found.split("train").y[:4].tolist()
    assert ("lossy JPEG" in found.note) == (first != [6, 9, 9, 4])  # the original starts with frog, truck, truck, deer


def test_what_is_not_at_hand_is_none_and_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.FOLDER, raising=False)
    assert data.at_hand("pcam") is None and data.at_hand("mnist", tmp_path) is None
    found = data.at_hand("digits")
    assert found is not None and found.name == "digits"
    with pytest.raises(UsageError, match="unknown data set"):
        data.at_hand("nowhere")
