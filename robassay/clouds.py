"""What a network's logits look like: a map of them, how far classes overlap in them, a section through decisions.

Source: Tan et al. 2020, §V-B and Figure 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.cell import Arrays, Cell, Context, Model, cell
from robassay.cells import Examples
from robassay.data import pixels
from robassay.errors import UsageError
from robassay.estimators import drawn
from robassay.rng import Stream
from robassay.told import Tell

AT_ONCE = 250
"""Images whose logits are drawn together; a constant, because it decides which bits a draw gets."""
BEYOND = 1.5
"""A section reaches so many times as far from its middle as the farthest of its three images."""


@cell
class Cloud(Tell):
    """Logits of images: where t-SNE puts them, and which class their nearest neighbours among them have.

    Result arrays: "xy" float32 (N, 2), t-SNE of the first draw's logits; "decisions" int16 (draws, N), the class that
    most of each image's nearest neighbours in one draw's logits have, of equals the nearest one's; the image itself is
    no neighbour. "labels" int64 (N,), and "block" and "shared" as a :class:`~robassay.cells.Score` has them, so that
    the error of the neighbours is a rate like any other. A deterministic network has one draw.

    Args:
        target: the model.
        on: images.
        draws: passes.
        neighbours: how many decide.
    """

    target: Model
    on: Examples
    draws: int = 5
    neighbours: int = 10

    def __post_init__(self) -> None:
        images = self.on.stop - self.on.start
        if self.draws < 1 or not 1 <= self.neighbours < images or images < 4:
            raise UsageError(
                f"a cloud of {images} images with draws={self.draws} and neighbours={self.neighbours}: it needs draws "
                "≥ 1, four images and fewer neighbours than images."
            )

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        model, images, rng = ctx.open(self.target), self.on.load(), Stream(("cloud", self.key))
        parts = []
        for start in range(0, len(images.y), AT_ONCE):
            x = pixels(images.x[start : start + AT_ONCE]).to(ctx.device)
            parts.append(drawn(model, x, self.draws, rng.child("logits", start)).cpu())
            ctx.progress(start + len(x), len(images.y))
        logits = torch.cat(parts, 1)
        n = len(images.y)
        return {
            "xy": _map(logits[0], rng),
            "decisions": torch.stack([neighbours(one, images.y, self.neighbours) for one in logits]).to(torch.int16),
            "labels": images.y.clone(),
            "block": torch.arange(n) // AT_ONCE,
            "shared": torch.tensor(int(model.stochastic and model.rows == "shared"), dtype=torch.uint8),
        }


def neighbours(points: Tensor, labels: Tensor, count: int) -> Tensor:
    """Of each of the points (N, D) the class that most of its ``count`` nearest others have: (N,) of ``labels`` (N,).

    Of classes that equally many have, the one whose nearest member is nearer.
    """
    distance = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(torch.inf)
    near = labels[distance.argsort(dim=1, stable=True)[:, :count]]
    votes = torch.nn.functional.one_hot(near, int(labels.max()) + 1).double()
    # What is nearer counts a little more than all that is farther, and less than a vote in all.
    weights = 1 + 0.5 ** torch.arange(2, count + 2, dtype=torch.float64)
    return (votes * weights[:, None]).sum(1).argmax(1)


def _map(logits: Tensor, rng: Stream) -> Tensor:
    """t-SNE of the logits (N, C), float32 (N, 2)."""
    from sklearn.manifold import TSNE

    seed = rng.child("map").seed() % 2**32
    perplexity = min(30.0, (len(logits) - 1) / 3)
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(logits.numpy())
    return torch.from_numpy(found).float()


@cell
class Section(Cell):
    """The decisions of a model on the plane through three images, and how much they vary.

    The images are the first three of different classes. The first axis of the plane goes from the first of them
    towards the second, the other at right angles to it towards the third; pixels are cut to [0,1], as an attack's are.

    Result arrays: "at" float32 (G,), positions along both axes, L2, from the middle of the three; "decision" int16
    (G, G), what most draws say, first index the second axis; "variance" float32 (G, G), that of the decision written
    as a vector with a single 1: 1 − Σ p², 0 where all draws agree; "points" float32 (3, 2) and "labels" int64 (3,),
    the three images.

    Args:
        target: the model.
        on: images, among which those of three classes.
        grid: points per axis.
        draws: passes per point.
    """

    target: Model
    on: Examples
    grid: int = 31
    draws: int = 30

    def __post_init__(self) -> None:
        if self.grid < 2 or self.draws < 1:
            raise UsageError("a section needs grid ≥ 2 and draws ≥ 1: grid=31, draws=30.")

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        model, images = ctx.open(self.target), self.on.load()
        chosen = three(images.y)
        x = pixels(images.x[chosen])
        centre, along, up, points = plane(x)
        reach = BEYOND * float(points.abs().max())
        at = torch.linspace(-reach, reach, self.grid)
        rng = Stream(("section", self.key))
        decided, varied = [], []
        for i, height in enumerate(at):
            line = (centre + at.view(-1, 1, 1, 1) * along + height * up).clamp(0, 1).to(ctx.device)
            decisions = drawn(model, line, self.draws, rng.child("line", i)).argmax(-1)
            share = torch.nn.functional.one_hot(decisions, model.classes).float().mean(0).cpu()
            decided.append(share.argmax(1))
            varied.append(1 - share.square().sum(1))
            ctx.progress(i + 1, self.grid)
        return {
            "at": at,
            "decision": torch.stack(decided).to(torch.int16),
            "variance": torch.stack(varied),
            "points": points,
            "labels": images.y[chosen].clone(),
        }


def three(labels: Tensor) -> list[int]:
    """Positions of the first three of different labels.

    Raises:
        UsageError: there are only two.
    """
    first: dict[int, int] = {}
    for i, label in enumerate(labels.tolist()):
        first.setdefault(label, i)
    if len(first) < 3:
        raise UsageError(f"{len(labels)} images of {len(first)} classes: a plane needs three. Give more images.")
    return list(first.values())[:3]


def plane(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The middle of three images (3, C, H, W), two directions of length 1 at right angles, and their places (3, 2).

    Images that lie on one line have no plane; then the second direction is 0.
    """
    centre = x.mean(0)
    along = _unit(x[1] - x[0])
    rest = x[2] - x[0]
    up = _unit(rest - (rest * along).sum() * along)
    moved = x - centre
    places = torch.stack([(moved * way).flatten(1).sum(1) for way in (along, up)], 1)
    return centre, along, up, places


def _unit(way: Tensor) -> Tensor:
    return way / way.norm().clamp_min(1e-12)
