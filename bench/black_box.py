"""One-pixel and Boundary against ART: same network, same images, in turn, one thread.

Run:   python bench/black_box.py        (ROBASSAY_DATA names the folder with MNIST; without it the digits are used)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import art_peer
import torch
from attacks import distance, ours
from harness import Figures, Rivals, compare, save
from subjects import cnn, images, published_cnn
from torch import Tensor

from robassay.access import Decisions, Scores
from robassay.attacks.boundary import Boundary
from robassay.attacks.one_pixel import OnePixel
from robassay.classifier import Classifier
from robassay.threat import Threat

PLACE, REACH = (3, 4), 3.0


class Spot(Classifier):
    """A positive control: the CNN, and a class that wins as soon as a pixel near a certain place is bright."""

    def __init__(self, inner: Classifier, shape: tuple[int, int]) -> None:
        super().__init__()
        self.inner, self.classes = inner, inner.classes
        rows, columns = torch.meshgrid(*(torch.arange(n) - p for n, p in zip(shape, PLACE, strict=True)), indexing="ij")
        self.near = torch.exp(-(rows.square() + columns.square()) / (2 * REACH**2))

    def draw(self, h: Tensor) -> Tensor:
        logits: Tensor = self.inner(h)
        seen = (h[:, 0] * self.near).flatten(1).amax(1)
        wanted = torch.nn.functional.one_hot((logits.argmax(1) + 1) % self.classes, self.classes)
        return logits + 500 * (seen - 0.5).clamp_min(0)[:, None] * wanted


def one_pixel_row(name: str, model: Classifier, x: Tensor, y: Tensor, pixels: int) -> dict[str, Any]:
    """Population 400, 75 generations, dithered; never stopped for being settled."""

    def mine() -> Figures:
        attack = OnePixel(population=400, generations=75, mutation="dither", settled=0)
        x_adv, spent = ours(attack, Scores(), model, x, y, Threat("l0", pixels))
        return found(x_adv, float(spent.queries.sum()) / len(x))

    def theirs() -> Figures:
        x_adv, asked = art_peer.attacked(art_peer.one_pixel(pixels, 75), model, x)
        return found(x_adv, asked)

    def found(x_adv: Tensor, asked: float) -> Figures:
        with torch.no_grad():
            broken = (model(x_adv).argmax(1) != y).float().mean()
        most = Threat("l0", pixels).size(x_adv, x).max()
        return {"success": float(broken), "queries": asked, "pixels": float(most)}

    row = compare(
        f"One-pixel, {pixels} px, {name}",
        {"ART": theirs, "ours": mine},
        3,
        Rivals("ours", ("ART",), "success", lower=False),
    )
    for way in row["ways"].values():
        way["candidates per second"] = way["queries"] * len(x) / way["cpu"]
    return row


def boundary_row(model: Classifier, x: Tensor, y: Tensor) -> dict[str, Any]:
    """About 2,300 questions each."""

    def mine(queries: int) -> Callable[[], Figures]:
        def run() -> Figures:
            x_adv, spent = ours(Boundary(queries=queries), Decisions(), model, x, y, Threat("l2"))
            return {**distance(model, x_adv, x, y), "queries": float(spent.queries.sum()) / len(x)}

        return run

    def theirs() -> Figures:
        x_adv, asked = art_peer.attacked(art_peer.boundary(78), model, x)
        return {**distance(model, x_adv, x, y), "queries": asked}

    return compare(
        "Boundary against ART", {"ART": theirs, "ours": mine(2300)}, 3, Rivals("ours", ("ART",), "l2", slack=0.01)
    )


def overhead_row(name: str, model: Classifier, x: Tensor, y: Tensor, queries: int = 2300) -> dict[str, Any]:
    """Boundary against nothing but the forward passes that it asks for, in the same batches."""

    @torch.no_grad()
    def forwards() -> Figures:
        for _ in range(queries // 2):
            model(x.repeat(2, 1, 1, 1))
        return {"queries": float(queries)}

    def mine() -> Figures:
        x_adv, spent = ours(Boundary(queries=queries), Decisions(), model, x, y, Threat("l2"))
        return {**distance(model, x_adv, x, y), "queries": float(spent.queries.sum()) / len(x)}

    row = compare(
        f"Boundary's overhead, {name}", {"bare forwards": forwards, "ours": mine}, 3, Rivals(bare="bare forwards")
    )
    for way in row["ways"].values():
        way["ms per query"] = 1e3 * way["cpu"] / (way["queries"] * len(x))
    return row


def main() -> None:
    torch.set_num_threads(1)
    model, (x, y) = cnn(), images(30, first=1000)
    right = model(x).argmax(1) == y
    x, y = x[right][:20], y[right][:20]
    rows = [
        one_pixel_row("positive control", Spot(model, (x.shape[2], x.shape[3])).eval(), x[:8], y[:8], 1),
        one_pixel_row("CNN", model, x[:8], y[:8], 1),
        one_pixel_row("CNN", model, x[:8], y[:8], 5),
        boundary_row(model, x, y),
        overhead_row("small CNN", model, x, y),
        overhead_row("C&W's network", published_cnn(), x, y),
    ]
    save("black-box", rows)


if __name__ == "__main__":
    main()
