"""White-box figures: distances and success of minimum-distance attacks over their two constants, one model or many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from robassay.attacks.weighed import Weighed
from robassay.cell import Model
from robassay.cells import Examples
from robassay.errors import UsageError
from robassay.folds import Accuracy, Distortion, Success
from robassay.gates import Joint
from robassay.goals import Aim
from robassay.policy import Policy
from robassay.protocols.parts import Means, clean, judged
from robassay.study import Curves, Measure, Table

SUCCESS, DISTANCE = "attack success", "mean L2 of successes"


def white_box(
    id: str, caption: str, models: Mapping[str, Model], means: Mapping[str, Means], images: Examples
) -> tuple[Table, Table]:
    """Success and mean distance of attacks on each model, and on all of them at once.

    Together, the losses are summed and an image counts where it fools every model (Ge et al. 2020, "Multi-8").

    Args:
        id, caption: of the tables.
        models: what is attacked; the first says which images are right when clean where all are attacked.
        means: attacks by name, the columns.
        images: which images.

    Raises:
        UsageError: one model only.
    """
    if len(models) < 2:
        raise UsageError("to attack several models at once takes two at least. Give more models.")
    right = {name: clean(model, images) for name, model in models.items()}
    together = f"all {len(models)} together"
    success, distance = {}, {}
    for word, one in means.items():
        for name, model in models.items():
            found = judged(model, one.on((model,), images))
            success[name, word] = Measure((found, right[name]), Success())
            distance[name, word] = Measure((found,), Distortion())
        crafts = one.on(tuple(models.values()), images)
        all_of = tuple(judged(model, crafts) for model in models.values())
        success[together, word] = Measure(all_of, Joint())
        distance[together, word] = Measure(all_of, Distortion())
    rows, columns = (*models, together), tuple(means)
    return (
        Table(f"{id}-success", f"{caption}: success", rows, columns, success),
        Table(f"{id}-distance", f"{caption}: mean L2 of successes", rows, columns, distance, unit="L2"),
    )


def over_kappa(
    id: str, caption: str, models: Mapping[str, Model], means: Means, images: Examples, kappas: tuple[float, ...]
) -> tuple[Curves, Curves]:
    """Success of CW, and the distance it takes, over the confidence κ it must reach."""
    steps = [replace(means, aim=with_kappa(means.aim, kappa)) for kappa in kappas]
    return _over(id, caption, "κ", kappas, models, steps, images)


def over_c(
    id: str, caption: str, models: Mapping[str, Model], means: Means, images: Examples, constants: tuple[float, ...]
) -> tuple[Curves, Curves]:
    """Success of CW, and the distance it takes, over a fixed constant c, without a search: Tan et al. 2020 on random
    networks, where one lucky evaluation would end a search.

    Raises:
        UsageError: the attack has no such constant.
    """
    if not isinstance(means.attack, Weighed):
        raise UsageError(f"{type(means.attack).__name__} has no constant c. Write CW(…) or ModCW(…).")
    attacks = [replace(means.attack, search=1, c0=c) for c in constants]
    return _over(id, caption, "c", constants, models, [replace(means, attack=attack) for attack in attacks], images)


def with_kappa(aim: Aim, kappa: float) -> Aim:
    """An aim with another confidence.

    Raises:
        UsageError: the aim has none.
    """
    if "kappa" not in {field.name for field in fields(aim)}:  # type: ignore[arg-type]
        raise UsageError(
            f"{type(aim).__name__} has no confidence. Write Untargeted(kappa=…), or RandomTarget(kappa=…)."
        )
    changed: Aim = replace(aim, kappa=kappa)  # type: ignore[type-var]
    return changed


def _over(
    id: str,
    caption: str,
    axis: str,
    values: tuple[float, ...],
    models: Mapping[str, Model],
    means: list[Means],
    images: Examples,
) -> tuple[Curves, Curves]:
    found = {name: [judged(model, one.on((model,), images)) for one in means] for name, model in models.items()}
    right = {name: clean(model, images) for name, model in models.items()}
    shares = {n: tuple(Measure((e, right[n]), Success()) for e in line) for n, line in found.items()}
    sizes = {n: tuple(Measure((e,), Distortion()) for e in line) for n, line in found.items()}
    return (
        Curves(f"{id}-success", f"{caption}: success", axis, SUCCESS, values, shares),
        Curves(f"{id}-distance", f"{caption}: distance", axis, DISTANCE, values, sizes, unit="L2"),
    )


def policies(
    id: str, caption: str, models: Mapping[str, Model], by: Mapping[str, Policy], means: Means, images: Examples
) -> Table:
    """Accuracy without and under attack of each model, decided in several ways from the same attacked images.

    The attacker does not know which procedure judges: what differs between two columns is the procedure alone.
    """
    entries = {}
    for name, model in models.items():
        crafts = means.on((model,), images)
        for word, policy in by.items():
            for state, found in (
                ("clean", clean(model, images, policy)),
                ("attacked", judged(model, crafts, policy)),
            ):
                entries[name, f"{word}, {state}"] = Measure((found,), Accuracy())
    columns = tuple(f"{word}, {state}" for state in ("clean", "attacked") for word in by)
    return Table(id, caption, tuple(models), columns, entries)
