"""From a parquet file of PNG images to tensors in memory: ours against Hugging Face's `datasets`.

Both decode every image. Once more with what each keeps on disk from the first time: `datasets` its Arrow file, ours
the decoded pixels.

Install:  pip install -e '.[bench]'
Run:      python bench/loading.py        (ROBASSAY_DATA names the folder with mnist-test.parquet)
"""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from harness import Figures, Rivals, compare, save
from torch import Tensor

from robassay.data import CACHE, _contents, _split, find

SEEN: dict[str, Tensor] = {}


def ours(keep: Path, fresh: bool) -> Figures:
    """The whole data set: both splits are read."""
    if fresh:
        shutil.rmtree(keep, ignore_errors=True)
    os.environ[CACHE] = str(keep)
    _contents.cache_clear()  # what this process remembers
    _split.cache_clear()
    SEEN["ours"] = find("mnist").split("test").x
    return {}


def theirs(files: dict[str, str], keep: Path, fresh: bool) -> Figures:
    if fresh:
        shutil.rmtree(keep, ignore_errors=True)
    read = datasets.load_dataset("parquet", data_files=files, cache_dir=str(keep))
    for split in files:
        images = np.stack([np.asarray(one) for one in read[split]["image"]])
        SEEN["datasets"] = torch.from_numpy(images)[:, None]
    return {}


def main() -> None:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    folder = Path(os.environ["ROBASSAY_DATA"])
    files = {split: str(folder / f"mnist-{split}.parquet") for split in ("train", "test")}
    rivals = Rivals("ours", ("datasets",))
    with tempfile.TemporaryDirectory() as place:
        mine, other = Path(place) / "ours", Path(place) / "theirs"
        rows = []
        for name, fresh, rounds in (("first time", True, 1), ("again", False, 3)):
            ways = {"ours": partial(ours, mine, fresh), "datasets": partial(theirs, files, other, fresh)}
            rows.append(compare(f"70,000 MNIST images, {name}", ways, rounds, rivals))
    assert torch.equal(SEEN["ours"], SEEN["datasets"]), "The pixels differ."
    save("loading", rows)


if __name__ == "__main__":
    main()
