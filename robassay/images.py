"""Encoded images in files → uint8 arrays: parquet files, folders of classes, the Hugging Face hub.

Nothing here knows names, caches or checksums; that is `robassay.data`. A *part* is one split, undecoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from robassay.errors import UsageError

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
PATIENCE = 3.0  # seconds of silent decoding before progress is shown
MOST_CLASSES = 32_767  # decisions are stored as int16
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
JPEG = b"\xff\xd8"
_STEM = re.compile(
    r"(?:(?P<set>.+?)[-_])?(?P<split>train|test|valid(?:ation)?|val)"
    r"(?:[-_]?(?P<shard>\d+)(?:-of-(?P<of>\d+))?.*)?",
    re.IGNORECASE,
)


class Row(NamedTuple):
    """One encoded image; `where` is a phrase for messages, `label` is still unchecked."""

    where: str
    encoded: bytes | None
    label: object


class Part(Protocol):
    """The undecoded images of one split, in stored order."""

    @property
    def title(self) -> str: ...
    def __len__(self) -> int: ...
    def rows(self) -> Iterator[Row]: ...
    def sources(self) -> Iterator[tuple[str, Path]]: ...  # what the digest depends on: a text and a file


def canonical(name: str) -> str:
    """The name in lower case without hyphens, underscores and spaces: 'CIFAR-10' → 'cifar10'."""
    return re.sub(r"[-_\s]", "", name.lower())


def split_name(word: str) -> str | None:
    """'train', 'val' or 'test' for the words in use ('valid', 'validation', any case), otherwise None."""
    word = word.lower()
    return "val" if word in ("valid", "validation") else word if word in SPLITS else None


def listing(folder: Path) -> list[Path]:
    """What lies in the folder, sorted by name, hidden entries left out. UsageError if it cannot be read."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as err:
        raise UsageError(f"{folder} cannot be read as a folder ({err.strerror}): give a readable one") from err


def digest(parts: dict[str, Part], *salt: object) -> str:
    """16 hex digits of SHA-256 over the bytes of all files, and `salt`. UsageError if a file is unreadable."""
    total = hashlib.sha256(repr(salt).encode())
    for split, part in parts.items():
        for text, file in part.sources():
            try:
                with file.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as err:
                raise UsageError(f"{file} cannot be read ({err.strerror}): check its permissions") from err
            total.update(repr((split, text, content)).encode())
    return total.hexdigest()[:16]


# ---------------------------------------------------------------------------------------- parquet files


@dataclass(frozen=True)
class ParquetPart:
    """Parquet files with an image column (struct of bytes and path, or raw bytes) and a label column."""

    files: tuple[Path, ...]

    @property
    def title(self) -> str:
        return self.files[0].name + (f" and {len(self.files) - 1} more" if len(self.files) > 1 else "")

    def __len__(self) -> int:
        return sum(_parquet(file).metadata.num_rows for file in self.files)

    def rows(self) -> Iterator[Row]:
        for file in self.files:
            yield from _parquet_rows(file)

    def sources(self) -> Iterator[tuple[str, Path]]:
        return (("", file) for file in self.files)


def parquet_parts(folder: Path, prefix: str = "") -> dict[str, Part]:
    """The splits that lie in `folder` as `[prefix-]train[-00000-of-00002].parquet` and the like.

    `prefix` is a canonical name. UsageError where files contradict each other or a shard is missing.
    """
    groups: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for file in listing(folder):
        match = _STEM.fullmatch(file.stem) if file.suffix == ".parquet" else None
        if match and canonical(match["set"] or "") == prefix:
            groups.setdefault(split_name(match["split"]) or "", []).append((file, match))
    for split, group in groups.items():
        names = ", ".join(file.name for file, _ in group)
        if len(group) > 1 and not all(match["shard"] for _, match in group):
            raise UsageError(f"{folder} holds several files for the {split} split ({names}): keep one of them")
        promised = {int(match["of"]) for _, match in group if match["of"]}
        if promised and promised != {len(group)}:
            raise UsageError(
                f"{folder} holds {len(group)} of {max(promised)} files of the {split} split ({names}): "
                "add the missing ones"
            )
    return {split: ParquetPart(tuple(f for f, _ in groups[split])) for split in SPLITS if split in groups}


def _parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as err:
        raise UsageError(f"{file} is not a readable parquet file{_because(err)}") from err


def _because(err: Exception) -> str:
    return f" ({str(err).splitlines()[0][:120]}): it may be cut short; copy or download it again"


def columns(names: list[str], where: str) -> tuple[str, str]:
    """The names of the image and the label column. UsageError, starting with `where`, if one is missing."""
    image = next((c for c in ("image", "img") if c in names), None)
    label = next((c for c in ("fine_label", "label") if c in names), None)
    if image is None or label is None:
        raise UsageError(
            f"{where} has the columns {', '.join(names)}; needed are 'image' (or 'img') and 'label' "
            "(or 'fine_label'): rename them"
        )
    return image, label


def _parquet_rows(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.compute as pc

    table, row = _parquet(file), 0
    schema = table.schema_arrow
    image, label = columns(schema.names, str(file))
    kind = schema.field(image).type
    packed = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (packed or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UsageError(
            f"{file}: the column '{image}' has the type {kind}; it must hold encoded images (PNG, JPEG), "
            "as bytes or as a struct of bytes and path"
        )
    try:
        for batch in table.iter_batches(1024, columns=[image, label]):
            cells = batch.column(image)
            encoded = (pc.struct_field(cells, "bytes") if packed else cells).to_pylist()
            for blob, y in zip(encoded, batch.column(label).to_pylist(), strict=True):
                yield Row(f"{file}, row {row}", blob, y)
                row += 1
    except (pa.ArrowException, OSError) as err:
        raise UsageError(f"{file} cannot be read from row {row} on{_because(err)}") from err


# --------------------------------------------------------------------------------------- image folders


@dataclass(frozen=True)
class FolderPart:
    """Image files with the class index of the folder each lies in."""

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]

    @property
    def title(self) -> str:
        return f"{self.root.parent.name}/{self.root.name}"

    def __len__(self) -> int:
        return len(self.files)

    def rows(self) -> Iterator[Row]:
        for file, label in zip(self.files, self.labels, strict=True):
            try:
                yield Row(str(file), file.read_bytes(), label)
            except OSError as err:
                raise UsageError(f"{file} cannot be read ({err.strerror}): check its permissions") from err

    def sources(self) -> Iterator[tuple[str, Path]]:
        return ((f"{y} {file.name}", file) for file, y in zip(self.files, self.labels, strict=True))


def folder_parts(path: Path) -> tuple[dict[str, Part], int | None]:
    """The splits of an image folder and its number of classes; None where they are parquet files.

    Layouts: `train*.parquet` and the like; `train/<class>/*.png` and the like; `<class>/*.png`, taken as test.
    Files have no natural order, and sorted by class the last tenth of train would be a single class: they are
    ordered by the SHA-256 of 'class/file'. UsageError if there are no images or a split has an extra class.
    """
    parts = parquet_parts(path)
    if parts:
        return parts, None
    inside = [p for p in listing(path) if p.is_dir()]
    roots = {split: p for p in inside if (split := split_name(p.name))} or {"test": path}
    found = {split: _class_files(roots[split]) for split in SPLITS if split in roots}
    classes = sorted(set().union(*found.values()))
    if not classes:
        others = ", ".join(p.name for p in listing(path) if p.suffix == ".parquet")
        raise UsageError(
            f"{path} holds neither train*.parquet or test*.parquet nor class folders with images: expected "
            "test/CLASS/IMAGE.png (and train/…) or CLASS/IMAGE.png"
            + (f". It holds {others}: for a named set write --data NAME --data-dir {path}" if others else "")
        )
    for split, files in found.items():
        if extra := sorted(set(files) - set(found.get("train", files))):
            raise UsageError(
                f"{roots[split]} has the class folder '{extra[0]}', which {roots['train']} lacks: "
                "every split must name its classes alike"
            )
    for split, files in found.items():
        labelled = [(file, classes.index(c)) for c, inner in files.items() for file in inner]
        labelled.sort(key=lambda pair: _shuffled(f"{pair[0].parent.name}/{pair[0].name}"))
        parts[split] = FolderPart(roots[split], tuple(f for f, _ in labelled), tuple(y for _, y in labelled))
    return parts, len(classes)


def _shuffled(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _class_files(root: Path) -> dict[str, list[Path]]:
    found = {}
    for folder in (p for p in listing(root) if p.is_dir()):
        found[folder.name] = [p for p in listing(folder) if p.suffix.lower() in SUFFIXES]
        if not found[folder.name]:
            raise UsageError(f"the class folder {folder} holds no image files: add some or remove it")
    return found


# --------------------------------------------------------------------------------------------- decoding


def decode(
    part: Part,
    shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    native: tuple[int, int] | None = None,
    zero: int | None = None,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """uint8 pixels (N, C, H, W), int64 labels (N,), and whether the first image is a JPEG.

    `shape` and `classes` are demanded where given; images of the size `native` (H, W) are first resized to
    `shape` (bilinear with antialiasing); the label `zero` stands for 0. Raises UsageError, naming file and
    row, for an unreadable image, one of another size or channel count, and a wrong label.
    """
    total, x, first = len(part), None, None
    y = np.empty(total, np.int64)
    for i, row in enumerate(_watched(part.rows(), total, part.title)):
        pixels = _pixels(row, native, shape)
        if x is None or first is None:
            if shape is not None and pixels.shape != shape:
                raise UsageError(f"{row.where} is {_size(pixels.shape)}; this data set has {_size(shape)}")
            x, first = np.empty((total, *pixels.shape), np.uint8), row
        if pixels.shape != x.shape[1:]:
            raise UsageError(
                f"{row.where} is {_size(pixels.shape)}, but the first image, {first.where}, is "
                f"{_size(x.shape[1:])}: bring all images to one size and mode first"
            )
        x[i], y[i] = pixels, _label(row, classes, zero)
    if x is None or first is None:
        raise UsageError(f"{part.title} holds no images: give a file or folder with at least one")
    return x, y, (first.encoded or b"")[:2] == JPEG


def _size(shape: tuple[int, ...]) -> str:
    mode = {1: "grey", 3: "RGB"}.get(shape[0], f"{shape[0]} channels")
    return f"{shape[1]}×{shape[2]} {mode}"


def _pixels(row: Row, native: tuple[int, int] | None, shape: tuple[int, int, int] | None) -> np.ndarray:
    from PIL import Image

    if row.encoded is None:
        raise UsageError(f"{row.where} has no image bytes: embed the encoded images in the file")
    try:
        with Image.open(io.BytesIO(row.encoded)) as image:
            if image.mode[0] in "IF":  # 16-bit and float modes have no agreed scale
                raise UsageError(f"{row.where} has the mode {image.mode}; convert it to 8-bit grey or RGB")
            grey = image.mode in ("1", "L", "LA")
            picture = image.convert("L" if grey else "RGB")  # the same mode is a plain copy; alpha is dropped
    except UsageError:
        raise
    except Exception as err:  # broken bytes raise anything from SyntaxError to zlib.error
        raise UsageError(f"{row.where} is not a readable image ({err}): replace or remove it") from err
    if native is not None and shape is not None and picture.size == native[::-1]:
        picture = picture.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    return array[None] if grey else array.transpose(2, 0, 1)


def _label(row: Row, classes: int | None, zero: int | None) -> int:
    if not isinstance(row.label, int):  # a bool is an int: PCam's labels are stored so
        raise UsageError(f"{row.where} has the label {row.label!r}; labels must be whole numbers from 0, none missing")
    label = 0 if row.label == zero else int(row.label)
    if not 0 <= label < (classes or MOST_CLASSES):
        raise UsageError(f"{row.where} has the label {label}; it must lie in 0..{(classes or MOST_CLASSES) - 1}")
    return label


def _watched(rows: Iterator[Row], total: int, title: str) -> Iterator[Row]:
    """The rows unchanged; work of more than PATIENCE seconds shows itself on stderr."""
    began, show = time.monotonic(), None
    with contextlib.ExitStack() as stack:
        for done, row in enumerate(rows, 1):
            yield row
            if show is None and time.monotonic() - began > PATIENCE:
                show = stack.enter_context(_shown(f"decoding {title} ({total:,} images)", total, done))
            elif show is not None and done % 64 == 0:
                show(done)


@contextlib.contextmanager
def _shown(text: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        print(f"{text} …", file=sys.stderr, flush=True)
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total, completed=done)
        yield lambda done: bar.update(task, completed=done)
