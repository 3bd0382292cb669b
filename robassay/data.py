"""Named data sets, parquet files and image folders → uint8 tensors in a fixed order, with a checksum.

`find` gives a `Data`, a small reference that can be hashed and sent to another machine; `Data.split` gives the
images. What was decoded once lies as one safetensors file in the cache folder (ROBASSAY_CACHE, otherwise
~/.cache/robassay); without a writable cache everything works, only slower.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robassay import images
from robassay.errors import UsageError, suggest

FOLDER = "ROBASSAY_DATA"  # environment variable: where the parquet files of the named sets lie
CACHE = "ROBASSAY_CACHE"
VERSION = 1  # raise it when the same files would be decoded differently
HUB = "hub:"
DIGITS_SPLITS = (1200, 237, 360)
MOST_VAL = 5000
_INSIDE = ("", "data", "mnist", "fashion_mnist", "plain_text", "cifar100", "cropped_digits")  # as the hub lays them out


class _NoSplit(UsageError):
    """The set has no such split."""


class Images(NamedTuple):
    """One split, in stored order. The tensors are shared within the process: do not write into them."""

    x: Tensor  # uint8 (N, C, H, W)
    y: Tensor  # int64 (N,)


@dataclass(frozen=True)
class Named:
    """A published data set: its citation, shape (C, H, W), hub id and images per split as published."""

    name: str
    summary: str
    source: str
    classes: int
    shape: tuple[int, int, int]
    hub: str  # 'owner/name' or 'owner/name:configuration'; empty: not on the hub
    sizes: dict[str, int]
    native: tuple[int, int] | None = None  # (H, W) as published, where it is resized to `shape`
    zero: int | None = None  # a label that stands for class 0


def _named() -> Iterable[Named]:
    grey, colour, usual = (1, 28, 28), (3, 32, 32), {"train": 50_000, "test": 10_000}
    krizhevsky = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    yield Named(
        "digits", "handwritten digits, 8×8 grey, part of scikit-learn",
        "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (test part)",
        10, (1, 8, 8), "", dict(zip(images.SPLITS, DIGITS_SPLITS, strict=True)),
    )  # fmt: skip
    yield Named(
        "mnist", "handwritten digits, 28×28 grey",
        "LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998",
        10, grey, "ylecun/mnist", {"train": 60_000, "test": 10_000},
    )  # fmt: skip
    yield Named(
        "fashion_mnist", "articles of clothing, 28×28 grey", "Xiao, Rasul and Vollgraf, arXiv:1708.07747, 2017",
        10, grey, "zalando-datasets/fashion_mnist", {"train": 60_000, "test": 10_000},
    )  # fmt: skip
    yield Named("cifar10", "objects, 32×32 RGB", krizhevsky, 10, colour, "uoft-cs/cifar10", usual)
    yield Named("cifar100", "objects, 32×32 RGB", krizhevsky, 100, colour, "uoft-cs/cifar100", usual)
    yield Named(
        "svhn", "house numbers (cropped digits), 32×32 RGB",
        "Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011",
        10, colour, "ufldl-stanford/svhn:cropped_digits", {"train": 73_257, "test": 26_032}, zero=10,
    )  # fmt: skip
    yield Named(
        "pcam", "lymph-node tissue with or without tumour, RGB, resized from 96×96 to 32×32",
        "Veeling et al., Rotation Equivariant CNNs for Digital Pathology, arXiv:1806.03962, 2018",
        2, colour, "1aurent/PatchCamelyon", {"train": 262_144, "val": 32_768, "test": 32_768}, native=(96, 96),
    )  # fmt: skip


NAMES: dict[str, Named] = {known.name: known for known in _named()}


@dataclass(frozen=True)
class Data:
    """Reference to a data set: identity is (name, checksum); where it lies is not identity."""

    name: str  # 'digits', 'mnist', … or the path or hub id as given
    checksum: str  # 16 hex digits of SHA-256 over the decoded pixels, shapes and labels of all splits
    classes: int = field(metadata={"key": False})
    shape: tuple[int, int, int] = field(metadata={"key": False})  # (C, H, W)
    location: str | None = field(default=None, metadata={"key": False})  # a folder, a file or 'hub'
    note: str = field(default="", metadata={"key": False})  # what a report must say of this copy

    def split(self, name: images.SplitName) -> Images:
        """The images of one split: uint8 (N, C, H, W) and int64 (N,), kept in memory for the next call.

        Where a set has no val split of its own, val is the last tenth of train, at most 5,000, and train the
        rest. Raises UsageError if the set has no such split, or the files are gone or changed.
        """
        return _split(self.name, self.checksum, self.location, name)


def find(name: str = "digits", data_dir: str | Path | None = None) -> Data:
    """The data set of that name, path or hub id, decoded and checked.

    Args:
        name: one of ``robassay list data``, the path of a parquet file or of a folder of images or parquet files, or
            'hub:mnist', 'hub:owner/name', 'hub:owner/name:configuration': only these use the network.
        data_dir: folder of the parquet files of a named data set; None takes that which ROBASSAY_DATA names.

    Raises:
        UsageError: the data are not at hand, unreadable, of mixed sizes or wrongly labelled.
    """
    name, location = str(name), None
    if name.startswith(HUB):
        known = _known(name.removeprefix(HUB))
        name, location = known.name if known else name, "hub"
    elif known := _known(name):
        name, folder = known.name, data_dir or os.environ.get(FOLDER)
        location = _absolute(folder) if folder and name != "digits" else None
    elif name.strip():
        location = _absolute(name)
    found = _contents(_source(name, location))
    shape = next(iter(found.splits.values())).x.shape[1:]
    return Data(name, found.checksum, found.classes, (shape[0], shape[1], shape[2]), location, found.note)


def at_hand(name: str, data_dir: str | Path | None = None) -> Data | None:
    """The named data set, or None where its files are not at hand. Raises UsageError for files that are wrong."""
    known = _known(name)
    folder = data_dir or os.environ.get(FOLDER)
    if known is None:
        raise UsageError(f"unknown data set '{name}'. {suggest(name, [*NAMES])}")
    if known.name == "digits" or (folder and _parts_in(known, _absolute(folder))[0]):
        return find(name, data_dir)
    return None


def packed(data: Data) -> bytes:
    """All splits as one safetensors file, for a machine that has no copy of its own; see :func:`borrow`.

    Raises:
        UsageError: the files are gone or changed.
    """
    from safetensors.torch import save

    splits: dict[str, Images] = {}
    for name in images.SPLITS:
        with contextlib.suppress(_NoSplit):
            splits[name] = data.split(name)
    tensors, about = _flat(_Contents(splits, data.classes, data.checksum, data.note))
    return save(tensors, about)


_lent: dict[str, Path] = {}


def borrow(checksum: str, file: Path) -> None:
    """From now on this process reads the data set ``checksum`` from a file that :func:`packed` made elsewhere."""
    _lent[checksum] = file


def _borrowed(checksum: str) -> _Contents | None:
    """What was lent under a checksum, with the checksum that it really has."""
    if checksum not in _lent:
        return None
    found = _cached(_lent[checksum])
    if found is None:
        raise UsageError(f"the data set {checksum} arrived damaged. Run the command again.")
    return found._replace(checksum=_checksum(found.splits))


def reachable(data: Data) -> bool:
    """Whether this machine can read a data set that another machine has found."""
    if data.location is None or data.checksum in _lent:
        return True
    if data.location != "hub" and Path(data.location).exists():
        return True
    try:
        found = at_hand(data.name) if data.name in NAMES else None
    except UsageError:
        return False
    return found is not None and found.checksum == data.checksum


def pixels(x: Tensor) -> Tensor:
    """float32 in [0, 1] of uint8 pixels of any shape. Raises UsageError for another dtype."""
    if x.dtype != torch.uint8:
        raise UsageError(f"pixels() was given {x.dtype}; it takes the uint8 images of Data.split")
    return x.to(torch.float32) / 255


def check_images(x: Tensor, y: Tensor, classes: int | None = None) -> None:
    """Accepts images (N, C, H, W), uint8 or floating in [0, 1], and labels int64 (N,) in 0..classes-1.

    Raises UsageError that says what is wrong and how to mend it.
    """
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise UsageError(
            f"images and labels are {type(x).__name__} and {type(y).__name__}; give two torch tensors, numpy arrays as "
            "torch.from_numpy(x)"
        )
    if x.ndim != 4 or 0 in x.shape:
        raise UsageError(f"images have the shape {tuple(x.shape)}; needed is (N, C, H, W), nothing empty: reshape them")
    if x.shape[1] > 4 and x.shape[3] in (1, 3):
        raise UsageError(f"images have the shape {tuple(x.shape)}, channels last: write x.permute(0, 3, 1, 2)")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise UsageError(f"images are {x.dtype}; needed is uint8 in 0..255 or floating point in [0, 1]: convert them")
    if x.is_floating_point():
        _check_range(x)
    if y.ndim == 1 and len(y) != len(x):
        raise UsageError(
            f"there are {len(x)} images and {len(y)} labels; needed is one label per image, in their order"
        )
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise UsageError(
            f"labels are {y.dtype} of shape {tuple(y.shape)} for {len(x)} images; needed are class indices, "
            f"torch.int64 of shape ({len(x)},): write y.long(), or y.argmax(1) for one-hot rows"
        )
    limit = classes or images.MOST_CLASSES
    wrong = ((y < 0) | (y >= limit)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise UsageError(
            f"the label in row {row} is {int(y[row])}; it must lie in 0..{limit - 1}: renumber the classes"
        )


def _check_range(x: Tensor) -> None:
    if not x.isfinite().all():
        raise UsageError(f"images hold NaN or infinity, first in row {int((~x.isfinite()).nonzero()[0, 0])}: mend them")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        cure = "divide by 255" if high > 1.5 and low >= 0 else "undo the normalisation, it belongs inside the model"
        raise UsageError(f"images lie in [{low:.4g}, {high:.4g}], needed is [0, 1]: {cure}")


# ------------------------------------------------------------------------------- where a data set lies


@dataclass(frozen=True)
class _Source:
    """The undecoded splits. `digest` stands for their bytes, so equality does not look at the parts."""

    name: str
    digest: str
    parts: dict[str, images.Part] = field(compare=False)
    classes: int | None = field(default=None, compare=False)


def _absolute(path: str | Path) -> str:
    return str(Path(path).expanduser().absolute())


def _known(name: str) -> Named | None:
    return next((k for k in NAMES.values() if images.canonical(k.name) == images.canonical(name)), None)


def _source(name: str, location: str | None) -> _Source:
    known, classes = NAMES.get(name), None
    if location == "hub":
        parts = _hub_parts(known, name)
    elif known:
        parts = {} if name == "digits" else _named_parts(known, location)
    else:
        parts, classes = _path_parts(name, location)
    return _Source(name, images.digest(parts, VERSION, known and name), parts, known.classes if known else classes)


def _named_parts(known: Named, location: str | None) -> dict[str, images.Part]:
    parts, looked = _parts_in(known, location) if location else ({}, [])
    if parts:
        return parts
    raise UsageError(
        f"the data set '{known.name}' is not at hand: "
        + (f"looked in {' and '.join(looked)}" if looked else f"neither --data-dir nor {FOLDER} names a folder")
        + f" (for {known.name}-train.parquet and {known.name}-test.parquet, or train*.parquet and test*.parquet in "
        f"a folder {known.name}). Give their folder with --data-dir FOLDER or the environment variable {FOLDER}, or "
        f"download it with --data {HUB}{known.name} (needs pip install 'robassay[hub]'); digits needs no files"
    )


def _parts_in(known: Named, location: str) -> tuple[dict[str, images.Part], list[str]]:
    """The parquet files of a named set, and where they were looked for."""
    key, root = images.canonical(known.name), Path(location)
    inside = [p for p in images.listing(root) if p.is_dir()] if root.is_dir() else []
    own = [p for p in (root, *inside) if images.canonical(p.name) == key]
    places = [(root, key)] + [(p / sub, prefix) for p in own for sub in _INSIDE for prefix in ("", key)]
    looked = [f"{root}" if root.is_dir() else f"{root} (no such folder)", f"{root / known.name}"]
    found = (images.parquet_parts(folder, prefix) for folder, prefix in places if folder.is_dir())
    return next((parts for parts in found if parts), {}), looked


def _path_parts(name: str, location: str | None) -> tuple[dict[str, images.Part], int | None]:
    path = Path(location) if location else None
    if path is None or not path.exists():
        if os.sep in name or name.endswith(".parquet"):
            raise UsageError(f"there is no file or folder '{name}': check the path")
        raise UsageError(
            f"unknown data set '{name}': neither a known name nor a file or folder. {suggest(name, [*NAMES])}"
        )
    if path.is_dir():
        return images.folder_parts(path)
    if path.suffix != ".parquet":
        raise UsageError(f"{path} is neither a parquet file (*.parquet) nor a folder: give one of these")
    return {"test": images.ParquetPart((path,))}, None


def _hub_parts(known: Named | None, name: str) -> dict[str, images.Part]:
    from robassay import hub

    if known and not known.hub:
        raise UsageError(f"'{HUB}{name}': {name} is part of scikit-learn, not of the hub: write --data {name}")
    return hub.parts(known.hub if known else name.removeprefix(HUB), HUB + name.removeprefix(HUB))


# --------------------------------------------------------------------------------- decoding and caching


class _Contents(NamedTuple):
    splits: dict[str, Images]
    classes: int
    checksum: str
    note: str


@functools.lru_cache(maxsize=12)
def _split(name: str, checksum: str, location: str | None, split: str) -> Images:
    if split not in images.SPLITS:
        raise UsageError(f"unknown split '{split}'. {suggest(str(split), list(images.SPLITS))}")
    if name in NAMES and location not in (None, "hub") and not Path(location).exists():
        location = os.environ.get(FOLDER, location)  # another machine may keep its copy elsewhere
    found = _borrowed(checksum) or _contents(_source(name, location))
    if found.checksum != checksum:
        raise UsageError(
            f"the data set '{name}' at {location} has changed: its checksum was {checksum} and is now "
            f"{found.checksum}. Restore the files (or the versions of Pillow and its JPEG library, if it holds "
            "JPEG images), or start a new study with it"
        )
    if split not in found.splits:
        raise _NoSplit(
            f"the data set '{name}' has no {split} split, only {' and '.join(found.splits)}: add a folder {split}/ "
            f"with the same classes, or a file {split}.parquet"
        )
    return found.splits[split]


@functools.lru_cache(maxsize=4)
def _contents(source: _Source) -> _Contents:
    if source.name == "digits":
        return _digits()
    file = _cache_file(source)
    found = file and _cached(file)
    if not found:
        found = _decoded(source)
        if file:
            _keep(found, file)
    return found


def _decoded(source: _Source) -> _Contents:
    known, splits, notes = NAMES.get(source.name), {}, []
    for split, part in source.parts.items():
        demands = (known.shape, known.classes, known.native, known.zero) if known else (None, source.classes)
        x, y, jpeg = images.decode(part, *demands)
        splits[split] = Images(torch.from_numpy(x), torch.from_numpy(y))
        if jpeg and not isinstance(part, images.FolderPart):
            notes = ["This copy is lossy JPEG: figures are not comparable with those for the published data set."]
    if len({s.x.shape[1:] for s in splits.values()}) > 1:
        sizes = ", ".join(f"{name} {tuple(s.x.shape[1:])}" for name, s in splits.items())
        raise UsageError(f"the splits of '{source.name}' differ in image size (C, H, W): {sizes}; make them equal")
    if known:
        counts = {name: len(s.y) for name, s in splits.items()}
        notes += [
            f"This copy holds {n:,} {split} images, the published data set {known.sizes[split]:,}."
            for split, n in counts.items() if n != known.sizes.get(split, n)
        ]  # fmt: skip
    splits = _with_val(splits)
    classes = source.classes or 1 + max(int(s.y.max()) for s in splits.values())
    seen = {name: set(s.y.tolist()) for name, s in splits.items()}
    if lost := len(seen.get("train", set()) - seen.get("val", set())) if "val" in seen else 0:
        notes.append(f"The val split lacks {lost} of the classes of train.")
    return _Contents(splits, classes, _checksum(splits), " ".join(notes))


def _with_val(splits: dict[str, Images]) -> dict[str, Images]:
    if "train" in splits and "val" not in splits and (n := min(MOST_VAL, len(splits["train"].y) // 10)):
        x, y = splits["train"]
        splits = splits | {"train": Images(x[:-n], y[:-n]), "val": Images(x[-n:], y[-n:])}
    return {name: splits[name] for name in images.SPLITS if name in splits}


def _digits() -> _Contents:
    from sklearn.datasets import load_digits

    raw = load_digits()
    # A hash orders the images: no library's generator, whose stream may change with its version.
    order = sorted(range(len(raw.target)), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    x = torch.from_numpy((raw.images[order].astype(np.int64) * 255 + 8) // 16).to(torch.uint8)[:, None]
    y = torch.from_numpy(raw.target[order].astype(np.int64))
    cut = zip(x.split(DIGITS_SPLITS), y.split(DIGITS_SPLITS), strict=True)
    splits: dict[str, Images] = {name: Images(*both) for name, both in zip(images.SPLITS, cut, strict=True)}
    return _Contents(splits, 10, _checksum(splits), "")


def _checksum(splits: dict[str, Images]) -> str:
    digest = hashlib.sha256()
    for name, (x, y) in splits.items():
        digest.update(f"{name} {tuple(x.shape)}".encode())
        digest.update(x.contiguous().numpy().data)
        digest.update(y.numpy().astype("<i8").data)
    return digest.hexdigest()[:16]


def _cache_file(source: _Source) -> Path | None:
    try:
        folder = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "robassay").expanduser()
    except RuntimeError:  # no home folder: no cache
        return None
    stem = re.sub(r"[^a-z0-9]+", "-", source.name.lower().rstrip("/").rsplit("/", 1)[-1])[:40]
    return folder / f"{stem}-{source.digest}.safetensors"


def _cached(file: Path) -> _Contents | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata()
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        there = [str(s) for s in images.SPLITS if f"{s}.x" in tensors]
        splits = {s: Images(tensors[f"{s}.x"], tensors[f"{s}.y"]) for s in there}
        return _Contents(splits, int(about["classes"]), about["checksum"], about["note"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None  # absent or cut short: decode again


def _flat(found: _Contents) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that holds all splits."""
    tensors = {f"{s}.{k}": t.clone() for s, both in found.splits.items() for k, t in both._asdict().items()}
    return tensors, {"classes": str(found.classes), "checksum": found.checksum, "note": found.note}


def _keep(found: _Contents, file: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors, about = _flat(found)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, about)
        os.replace(temporary, file)
    except (OSError, SafetensorError):  # an unwritable or full cache folder must not stop the work
        with contextlib.suppress(OSError):
            temporary.unlink()
