"""What a loss looks like around an image: a cut through its surface, and whether the gradient tells its slope."""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.attacks.gradient import radius, steepest
from robassay.cell import Arrays, Cell, Context, Model, cell
from robassay.cells import Examples
from robassay.classifier import Classifier
from robassay.data import pixels
from robassay.errors import UsageError
from robassay.estimators import Backprop, Estimator, drawn
from robassay.rng import Stream, normal
from robassay.threat import Goal, Loss, Threat

TINY = 1e-30


@cell
class Landscape(Cell):
    """Margin and cross-entropy over a plane through each image, spanned by the gradient's direction and a random one.

    The first axis is the steepest direction of the margin in the threat's norm (the sign of its gradient for L∞), the
    second a random direction of the same size; pixels are cut to [0,1], as an attack's are. Every point of the plane
    meets the same draws of the noise, so that what is rough is the loss and not the noise.

    Result arrays, float32:
        at: (G,) positions along both axes, in units of eps.
        margin, entropy: (N, G, G), mean over draws; first index the gradient's axis. Larger is closer to an error,
            and the margin is positive where the mean decision is wrong.

    Args:
        target: the model.
        on: a few images.
        threat: norm and eps; the plane reaches twice as far.
        estimator: how the gradient is found whose direction is shown.
        grid: points per axis, odd, so that the image itself is one.
        draws: passes per point.
    """

    target: Model
    on: Examples
    threat: Threat
    estimator: Estimator = Backprop(8)
    grid: int = 21
    draws: int = 8

    def __post_init__(self) -> None:
        if self.grid < 3 or self.grid % 2 == 0 or self.draws < 1:
            raise UsageError("a landscape needs an odd grid ≥ 3, whose middle is the image, and draws ≥ 1: grid=21.")

    @torch.no_grad()
    def compute(self, ctx: Context) -> Arrays:
        model, images = ctx.open(self.target), self.on.load()
        x, goal = pixels(images.x).to(ctx.device), Goal(images.y.to(ctx.device))
        eps, rng = radius(self.threat), Stream(("landscape", self.key))
        found = self.estimator(model, x, goal.margin, rng.child("gradient"))
        across = chance(x, self.threat, rng.child("direction"))
        along = steepest(found.gradient, self.threat)
        at = torch.linspace(-2, 2, self.grid)
        planes: dict[str, list[Tensor]] = {"margin": [], "entropy": []}
        for i, a in enumerate(at.tolist()):
            for b in at.tolist():
                moved = (x + eps * (a * along + b * across)).clamp(*self.threat.box)
                logits = drawn(model, moved, self.draws, rng.child("noise"))
                planes["margin"].append(goal.margin(logits).mean(0).cpu())
                planes["entropy"].append(goal.cross_entropy(logits).mean(0).cpu())
            ctx.progress(i + 1, self.grid)
        shape = (self.grid, self.grid, len(x))
        return {"at": at, **{n: torch.stack(v).view(shape).permute(2, 0, 1).float() for n, v in planes.items()}}


@cell
class Faithful(Cell):
    """Whether the gradient that an attacker follows is the slope of the margin, measured without a gradient.

    Along random directions u of the threat's norm the derivative ⟨gradient, u⟩ is compared with the difference of the
    margin on both sides of the image at a finite distance; both sides meet the same draws. A network's backward rule
    may lie, in that case the two have nothing in common.

    Result arrays, float32 (N,) each; NaN where the margin is flat in every direction that was tried:
        agreement: cosine of derivatives and differences over the random directions; about ‖g‖⁻¹ ⟨g, truth⟩ / ‖truth‖.
            0 where the gradient is 0 and the margin is not flat.
        rise: difference along the gradient's own steepest direction over the root mean square along random ones.

    Args:
        target: the model.
        on: images.
        threat: norm and eps.
        estimator: how the attacker differentiates.
        share: distance on either side, as a part of eps.
        directions: random directions per image.
        batch: images at once.
    """

    target: Model
    on: Examples
    threat: Threat
    estimator: Estimator = Backprop(20)
    share: float = 0.25
    directions: int = 24
    batch: int = 250

    def __post_init__(self) -> None:
        if not self.share > 0 or self.directions < 2:
            raise UsageError("faithfulness needs share > 0 and two directions at least: share=0.25, directions=24.")

    def compute(self, ctx: Context) -> Arrays:
        model, images = ctx.open(self.target), self.on.load()
        parts: list[tuple[Tensor, Tensor]] = []
        starts = range(0, len(images.y), self.batch)
        for i, start in enumerate(starts):
            part = slice(start, start + self.batch)
            x, labels = pixels(images.x[part]).to(ctx.device), images.y[part].to(ctx.device)
            parts.append(self._of(model, x, Goal(labels).margin, Stream(("faithful", self.key, i))))
            ctx.progress(i + 1, len(starts))
        return {
            n: torch.cat(v).float().cpu() for n, v in zip(("agreement", "rise"), zip(*parts, strict=True), strict=True)
        }

    def _of(self, model: Classifier, x: Tensor, loss: Loss, rng: Stream) -> tuple[Tensor, Tensor]:
        gradient = self.estimator(model, x, loss, rng.child("gradient")).gradient
        told, seen = [], []
        for k in range(self.directions):
            u = chance(x, self.threat, rng.child("direction", k))
            told.append((gradient.double() * u).flatten(1).sum(1))
            seen.append(self._difference(model, x, u, loss, rng.child("noise", k)))
        own = self._difference(model, x, steepest(gradient, self.threat), loss, rng.child("own"))
        a, b = torch.stack(told), torch.stack(seen).double()
        flat = (b == 0).all(0)
        cosine = (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp_min(TINY)
        spread = b.square().mean(0).sqrt().clamp_min(TINY)
        return torch.where(flat, torch.nan, cosine), torch.where(flat, torch.nan, own / spread)

    @torch.no_grad()
    def _difference(self, model: Classifier, x: Tensor, u: Tensor, loss: Loss, rng: Stream) -> Tensor:
        """Slope (B,) of the mean loss along ``u`` (B, C, H, W) between both sides of ``x``."""
        h = self.share * radius(self.threat)
        ahead, behind = (loss(drawn(model, x + s * u, self.estimator.draws, rng)).mean(0) for s in (h, -h))
        return (ahead - behind) / (2 * h)


def chance(x: Tensor, threat: Threat, rng: Stream) -> Tensor:
    """A random direction (B, C, H, W) of unit size in the threat's norm: signs for L∞, Gaussian for L2."""
    return steepest(normal(x, rng), threat)
