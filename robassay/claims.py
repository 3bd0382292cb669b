"""The evaluation that a claim of robustness rests on, in a line: ``pgd:steps=10,loss=ce,draws=50``."""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import robassay.attacks  # noqa: F401  (registers them)
from robassay.access import Access, Attack, DecisionAccess, Decisions, GradientAccess, ScoreAccess, Scores, White
from robassay.attacks.apgd import APGD
from robassay.attacks.gradient import PGD
from robassay.attacks.weighed import Weighed
from robassay.errors import UsageError, suggest
from robassay.estimators import Backprop, Differences, Estimator
from robassay.policy import MeanOf, Once, VoteOf
from robassay.registry import load_file, named, part_name
from robassay.threat import LossName, Threat

STEPS, DRAWS = 10, 50
"""The field's usual attack: PGD-10 on cross-entropy, step eps/10, EoT over 50 draws."""
Average = Literal["loss", "probs", "logits"]
WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Claim:
    """An attack and how it deals with a random network.

    Args:
        attack: what was done.
        draws: passes per question: EoT of a gradient attack, passes per answer of the others; 0 where none are asked.
        average: what EoT averages.
    """

    attack: Attack
    draws: int = DRAWS
    average: Average = "loss"

    def access(self, differentiable: bool = True) -> Access | None:
        """What the claimed attack asks; without a gradient it differentiates numerically."""
        if self.attack.access is GradientAccess:
            return White(estimator(self.draws, self.average, differentiable))
        if self.attack.access is ScoreAccess:
            return Scores(Once() if self.draws == 1 else MeanOf(self.draws, "logits"))
        if self.attack.access is DecisionAccess:
            return Decisions(Once() if self.draws == 1 else VoteOf(self.draws))
        return None

    def __str__(self) -> str:
        own = [(f.name, getattr(self.attack, f.name)) for f in dataclasses.fields(self.attack)]  # type: ignore[arg-type]
        told = [*own, ("draws", self.draws)] if self.draws else own
        told += [("average", self.average)] if self.average != "loss" else []
        words = ",".join(f"{name}={_shown(value)}" for name, value in told)
        return f"{part_name(type(self.attack))}:{words}"


def estimator(draws: int, average: Average = "loss", differentiable: bool = True) -> Estimator:
    """How a white box is differentiated: by back-propagation, or numerically where it has no gradient.

    Raises:
        UsageError: an average of probabilities or logits where there is nothing to back-propagate.
    """
    if differentiable:
        return Backprop(draws, average)
    if average != "loss":
        raise UsageError(f"average={average} needs a gradient, and none reaches the image here. Leave it out.")
    return Differences(radius=0.05, pairs=20, draws=min(draws, 2))


def parse_claim(text: str, threat: Threat) -> Claim:
    """The claim that ``name:field=value,…`` says; nothing for the field's usual attack.

    ``FILE.py:name:field=value,…`` names an attack that a file of one's own registers with ``@part``.

    The name is that of a registered attack (``robassay list attacks``), the fields are its own, and ``draws`` and
    ``average`` belong to the estimator. What is left out is the attack's default; for pgd it is as in the field's usual
    attack: 10 steps of eps/10 (of eps/steps with fewer steps, which would not reach the edge of the ball) on
    cross-entropy, the last iterate unless there are restarts. Gradient attacks average over 50 draws.

    Raises:
        UsageError: no such file, attack or field, a value of another type, or a step beyond the range of a pixel.
    """
    try:
        return _parsed(text.strip() or "pgd", threat)
    except UsageError as error:
        raise UsageError(f"claimed '{text}': {error}") from error


def adequate(attack: Attack, steps: int) -> Attack:
    """An attack at an adequate budget: the same loss, ``steps`` steps or those claimed if they are more.

    Auto-PGD, which fits its steps to the loss by itself, answers for PGD and for every attack that takes one step,
    chooses its steps badly or is no ascent (FGSM, BIM, Square, noise; cross-entropy where it has no loss): otherwise
    a weakness of the search would be taken for masking. On an adversarially trained network PGD-80 left six points
    more than Auto-PGD did with the same loss and the same number of steps.
    """
    own = getattr(attack, "steps", 0)
    if isinstance(attack, (APGD, Weighed)):
        return dataclasses.replace(attack, steps=max(steps, own))
    loss: LossName = getattr(attack, "loss", "ce")
    known: LossName = loss if loss in get_args(LossName) else "ce"
    if isinstance(attack, PGD):
        return APGD(steps=max(steps, own), loss=known, restarts=attack.restarts)
    return APGD(steps=steps, loss=known)


def _parsed(text: str, threat: Threat) -> Claim:
    name, _, rest = text.partition(":")
    if name.strip().endswith(".py"):
        load_file(name.strip())
        name, _, rest = rest.partition(":")
    cls: Any = _attack(name.strip().lower())
    said = _pairs(rest)
    asked: dict[str, Any] = {"draws": int, "average": Average} if cls.access is GradientAccess else {"draws": int}
    hints = {**_hints(cls), **(asked if cls.access is not None else {})}
    values = {}
    for field, word in said.items():
        if field not in hints:
            raise UsageError(f"{name} has no field '{field}'. {suggest(field, list(hints))}")
        values[field] = _value(field, word, hints[field])
    few = DRAWS if cls.access is GradientAccess else 1 if cls.access is not None else 0
    how = {"draws": values.pop("draws", few), "average": values.pop("average", "loss")}
    if cls.access is not None and how["draws"] < 1:
        raise UsageError(f"draws={how['draws']}: a question needs at least one pass. Write draws=50.")
    if cls is PGD:
        values = {**_usual(values, threat), **values}
    step = values.get("step")
    if threat.norm == "linf" and isinstance(step, (int, float)) and step > 1:
        raise UsageError(f"step={step:g} is more than the whole range [0,1] of a pixel. Write step={step:g}/255?")
    return Claim(cls(**values), **how)


def _attack(name: str) -> type:
    try:
        return named("attacks", name)
    except UsageError as error:
        raise UsageError(f"{error} One of your own is FILE.py:NAME, FILE.py holding the class with @part.") from error


def _usual(said: dict[str, Any], threat: Threat) -> dict[str, Any]:
    steps = said.get("steps", STEPS)
    keep = "last" if said.get("restarts", 1) == 1 else "best"
    step = threat.eps / min(STEPS, max(1, steps)) if threat.eps is not None else None
    return {"steps": STEPS, "step": step, "loss": "ce", "keep": keep}


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for piece in text.split(",") if text.strip() else []:
        field, equals, word = (part.strip() for part in piece.partition("="))
        if not (field and equals and word):
            raise UsageError(
                f"'{piece.strip()}' is no field=value. Write name:field=value,field=value, as in pgd:steps=10."
            )
        if field in found:
            raise UsageError(f"{field} is given twice. Give it once.")
        found[field] = word
    return found


def _hints(cls: type) -> dict[str, Any]:
    """Fields that can be written as a word; one that holds another part cannot."""
    hints = get_type_hints(cls)
    own = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    return {name: hint for name, hint in own.items() if all(_plain(one) for one in _options(hint))}


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _plain(hint: Any) -> bool:
    return hint in (int, float, bool, str, type(None)) or get_origin(hint) is Literal


def _value(field: str, word: str, hint: Any) -> Any:
    for option in _options(hint):
        found = _read(word, option)
        if found is not NotImplemented:
            return found
    wanted = " or ".join(_wanted(option) for option in _options(hint))
    raise UsageError(f"{field}={word}: {field} is {wanted}.")


def _read(word: str, option: Any) -> Any:
    """``word`` as a value of a type; NotImplemented where it is none."""
    if get_origin(option) is Literal:
        return word if word in get_args(option) else NotImplemented
    if option in (bool, type(None)):
        value = WORDS.get(word.lower(), NotImplemented)
        return value if isinstance(value, option) else NotImplemented
    try:
        return _number(word) if option is float else option(word)
    except (ValueError, ZeroDivisionError):
        return NotImplemented


def _number(word: str) -> float:
    """A finite number, or a fraction of two.

    Raises:
        ValueError, ZeroDivisionError: it is none.
    """
    above, _, below = word.partition("/")
    number = float(above) / (float(below) if below else 1.0)
    if not math.isfinite(number):
        raise ValueError(word)
    return number


def _wanted(option: Any) -> str:
    if get_origin(option) is Literal:
        return "one of " + ", ".join(map(str, get_args(option)))
    words = {int: "a whole number", float: "a number such as 0.01 or 2/255", bool: "true or false", str: "a word"}
    return words.get(option, "none")


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
