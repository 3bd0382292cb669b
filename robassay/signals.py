"""Indicators of gradient masking, measured per image on clean inputs. They support a verdict, never make one."""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.cell import Arrays, Cell, Context, Model, cell
from robassay.cells import Examples
from robassay.classifier import Classifier
from robassay.data import pixels
from robassay.estimators import Backprop
from robassay.precise import doubles
from robassay.probe import probe
from robassay.rng import Stream
from robassay.threat import Goal, Loss


@cell
class Facts(Cell):
    """What :func:`robassay.probe.probe` finds out about a model, its detectors, whether it works in float64."""

    version = 5
    target: Model
    on: Examples

    def compute(self, ctx: Context) -> Arrays:
        model, x = ctx.open(self.target), pixels(self.on.load().x).to(ctx.device)
        alarms = model.alarms(x[:1]).shape[1]
        found = {**probe(model, x)._asdict(), "detectors": alarms, "doubles": doubles(model, x)}
        return {name: torch.tensor(int(value)) for name, value in found.items()}


@cell
class Signals(Cell):
    """Per image: is the softmax saturated, do losses agree on a direction, how many draws carry the gradient.

    Result arrays, float32 (N,) each:
        saturated: 1 where the true class has probability exactly 1 on every draw, or the CE gradient is exactly 0.
        zero_gradient: 1 where the margin gradient is exactly 0.
        alignment: cosine of the CE and the margin gradient; NaN where one is 0.
        tied: share of the draws whose two largest logits are equal, as rates and spike times of few steps often are.
        carriers: effective number of draws that carry the CE gradient, (Σ g)² / Σ g² over the draws' gradient norms
            with respect to the logits; NaN for a deterministic model.
    """

    version = 2
    target: Model
    on: Examples
    draws: int = 50
    batch: int = 250

    def compute(self, ctx: Context) -> Arrays:
        model = ctx.open(self.target)
        images = self.on.load()
        found: dict[str, list[Tensor]] = {}
        for i, start in enumerate(range(0, len(images.y), self.batch)):
            x = pixels(images.x[start : start + self.batch]).to(ctx.device)
            labels = images.y[start : start + self.batch].to(ctx.device)
            for name, values in self._of(model, x, Goal(labels), Stream(("signals", self.key, i))).items():
                found.setdefault(name, []).append(values.float().cpu())
        return {name: torch.cat(values) for name, values in found.items()}

    def _of(self, model: Classifier, x: Tensor, goal: Goal, rng: Stream) -> Arrays:
        estimator = Backprop(self.draws)
        entropy = estimator(model, x, goal.cross_entropy, rng)
        margin = estimator(model, x, goal.margin, rng)
        a, b = entropy.gradient.flatten(1), margin.gradient.flatten(1)
        dead, flat = (a == 0).all(1), (b == 0).all(1)
        certain = (goal.cross_entropy(entropy.logits) == 0).all(0)
        unit = [_unit(g) for g in (a, b)]
        cosine = torch.where(dead | flat, torch.nan, (unit[0] * unit[1]).sum(1))
        return {
            "saturated": (dead | certain) & ~flat,
            "zero_gradient": flat,
            "alignment": cosine,
            "tied": _tied(entropy.logits),
            "carriers": self._carriers(model, entropy.logits, goal.cross_entropy),
        }

    def _carriers(self, model: Classifier, logits: Tensor, loss: Loss) -> Tensor:
        if not model.stochastic:
            return torch.full((logits.shape[1],), torch.nan)
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
        size = gradient.norm(dim=-1)
        size = size / size.amax(0).clamp_min(1e-38)
        return size.sum(0) ** 2 / (size**2).sum(0).clamp_min(1e-38)


def _tied(logits: Tensor) -> Tensor:
    """Share (B,) of the draws (n, B, C) whose decision is a tie."""
    top = logits.topk(2, -1).values
    return (top[..., 0] == top[..., 1]).float().mean(0)


def _unit(gradient: Tensor) -> Tensor:
    """Rows (B, …) of length 1. Scaled first: the squares of a saturated network's gradient are 0 in float32."""
    scaled = gradient / gradient.abs().amax(1, keepdim=True).clamp_min(1e-38)
    return scaled / scaled.norm(dim=1, keepdim=True).clamp_min(1e-12)
