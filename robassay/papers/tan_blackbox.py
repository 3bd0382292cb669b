"""Black boxes of Tan et al. 2020: transfer (Table III), substitutes (Table IV, Figures 1, 2), mixtures (Figure 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from robassay.access import White
from robassay.attacks.accept import MeanOfDraws
from robassay.attacks.cw import CW, ModCW
from robassay.attacks.gradient import BIM, PGD
from robassay.attacks.weighed import Weighed
from robassay.cells import Examples, Score
from robassay.classifier import Net
from robassay.comparison import Comparison
from robassay.estimators import Backprop
from robassay.leads import Carried
from robassay.nets.bsn import BSN, BSNL
from robassay.nets.cnn import SmallCNN
from robassay.nets.resnet import ResNet18
from robassay.papers.fixtures import nets
from robassay.papers.published import Printed, table
from robassay.papers.tan_settings import LATCH, WHOLE, Setting
from robassay.papers.victims import IN_BALL, POLICY, RADII, assaults, crafted
from robassay.protocols.mixtures import CLEAN, PUBLISHED, WORST, mixtures
from robassay.protocols.parts import Means
from robassay.protocols.substitutes import AVERAGED, SURE, Outcome, by_substitute
from robassay.recipe import Recipe
from robassay.study import Evaluation, Item, Measure, Table
from robassay.substitute import Substitute
from robassay.threat import Threat

SOURCE = "ResNet18"
ORACLES = ("MC-SEFRON", "BSN-L", "BNN-S", "BSN-2")
"""The paper's three, and a fourth that is cheap to ask."""
BY_NET, PLAIN, MIMIC = "ResNet18", "BSN", "BSN, variance mimicking"
"""Substitutes by the kind of their network."""
BALL, MARGIN, CARLINI, TURNED = "BIM 32/255", "PGD margin", "CWL2", "ModCWL2"
COPIES = 10
MEMBERS = ("ResNet18", "BSN-L", "BNN-S")
"""Of the mixtures."""


# ---------------------------------------------------------------------------------------------------------- transfer


@dataclass(frozen=True)
class Transfer:
    """What attacks on ResNet18 do to other networks: evaluations by network and attack, and their clean ones."""

    hit: dict[tuple[str, str], Evaluation]
    own: dict[str, Evaluation]
    """By attack: what ResNet18 itself decides, the gate."""
    clean: dict[str, Evaluation]
    right: Evaluation
    """ResNet18's decisions about the images as they are."""

    def sides(self, net: str, attack: str) -> tuple[Evaluation, ...]:
        """A network and the gate, each under the attack and clean, on the images that all of them have."""
        found = (self.hit[net, attack], self.clean[net], self.own[attack], self.right)
        common = min(len(slices) for slices in found)
        return tuple(slices[:common] for slices in found)


def transfer(setting: Setting, only: tuple[str, ...] = ()) -> Transfer:
    """Attacks on ResNet18, or ``only`` some, judged on all other networks, each on the images it is attacked on."""
    given = assaults(SOURCE, setting)
    steps = setting.effort(SOURCE).cw
    cw: Weighed = CW(search=1, steps=steps, c0=10.0)
    mod: Weighed = ModCW(search=1, steps=steps, c0=10.0)
    if setting.full:
        cw, mod = replace(cw, lr=5e-3), replace(mod, lr=5e-3)
    seen = given[CARLINI]
    given = {word: means for word, means in given.items() if word in (*IN_BALL, "Boundary")}
    given |= {CARLINI: replace(seen, attack=cw), TURNED: replace(seen, attack=mod)}
    given = {word: means for word, means in given.items() if word in only or not only}
    stop = setting.effort(SOURCE).walked
    crafts = {word: crafted(SOURCE, setting, means, stop) for word, means in given.items()}
    source = setting.nets[SOURCE].model
    hit: dict[tuple[str, str], Evaluation] = {}
    clean: dict[str, Evaluation] = {}
    for name, subject in setting.nets.items():
        if name in (SOURCE, LATCH):
            continue
        spent = setting.effort(name)
        many = -(-min(stop, spent.images) // spent.slice)
        for word, made in crafts.items():
            hit[name, word] = tuple(Score(subject.model, craft, POLICY, spent.launches) for craft in made[:many])
        parts = Examples(setting.data, "test", 0, spent.images).slices(spent.slice)
        clean[name] = tuple(Score(subject.model, part, POLICY, spent.launches) for part in parts)
    own = {word: tuple(Score(source, craft, POLICY, 1) for craft in made) for word, made in crafts.items()}
    whole = Examples(setting.data, "test", 0, stop).slices(setting.effort(SOURCE).slice)
    right = tuple(Score(source, part, POLICY, setting.effort(SOURCE).launches) for part in whole)
    return Transfer(hit, own, clean, right)


def transfer_table(setting: Setting, found: Transfer, absent: str = WHOLE) -> Table:
    """Table III, and the same on the other data set, which is ours."""
    printed, here = table("tan2020", "III"), setting.name == "CIFAR-10"
    rows = (*printed.rows, MARGIN) if here else tuple(found.own)
    cols = (*printed.cols, *(name for name in found.clean if name not in printed.cols))
    entries = {
        (row, col): Measure(found.sides(col, row), Carried()) for row in rows for col in cols if (col, row) in found.hit
    }
    gone = {(row, col): absent for row in rows for col in cols if (row, col) not in entries}
    beside = {cell: figure.value for cell, figure in printed.figures.items()} if here else {}
    caption = (
        f"Tan et al., Table III: share of the images that fool ResNet18 on {setting.name} which fool another network, "
        f"too, of those that both get right when clean; C&W with c = 10{setting.told}"
    )
    id = "tan2020-iii" if here else f"tan2020-iii-{setting.name.lower()}"
    return Table(id, caption, rows, cols, entries, beside, absent=gone)


def no_transfer(why: str) -> Table:
    """Table III without the data."""
    return _blank("tan2020-iii", "Tan et al., Table III: transfer from ResNet18 on CIFAR-10", table("tan2020", "III"),
                  why)  # fmt: skip


def _blank(id: str, caption: str, printed: Printed, why: str) -> Table:
    every = {(row, col): why for row in printed.rows for col in printed.cols}
    beside = {cell: figure.value for cell, figure in printed.figures.items()}
    return Table(id, caption, printed.rows, printed.cols, {}, beside, absent=every)


# -------------------------------------------------------------------------------------------------------- substitutes


@dataclass(frozen=True)
class Copied:
    """What attacks on substitutes do to their oracles, by oracle and kind of substitute."""

    outcomes: dict[tuple[str, str], Outcome]

    def hit(self, oracle: str, kind: str, attack: str) -> Evaluation:
        """The oracle's decisions about what an attack on a substitute made."""
        found: Evaluation = self.outcomes[oracle, kind].success[attack].evaluations[0]  # type: ignore[assignment]
        return found

    def sides(self, oracle: str, kind: str, attack: str) -> tuple[Evaluation, ...]:
        """The oracle and the substitute, each under an attack on the substitute and clean."""
        outcome = self.outcomes[oracle, kind]
        hit, gate = outcome.success[attack].evaluations
        return (hit, *outcome.oracle.evaluations, gate, *outcome.accuracy.evaluations)  # type: ignore[arg-type]

    def measure(self, oracle: str, kind: str, attack: str) -> Measure:
        """Success on the oracle over images that fool the substitute and that both get right when clean."""
        return Measure(self.sides(oracle, kind, attack), Carried(SURE))

    def clean(self, oracle: str, kind: str) -> Evaluation:
        """The oracle's decisions about the images as they are."""
        found: Evaluation = self.outcomes[oracle, kind].oracle.evaluations[0]  # type: ignore[assignment]
        return found


def copied(setting: Setting, scale: str) -> Copied:
    """Substitutes of the oracles, under attack; which kinds of which oracle are affordable."""
    full, small = setting.full, scale == "small"
    own = {"full": (8000, 10_000), "small": (9000, 9150), "smoke": (300, 330)}[scale]
    short = Recipe(epochs=10, batch=32, lr=2e-3, keep="last")
    if full:
        short = Recipe(epochs=10, batch=128, optimizer="sgd", lr=0.01, keep="last")
    elif not small:
        short = replace(short, epochs=2)
    random: Net = BSNL() if full else BSN()
    long = replace(short, epochs=20) if full else short
    copies = COPIES if full or small else 2
    plain: Net = ResNet18() if full else ResNet18(width=0.25) if small else SmallCNN()
    kinds = {BY_NET: (plain, short, 0), PLAIN: (random, long, 0), MIMIC: (random, long, copies)}
    mimicked = ORACLES if full else ORACLES[-1:]  # asking a slow oracle 100,000 times takes long
    outcomes = {}
    for oracle in ORACLES:
        spent = setting.effort(oracle)
        on = Examples(setting.data, "test", 0, min(spent.images, 40 if not full else 500))
        for kind, (net, recipe, mimic) in kinds.items():
            if kind == MIMIC and oracle not in mimicked:
                continue
            held = Examples(setting.data, "test", *own)
            rounds = 5 if full else 2 if small else 1
            made = Substitute(net, setting.nets[oracle].model, held, recipe, POLICY, rounds=rounds, mimic=mimic)
            outcomes[oracle, kind] = by_substitute(made, on, _against(setting), spent.launches, spent.slice)
    return Copied(outcomes)


def _against(setting: Setting) -> dict[str, Means]:
    spent, full = setting.usual, setting.full
    ball, small = Threat("linf", RADII["32/255"]), Threat("l2")
    cw: Weighed = CW(search=1, steps=spent.cw, c0=10.0, accept=MeanOfDraws(10))
    mod: Weighed = ModCW(search=1, steps=spent.cw, c0=10.0, accept=MeanOfDraws(10))
    if full:
        cw, mod = replace(cw, lr=5e-3), replace(mod, lr=5e-3)
    return {
        BALL: Means(BIM(steps=spent.bim, step=0.05, early=True), ball, AVERAGED),
        MARGIN: Means(PGD(steps=spent.bim, loss="margin", select=10), ball, AVERAGED),
        CARLINI: Means(cw, small, AVERAGED),
        TURNED: Means(mod, small, AVERAGED),
    }


def substitute_tables(found: dict[str, Copied | str], told: str) -> list[Item]:
    """Table IV, Figures 1 and 2 as tables, and what the substitutes cost; by data set, or why there is none."""
    printed = table("tan2020", "IV")
    cols = (*printed.cols, ORACLES[-1])
    attacks = {"BIM": BALL, "CWL2": CARLINI, "ModCWL2": TURNED}
    entries, gone = {}, {}
    for row in printed.rows:
        data, word = row.split(", ")
        made = found[data]
        for col in cols:
            if isinstance(made, str):
                gone[row, col] = made
            else:
                entries[row, col] = made.measure(col, BY_NET, attacks[word])
    beside = {cell: figure.value for cell, figure in printed.figures.items()}
    words = (
        f"; over images that both get right when clean and that fool the substitute in more than {SURE:.0%} of its "
        f"draws{told}"
    )
    caption = f"Tan et al., Table IV: success by a substitute, a ResNet18, on its oracle{words}"
    items: list[Item] = [Table("tan2020-iv", caption, printed.rows, cols, entries, beside, absent=gone)]
    titles = {
        "tan2020-fig1": ("Figure 1: ResNet18 or a stochastic substitute", (BY_NET, PLAIN), ("BNN-S", "MC-SEFRON")),
        "tan2020-fig2": ("Figure 2: plain or variance-mimicking substitutes", (PLAIN, MIMIC), ("BSN-L", "BNN-S")),
    }
    for id, (title, kinds, oracles) in titles.items():
        bars = {
            (f"{data}, {oracle}, {word}", kind): made if isinstance(made, str) else _bar(made, oracle, kind, attack)
            for data, made in found.items()
            for oracle in (*oracles, ORACLES[-1])
            for word, attack in (*attacks.items(), (MARGIN, MARGIN))
            for kind in kinds
        }
        rows = tuple(dict.fromkeys(row for row, _ in bars))
        there = {cell: bar for cell, bar in bars.items() if isinstance(bar, Measure)}
        why = {cell: bar for cell, bar in bars.items() if isinstance(bar, str)}
        items.append(Table(id, f"Tan et al., {title}{words}", rows, kinds, there, absent=why))
    return [*items, _cost(found)]


def _bar(made: Copied, oracle: str, kind: str, attack: str) -> Measure | str:
    return made.measure(oracle, kind, attack) if (oracle, kind) in made.outcomes else WHOLE


def _cost(found: dict[str, Copied | str]) -> Table:
    """Questions per own image, and how often substitute and oracle agree."""
    asked: dict[str, Callable[[Outcome], Measure]] = {"agreement with the oracle": lambda o: o.agreement,
                                                     "substitute's accuracy": lambda o: o.accuracy,
                                                     "oracle's accuracy": lambda o: o.oracle}  # fmt: skip
    outcomes = {
        f"{data}, {oracle} by {kind}": outcome
        for data, made in found.items()
        if isinstance(made, Copied)
        for (oracle, kind), outcome in made.outcomes.items()
    }
    entries = {(row, col): read(outcome) for row, outcome in outcomes.items() for col, read in asked.items()}
    caption = "How well the substitutes know their oracles, on the attacked images as they are"
    return Table("tan2020-substitutes", caption, tuple(outcomes), tuple(asked), entries)


# ----------------------------------------------------------------------------------------------------------- mixtures


def mixed(setting: Setting, scale: str) -> tuple[Table, Comparison]:
    """Figure 3 as a table, with what stronger attacks leave; "small" has the networks of "protocols-mixtures"."""
    name, data, names = setting.name, setting.data, MEMBERS
    stop, steps, repeats = {"full": (500, 100, 100), "small": (60, 40, 100), "smoke": (10, 2, 4)}[scale]
    members = {one: setting.nets[one].model for one in names}
    if scale == "small":
        names, shown = ("plain", "BSN-2", "BNN-S"), nets(data, False)
        members = {one: shown[one] for one in names}
    sets = (names[:2], names[::2], names)
    threat = Threat("linf", RADII["32/255"])
    averaged = White(Backprop(10 if scale != "smoke" else 2, average="logits"))
    bim = Means(BIM(steps=steps, step=0.05, early=True), threat, averaged)
    stronger = {MARGIN: Means(PGD(steps=steps, loss="margin"), threat, White(Backprop(5)))}
    images = Examples(data, "test", 0, stop)
    caption = f"Tan et al., Figure 3, on {name}: BIM at 32/255 of {steps} steps, {stop} images; then PGD on the margin"
    return mixtures(f"tan2020-fig3-{name.lower()}", caption, members, sets, bim, stronger, images, repeats)


def no_mixtures(name: str, why: str) -> Table:
    """Figure 3 where nothing is run."""
    rows = (*MEMBERS, *(" + ".join(those) for those in (MEMBERS[:2], MEMBERS[::2], MEMBERS)))
    cols = (CLEAN, PUBLISHED, WORST)
    gone = {(row, col): why for row in rows for col in cols}
    return Table(f"tan2020-fig3-{name.lower()}", f"Tan et al., Figure 3, on {name}", rows, cols, {}, absent=gone)
