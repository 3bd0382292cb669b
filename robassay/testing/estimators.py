"""The exam of an estimator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robassay.errors import UsageError
from robassay.estimators import Directed, Estimator
from robassay.testing.exam import RNG, Result, examine, need
from robassay.testing.nets import ExamNet, exam_images
from robassay.threat import Goal, Loss

SHAPE = (1, 3, 3)  # few pixels: finite differences need many directions per pixel
COUNT = 4
STREAMS = 16
NOISE = 0.5


def check_estimator(estimator: Estimator, cosine: float = 0.99) -> list[Result]:
    """Examine an estimator on two small networks whose gradients are known, one of them random.

    Args:
        estimator: as configured; its answers on 16 streams are averaged.
        cosine: what the cosine with the true gradient must exceed, per image. Lower it for an estimator that follows
            another function on purpose, such as large rotations.

    Raises:
        ContractError: broken promises, all of them.
        UsageError: ``estimator`` is no Estimator.
    """
    if not isinstance(estimator, Estimator):
        raise UsageError(f"check_estimator examines an Estimator, this is a {type(estimator).__name__}.")
    case = _Case(estimator, cosine)
    return examine(
        type(estimator).__name__,
        [
            ("answers in the right shapes", case.answers),
            ("follows the true gradient of a smooth network, with its sign", case.follows_smooth),
            ("follows the gradient of the mean of a random network, with its sign", case.follows_mean),
            ("its value is the loss", case.values),
            ("its logits are draws at the images", case.shows_logits),
            ("is a pure function of its arguments", case.is_pure),
            ("its cost is what the network saw", case.costs),
        ],
    )


@dataclass(frozen=True)
class _Case:
    estimator: Estimator
    cosine: float

    def asked(self, net: ExamNet, i: int = 0, x: Tensor | None = None) -> Directed:
        x = exam_images(COUNT, SHAPE) if x is None else x
        return self.estimator(net, x, self.loss(net), RNG.child("estimator", i))

    def loss(self, net: ExamNet) -> Loss:
        goal = Goal(torch.arange(COUNT) % net.classes)
        return goal.margin if net.classes == 2 else goal.cross_entropy  # a margin of more classes has kinks

    def answers(self) -> None:
        x, net = exam_images(COUNT, SHAPE), ExamNet(SHAPE)
        found = self.asked(net)
        need(isinstance(found, Directed), f"it returned a {type(found).__name__}. Return Directed(…).")
        need(found.value.shape == (COUNT,), f"value has shape {tuple(found.value.shape)}, expected {(COUNT,)}.")
        need(found.gradient.shape == x.shape, f"gradient has shape {tuple(found.gradient.shape)}, expected that of x.")
        shape = tuple(found.logits.shape)
        need(shape[1:] == (COUNT, net.classes), f"logits have shape {shape}, expected (n, {COUNT}, {net.classes}).")
        need(found.gradient.isfinite().all() and found.value.isfinite().all(), "value or gradient is not finite.")
        need(not (found.gradient.requires_grad or found.value.requires_grad), "detach what is returned.")
        need(self.estimator.draws >= 1, "draws, its number of passes per point, is below 1.")

    def follows_smooth(self) -> None:
        self._follows(ExamNet(SHAPE))

    def follows_mean(self) -> None:
        # Logits are linear in this net's noise and a margin of two classes is linear in the logits: the gradient of
        # the mean margin is that of the quiet network, while every draw has another one.
        self._follows(ExamNet(SHAPE, classes=2, noise=NOISE))

    def _follows(self, net: ExamNet) -> None:
        found = torch.stack([self.asked(net, i).gradient for i in range(STREAMS)]).mean(0)
        with torch.enable_grad():
            x = exam_images(COUNT, SHAPE).requires_grad_()
            (true,) = torch.autograd.grad(self.loss(net)(net.quiet(x)).sum(), x)
        worst = torch.nn.functional.cosine_similarity(found.flatten(1), true.flatten(1)).min().item()
        sign = " A negative cosine is a wrong sign: such an attack makes every model look robust." if worst < 0 else ""
        need(worst > self.cosine, f"the cosine with the true gradient is {worst:.3f}, needed {self.cosine}.{sign}")

    def values(self) -> None:
        net = ExamNet(SHAPE, classes=2, noise=NOISE)
        found = torch.stack([self.asked(net, i).value for i in range(STREAMS)])
        with torch.no_grad():
            true = self.loss(net)(net.quiet(exam_images(COUNT, SHAPE)))
        allowed = 5 * found.std(0) / STREAMS**0.5 + 0.05 * (1 + true.abs())
        worst = ((found.mean(0) - true).abs() - allowed).argmax()
        need(
            ((found.mean(0) - true).abs() <= allowed).all(),
            f"the value is {found.mean(0)[worst]:.3g} in the mean where the mean loss is {true[worst]:.3g}.",
        )

    def shows_logits(self) -> None:
        net = ExamNet(SHAPE)
        with torch.no_grad():
            true = net(exam_images(COUNT, SHAPE))
        gap = (self.asked(net).logits - true).abs().max().item()
        need(gap < 1e-3, f"logits differ by {gap:.2g} from those at the images. Attacks keep or drop images by them.")

    def is_pure(self) -> None:
        net, x = ExamNet(SHAPE, noise=NOISE), exam_images(COUNT, SHAPE)
        before = torch.get_rng_state()
        first = self.asked(net, x=x)
        need(torch.equal(before, torch.get_rng_state()), "it moves the global random state. Draw from rng.")
        need(torch.equal(x, exam_images(COUNT, SHAPE)), "it changes the images it was given. Work on x.clone().")
        need(all(p.grad is None for p in net.parameters()), "it leaves gradients in the parameters.")
        with RNG.child("elsewhere").active():
            again = self.asked(net, x=x)
        need(torch.equal(first.gradient, again.gradient), "two calls with the same stream differ. Draw from rng only.")

    def costs(self) -> None:
        net = ExamNet(SHAPE, noise=NOISE)
        cost = self.asked(net).cost
        seen = (net.forwards / COUNT, net.backwards / COUNT)
        need(seen == cost, f"cost says {tuple(cost)} passes per image, the network saw {seen}: (draws, gradients).")
