"""The data sets of Ge et al. 2020 as columns of its tables: models of every scheme, attacked and judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from robassay.cell import Model
from robassay.cells import Examples, Score
from robassay.defended import Regional
from robassay.gates import MeanAccuracy
from robassay.papers.ge_schemes import Kit, attacker, boxes_of, schemes, stronger
from robassay.policy import MeanOf, Once, Policy
from robassay.portions import Portion
from robassay.protocols.stability import averaged
from robassay.protocols.translucent import Attacker, Translucent, Trials, across, group
from robassay.study import Curves, Evaluation, Measure

GREY, WIDE = "MNIST", {"Fashion-MNIST": "fashion_mnist", "CIFAR-10": "cifar10"}
"""Columns; the second ones by the name of their data."""
SLICE = 2500


@dataclass(frozen=True)
class Column:
    """A data set.

    Args:
        name: in the tables.
        kit: what the schemes are made of.
        boxes: the translucent box of each scheme; none where one model of each is attacked only.
        single: models attacked alone, by scheme.
        models, held: all models of a scheme, and those that no attack sees.
    """

    name: str
    kit: Kit
    boxes: dict[str, Translucent]
    single: dict[str, Trials]
    models: dict[str, tuple[Model, ...]]
    held: dict[str, tuple[Model, ...]]

    @property
    def judge(self) -> Attacker:
        """Who judges: the same for all attacks."""
        return attacker(self.kit, self.kit.names[0])

    def size(self, scheme: str, joint: bool) -> Measure | None:
        """Mean L2 at K = 0, of a cell of Table 4 or 5."""
        if joint:
            return self.boxes[scheme].joint.at(0).distance() if scheme in self.boxes else None
        return self.single[scheme].at(0).distance() if scheme in self.single else None

    def accuracy(self, scheme: str) -> Measure:
        """Mean accuracy of a scheme's models."""
        policy = policy_of(scheme, self.kit)
        on = Examples(self.kit.data, "test", 0, self.kit.tested)
        many = tuple(
            tuple(Score(model, part, policy, repeats=1) for part in on.slices(SLICE)) for model in self.models[scheme]
        )
        return Measure(many, MeanAccuracy())

    def crossed(self, source: str, target: str) -> tuple[Evaluation, ...]:
        """What was made for one scheme, judged on another's held models; then the gates, as in ``Crossed``."""
        if self.boxes:
            found = across(self.boxes[source], self.boxes[target], self.judge).evaluations
            return found  # type: ignore[return-value]
        return tuple(
            one
            for made in self.single[source].groups
            for one in (*(self.judge.judge(made.crafts, model) for model in self.held[target]), *made.held)
        )

    def onto(self, target: str, sources: Iterable[str]) -> tuple[Evaluation, ...]:
        """All that was made for some schemes (with several surrogates where there are), held model by held model."""
        trials = {name: self.boxes[name].joint if self.boxes else self.single[name] for name in sources}
        return tuple(
            self.judge.judge(made.crafts, model)
            for model in self.held[target]
            for found in trials.values()
            for made in found.groups
        )

    def against_first(self, scheme: str) -> tuple[Evaluation, ...]:
        """All white boxes on the first model of a scheme: the paper's, joint ones, and one that doubts lucky draws."""
        model = self.models[scheme][0]
        alone = [g.own[0] for g in self.single[scheme].groups if g.crafts[0].sources == (model,)]
        joint = [g.own[0] for g in self.boxes[scheme].joint.groups] if scheme in self.boxes else []
        more = self.judge.judge(stronger(self.kit, scheme).craft((model,), 0.0), model)
        return (*alone, *joint, more)

    def together(self, scheme: str) -> tuple[Evaluation, ...]:
        """All joint white boxes, each judged on all models that it was made on."""
        return tuple(one for g in self.boxes[scheme].joint.groups for one in g.own)

    def noise(self, told: str) -> Curves:
        """Figure 1."""
        return self._still("1", f"Figure 1, {self.name}: Gaussian noise, 20 draws{told}", self.kit.lengths, ())

    def jpeg(self, told: str) -> Curves:
        """Figure 2."""
        return self._still("2", f"Figure 2, {self.name}: JPEG{told}", (), self.kit.qualities)

    def _still(self, number: str, caption: str, lengths: tuple[float, ...], qualities: tuple[int, ...]) -> Curves:
        shown = {name: [self._calm(name, m) for m in self._several(name)] for name in self.kit.names}
        on = Examples(self.kit.data, "test", 0, self.kit.calm)
        return averaged(f"ge2020-figure-{number}-{slug(self.name)}", caption, shown, on, lengths, qualities)

    def _several(self, scheme: str) -> tuple[Model, ...]:
        return (*self.held[scheme], *self.models[scheme])[: self.kit.several] if self.boxes else self.models[scheme]

    def _calm(self, scheme: str, model: Model) -> tuple[Model, Policy]:
        if isinstance(model, Regional):  # with fewer votes
            return replace(model, region=self.kit.still), self.kit.still.policy
        return model, policy_of(scheme, self.kit)


def policy_of(scheme: str, kit: Kit) -> Policy:
    """How a scheme decides: "MC Avg." of ten passes but for those that have no noise or vote."""
    return Once() if scheme == "Standard" else kit.region.policy if scheme == "RC" else MeanOf(10)


def column(name: str, kit: Kit) -> Column:
    """A data set with all its schemes."""
    boxes = boxes_of(kit)
    if boxes:
        single = {n: box.single for n, box in boxes.items()}
        models = {n: (*box.attacked, *box.held) for n, box in boxes.items()}
        return Column(name, kit, boxes, single, models, {n: box.held for n, box in boxes.items()})
    models = {n: tuple(make(Portion(kit.data, i), i) for i in range(2)) for n, make in schemes(kit).items()}
    single = {n: _alone(attacker(kit, n), *pair) for n, pair in models.items()}
    return Column(name, kit, {}, single, models, {n: pair[1:] for n, pair in models.items()})


def _alone(one: Attacker, source: Model, unseen: Model) -> Trials:
    return Trials(tuple(group(one, (source,), (unseen,), kappa) for kappa in one.kappas))


def slug(name: str) -> str:
    """ "cifar10" of CIFAR-10."""
    return name.lower().replace("-", "")
