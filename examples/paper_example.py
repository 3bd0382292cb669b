"""Cohen, Rosenfeld, Kolter 2019: Certified Adversarial Robustness via Randomized Smoothing (ICML).

Reproduced on digits: a network that is trained and asked under Gaussian noise of deviation σ and decides by the
majority of its passes, under PGD at the L2 radii of the paper's Table 1; three sentences of the paper as claims; the
audit of σ = .5. Published beside it: Table 1, ImageNet, certified accuracy at a radius and standard accuracy.

Run:   robassay run examples/paper_example.py --scale smoke
Cost:  smoke a quarter of a minute, small one minute, full two, on one core. No scale has ImageNet.

Deviations: the small CNN instead of a ResNet-50; 20 passes vote instead of 100,000, and nobody abstains. The paper
certifies, which bounds what any attack can do from below; PGD bounds it from above: ours and theirs enclose what is
true of a network and do not have to agree. Images of 64 pixels with a mean norm of about 4 allow less noise than
ImageNet's, so that L2 2 and 3 leave nothing here. The audit judges single passes, not votes. Only quoted, not built:
certification, Tables 2 and following. At small all claims hold, with the union, too; no flaw is found in σ = .5.
"""

import torch

import robassay as ra
from robassay.attacks.gradient import PGD
from robassay.attacks.square import Square
from robassay.auditing import describe_audit
from robassay.contrasts import Contrasts
from robassay.folds import Difference
from robassay.nets.cnn import SmallCNN
from robassay.training import Recipe

IMAGES = {"smoke": 40, "small": 200, "full": 360}
EPOCHS = {"smoke": 20, "small": 60, "full": 120}
SIGMAS = (0.25, 0.5, 1.0)
RADII = (0.5, 1.0, 2.0, 3.0)
STANDARD = {0.25: 0.67, 0.5: 0.57, 1.0: 0.44}
CERTIFIED = {(0.25, 0.5): 0.49, (0.5, 1.0): 0.37, (0.5, 2.0): 0.19, (1.0, 3.0): 0.12}
"""By deviation, and by deviation and radius: Table 1 has the best deviation for each radius."""
PASSES, VOTES = 5, 20
USUAL = PGD(steps=20)
STRONG = (PGD(steps=40), PGD(steps=40, loss="margin"))


class Smoothed(ra.Classifier):
    """A network that sees its image under Gaussian noise, the same in training."""

    stochastic = True
    rows = "independent"

    def __init__(self, inner: ra.Classifier, sigma: float) -> None:
        super().__init__()
        self.inner, self.sigma, self.classes = inner, sigma, inner.classes

    def draw(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h + self.sigma * torch.randn_like(h))

    def quiet(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h)


@ra.part(name="smoothing", source="Cohen et al. 2019, §3 and §3.3")
class Smoothing(ra.Net):
    """SmallCNN under Gaussian noise of deviation ``sigma`` > 0, in units of pixels in [0, 1]."""

    sigma: float = 0.25

    def build(self, shape: tuple[int, int, int], classes: int) -> ra.Classifier:
        return Smoothed(SmallCNN().build(shape, classes), self.sigma)


def clean(model: ra.Train, on: ra.Examples) -> tuple[ra.Score, ...]:
    """Decisions by majority."""
    return (ra.Score(model, on, ra.VoteOf(VOTES), repeats=4),)


def attacked(model: ra.Train, on: ra.Examples, radius: float, attack: ra.Attack) -> tuple[ra.Score, ...]:
    """Decisions by majority about images made with the gradient of the mean probability."""
    access = ra.White(ra.Backprop(PASSES, "probs")) if attack.access is ra.GradientAccess else ra.Scores(ra.Once())
    craft = ra.Craft((model,), on, attack, ra.Threat("l2", radius), access)
    return (ra.Score(model, craft, ra.VoteOf(VOTES), repeats=4),)


def table(nets: dict[str, ra.Train], on: ra.Examples) -> ra.Table:
    """Table 1: standard accuracy and what is left at each radius."""
    entries = {(row, "standard"): ra.Measure((clean(net, on),), ra.Accuracy()) for row, net in nets.items()}
    for row, net in nets.items():
        for radius in RADII:
            entries[row, f"L2 {radius:g}"] = ra.Measure((attacked(net, on, radius, USUAL),), ra.Accuracy())
    published = {(f"σ {sigma:g}", "standard"): value for sigma, value in STANDARD.items()}
    published |= {(f"σ {sigma:g}", f"L2 {radius:g}"): value for (sigma, radius), value in CERTIFIED.items()}
    caption = (
        f"Table 1: published certified and standard accuracy on ImageNet, ours what PGD-20 leaves of {on.stop} digits"
    )
    return ra.Table("cohen-1", caption, tuple(nets), ("standard", *(f"L2 {r:g}" for r in RADII)), entries, published)


def lead(one: ra.Train, other: ra.Train, on: ra.Examples, radius: float, attacks: tuple[ra.Attack, ...]) -> ra.Measure:
    """How much more one network keeps than another under the worst, per image, of several attacks."""
    evaluations = tuple(attacked(net, on, radius, attack) for net in (one, other) for attack in attacks)
    return ra.Measure(evaluations, Contrasts((len(attacks), len(attacks)), (1.0, -1.0)))


def checks(nets: dict[str, ra.Train], on: ra.Examples) -> list[ra.Check]:
    """Claims c1 to c3; those about robustness once more with the union."""
    none, low, middle, high = nets.values()
    costs = ra.Measure((clean(low, on), clean(high, on)), Difference())
    found = [ra.Check("c1", "more noise costs standard accuracy (σ .25 less σ 1)", costs)]
    for id, words, pair, radius in (
        ("c2", "smoothing keeps more than no noise at L2 .5 (σ .25)", (low, none), 0.5),
        ("c3", "at L2 1 more noise keeps more (σ .5 less σ .25)", (middle, low), 1.0),
    ):
        found.append(ra.Check(id, words, lead(*pair, on, radius, (USUAL,))))
        union = lead(*pair, on, radius, (USUAL, *STRONG, Square(queries=200)))
        found.append(ra.Check(f"{id}-union", f"{words}, worst of four attacks", union))
    return found


def study(scale: str) -> ra.Study:
    """Table 1, its curve, the claims and the audit of σ = .5."""
    data, recipe = ra.find("digits"), Recipe(epochs=EPOCHS[scale], lr=3e-3)
    on = ra.Examples(data, "test", 0, IMAGES[scale])
    nets = {"no noise": ra.Train(SmallCNN(), data, recipe)}
    nets |= {f"σ {sigma:g}": ra.Train(Smoothing(sigma), data, recipe) for sigma in SIGMAS}
    series = {
        row: tuple(ra.Measure((attacked(net, on, r, USUAL),), ra.Accuracy()) for r in RADII)
        for row, net in nets.items()
    }
    curve = ra.Curves("cohen-curve", "What PGD-20 leaves", "L2 radius", "accuracy", RADII, series)
    audit = describe_audit(nets["σ 0.5"], on, ra.Threat("l2", 0.5), name="audit-smoothing", draws=50,
                           claimed=f"pgd:steps=20,draws={PASSES},average=probs")  # fmt: skip
    items = (table(nets, on), curve, *checks(nets, on), audit)
    return ra.Study("cohen2019", f"Randomized smoothing ({scale})", items, scale=scale, cites=("Cohen et al. 2019",))
