"""The nine schemes of Ge et al. 2020: how each trains a model, and how it is attacked, per data set and scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from robassay.access import White
from robassay.attacks.accept import KOfN
from robassay.attacks.cw import CW
from robassay.augment import Affine, Flip
from robassay.cell import Model
from robassay.cells import Craft, Examples
from robassay.classifier import Net
from robassay.data import Data
from robassay.defences.dropout import Dropout
from robassay.defences.magnet import PUBLISHED as MAGNETS
from robassay.defences.magnet import MagNet
from robassay.defences.random_spiking import RandomSpiking
from robassay.defences.region import PUBLISHED as REGIONS
from robassay.defences.region import Region
from robassay.defended import Regional, distil, guard
from robassay.errors import UsageError
from robassay.estimators import Evading
from robassay.goals import RandomTarget
from robassay.models import Train
from robassay.nets.backbone import Backbone
from robassay.nets.cnn import SmallCNN
from robassay.nets.cw_mnist import CWMnist
from robassay.nets.wrn import WRN
from robassay.offline import Offline
from robassay.portions import Portion
from robassay.protocols.stability import LENGTHS, QUALITIES
from robassay.protocols.translucent import Attacker, Scheme, Translucent, translucent
from robassay.recipe import Recipe
from robassay.threat import Threat

SCALES = ("smoke", "small", "full")
NAMES = ("Standard", "Dropout", "Distillation", "RS-1", "RS-1-Dropout", "RS-1-Adv", "MagNet", "Dropout-Adv", "RC")
SPIKING = ("RS-1", "RS-1-Dropout", "RS-1-Adv")
LONG = ("Standard", "Dropout", "RS-1", "RS-1-Adv")
"""Attacked on more images than the others at "small"."""
HOT = 100.0
"""Temperature of the distillation: so much larger are its logits, and the confidence that an attack asks for."""


@dataclass(frozen=True)
class Attacked:
    """How much is attacked.

    Args:
        attack: a targeted minimum-distance attack.
        images, few: the first so many test images, under the ``LONG`` schemes and under the others.
        kappas, fewer: confidences, likewise.
        models: attacked together, and as many held out; 1 for one of each and no joint attack.
        pass_at: of the other held-out models.
        alone: models that are also attacked alone.
        repeats: decisions of a random model per image.
        batch: images attacked and judged together.
        cut: the paper's largest L2.
    """

    attack: CW
    images: int
    few: int
    kappas: tuple[float, ...]
    fewer: tuple[float, ...]
    models: int = 8
    pass_at: int = 5
    alone: int = 4
    repeats: int = 20
    batch: int = 500
    cut: float = 3.0


@dataclass(frozen=True)
class Kit:
    """What the schemes are made of on one data set.

    Args:
        data: the data set.
        net, recipe, limit: what is trained, how, on how many of a model's images.
        names: the schemes, in the paper's order.
        rate: of dropout.
        later: images from which a trained RS-1 or Dropout network goes on to RS-1-Dropout and Dropout-Adv; None trains
            from scratch, as published.
        hot: images of a distillation's teacher and student, likewise.
        lessons: attack, confidences, images per confidence and images kept of the adversarial trainings.
        fewest: images kept of an attack on the Dropout network, which finds fewer; None for as many.
        magnet, region: settings of MagNet and of region-based classification.
        still: the latter where stability is measured, with fewer votes.
        effort: what is attacked.
        tested: test images behind an accuracy.
        calm: the first so many test images, whose decisions are to stand still.
        several: models of a scheme that are averaged there.
        lengths, qualities: of Gaussian noise in L2, of JPEG.
    """

    data: Data
    net: Backbone
    recipe: Recipe
    lessons: tuple[CW, tuple[float, ...], int, int]
    magnet: MagNet
    region: Region
    still: Region
    effort: Attacked
    names: tuple[str, ...] = NAMES
    rate: float = 0.5
    limit: int | None = None
    later: int | None = None
    hot: int | None = None
    fewest: int | None = None
    tested: int = 10_000
    calm: int = 1_000
    several: int = 8
    lengths: tuple[float, ...] = LENGTHS
    qualities: tuple[int, ...] = QUALITIES


def check_scale(scale: str) -> bool:
    """Whether a scale is the published one.

    Raises:
        UsageError: unknown scale.
    """
    if scale not in SCALES:
        raise UsageError(f"scale='{scale}' is not known. Write smoke, small or full.")
    return scale == "full"


def grey(data: Data, scale: str) -> Kit:
    """MNIST with the C&W network, Tables 6 and 7; at "smoke" any small images."""
    magnet, region = MAGNETS["mnist"], REGIONS["mnist"]
    recipe = Recipe(epochs=50, batch=128, optimizer="sgd", lr=0.01, nesterov=True, decay=1e-6, keep="last")
    if check_scale(scale):
        cw, levels = CW(search=9, steps=1000), (0.0, 5.0, 10.0, 15.0)
        effort = Attacked(cw, 3000, 3000, levels, levels)
        return Kit(data, CWMnist(), recipe, (cw, levels, 3000, 10_000), magnet, region, _tenth(region), effort)
    short = Recipe(epochs=1, batch=32, lr=4e-3, decay=4e-3, keep="last")
    if scale == "small":
        net = CWMnist(padding="valid", features=50, width=0.25)
        effort = Attacked(CW(search=5, steps=150), 100, 25, (0.0, 5.0, 10.0), (0.0,), alone=2, repeats=10, batch=100)
        lessons = CW(search=3, steps=100), (0.0, 5.0, 10.0), 334, 830
        return Kit(data, net, short, lessons, _brief(magnet, 20), replace(region, votes=25),
                   replace(region, votes=10), effort, later=3_000, hot=9_000, fewest=660, tested=500, calm=40,
                   several=3, lengths=(0.0, 1.0, 2.0, 5.0), qualities=(10, 40, 70, 100))  # fmt: skip
    tiny = SmallCNN(8, 32)
    cw = CW(search=2, steps=15)
    effort = Attacked(cw, 12, 8, (0.0,), (0.0,), 2, 1, 2, repeats=4, batch=12)
    short = replace(short, epochs=3, batch=16)
    few = replace(_brief(magnet, 1), fpr=0.01)
    return Kit(data, tiny, short, (CW(search=5, steps=20), (0.0,), 40, 8), few, replace(region, radius=0.2, votes=10),
               replace(region, radius=0.2, votes=5), effort, later=200, hot=200, tested=40, calm=10, several=2,
               lengths=(0.0, 2.0, 5.0), qualities=(10, 40, 70))  # fmt: skip


def wide(data: Data, scale: str) -> Kit:
    """Fashion-MNIST and CIFAR-10 with wide residual networks, Tables 6 and 7; four schemes below "full"."""
    colour = data.shape[0] == 3
    magnet, region = (MAGNETS["cifar10"], REGIONS["cifar10"]) if colour else (
        MAGNETS["fashion-mnist"], REGIONS["fashion-mnist"])  # fmt: skip
    names = ("Standard", "Dropout", "RS-1", "RC")
    if check_scale(scale):
        recipe = Recipe(epochs=200, batch=128, optimizer="sgd", lr=0.1, nesterov=True, weight_decay=5e-4,
                        milestones=(60, 120, 160), gamma=0.2, keep="last",
                        augment=(Affine(shift=8.0 if colour else 4.0), Flip()))  # fmt: skip
        levels = tuple(20.0 * k for k in range(6 if colour else 4))
        joint, each = ((0.0, 20.0, 40.0, 60.0), 2000) if colour else ((0.0, 10.0, 20.0, 30.0), 3000)
        cw = CW(search=9, steps=1000)
        effort = Attacked(cw, each, each, joint, joint, cut=1.0)
        return Kit(
            data,
            WRN(),
            recipe,
            (cw, levels, each, 10_000),
            magnet,
            region,
            _tenth(region),
            effort,
            rate=0.1,
            lengths=(0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
        )
    recipe = Recipe(epochs=2, batch=32, lr=4e-3, step=1, gamma=0.25, keep="last")
    if scale == "small":
        effort = Attacked(CW(search=5, steps=60), 25, 25, (0.0, 5.0), (0.0, 5.0), models=1, repeats=10, batch=25,
                          cut=1.0)  # fmt: skip
        limit, votes, tested, calm = 4_000, 50, 200, 30
    else:
        effort = Attacked(CW(search=2, steps=8), 8, 8, (0.0,), (0.0,), models=1, repeats=4, batch=8, cut=1.0)
        limit, votes, tested, calm = 200, 5, 40, 8
    return Kit(data, WRN(10, 1), recipe, (effort.attack, (0.0,), 20, 10), _brief(magnet, 1),
               replace(region, votes=votes), replace(region, votes=5), effort, names, 0.1, limit,
               tested=tested, calm=calm, several=2, lengths=(0.0, 1.0, 2.5), qualities=(10, 40, 70, 100))  # fmt: skip


def _tenth(region: Region) -> Region:
    """As in the paper where stability is measured."""
    return replace(region, votes=region.votes // 10)


def _brief(magnet: MagNet, epochs: int) -> MagNet:
    detectors = tuple(replace(d, encoder=replace(d.encoder, epochs=epochs)) for d in magnet.detectors)
    return replace(magnet, reformer=replace(magnet.reformer, epochs=epochs), detectors=detectors)


def schemes(kit: Kit) -> dict[str, Scheme]:
    """How each scheme trains a model on a share of the images.

    Adversarial schemes learn images that were made once, on the first model of the scheme without them. All MagNets
    have the same auto-encoders, which have learnt all images, so that an attacker knows the target's.
    """

    def of(net: Net | Backbone, known: Offline | None = None) -> Callable[[Portion, int], Train]:
        return lambda portion, seed: Train(net, portion, kit.recipe, seed, kit.limit, extra=known)

    def going_on(net: Net, from_: Callable[[Portion, int], Train], known: Offline | None = None) -> Scheme:
        if kit.later is None:
            return of(net, known)
        return lambda p, s: Train(net, p, kit.recipe, s, kit.later, begin=from_(p, s), extra=known)

    spiking, dropping = RandomSpiking(kit.net), Dropout(kit.net, kit.rate)
    first, dropout = Portion(kit.data, 0), of(dropping)
    made: dict[str, Callable[[], Scheme]] = {
        "Standard": lambda: of(kit.net),
        "Dropout": lambda: dropout,
        "Distillation": lambda: lambda p, s: _distilled(dropping, p, s, kit),
        "RS-1": lambda: of(spiking),
        "RS-1-Dropout": lambda: going_on(RandomSpiking(kit.net, dropout=kit.rate), of(spiking)),
        "RS-1-Adv": lambda: of(spiking, lessons(of(spiking)(first, 0), kit)),
        "MagNet": lambda: lambda p, s: guard(dropout(p, s), kit.data, kit.magnet),
        "Dropout-Adv": lambda: going_on(dropping, dropout, lessons(dropout(first, 0), kit, kit.fewest)),
        "RC": lambda: lambda p, s: Regional(dropout(p, s), kit.region),
    }
    return {name: made[name]() for name in kit.names}


def _distilled(net: Net, portion: Portion, seed: int, kit: Kit) -> Train:
    """As published; or a teacher and a student that begin with a whole Dropout training and learn fewer images."""
    if kit.hot is None:
        return distil(net, portion, kit.recipe, seed=seed, limit=kit.limit)
    hot = replace(kit.recipe, temperature=HOT)
    begin = Train(net, portion, kit.recipe, seed, kit.limit)
    teacher = Train(net, portion, hot, seed, kit.hot, begin=begin)
    return Train(net, portion, hot, seed, kit.hot, begin=begin, teacher=teacher)


def lessons(model: Model, kit: Kit, fewest: int | None = None) -> Offline:
    """Targeted images of training images at several confidences, the nearest of them (§5.1.1, Table 3)."""
    attack, levels, each, keep = kit.lessons
    crafts = [
        Craft((model,), part, attack, Threat("l2"), White(), RandomTarget(kappa=kappa))
        for i, kappa in enumerate(levels)
        for part in Examples(kit.data, "train", i * each, (i + 1) * each).slices(334)
    ]
    return Offline(tuple(crafts), keep=fewest or keep)


def attacker(kit: Kit, name: str) -> Attacker:
    """Who attacks a scheme: past MagNet's detectors, and with a distillation's own scale of confidence."""
    effort, long = kit.effort, name in LONG
    kappas = effort.kappas if long else effort.fewer
    if name == "Distillation":
        kappas = tuple(HOT * kappa for kappa in kappas)
    on = Examples(kit.data, "test", 0, effort.images if long else effort.few)
    access = White(Evading()) if name == "MagNet" else White()
    return Attacker(effort.attack, on, kappas, effort.repeats, effort.batch, access)


def boxes_of(kit: Kit, names: tuple[str, ...] = NAMES) -> dict[str, Translucent]:
    """The translucent box of every scheme; none where the effort has one model of each only."""
    e = kit.effort
    if e.models < 2:
        return {}
    return {
        name: translucent(scheme, kit.data, attacker(kit, name), e.models, e.models, e.pass_at, e.alone)
        for name, scheme in schemes(kit).items()
        if name in names
    }


def stronger(kit: Kit, name: str) -> Attacker:
    """The same at confidence 0, that takes an image for found only where five of eight fresh draws are fooled."""
    attacker_ = attacker(kit, name)
    on = replace(attacker_.on, stop=kit.effort.few)
    return replace(attacker_, attack=replace(kit.effort.attack, accept=KOfN(5, 8)), on=on, kappas=(0.0,))
