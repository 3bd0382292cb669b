"""The audit: bring a model, learn whether its robustness is real."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robassay import zoo
from robassay.access import Access, Attack
from robassay.attacks.apgd import APGD
from robassay.battery import (
    HEATS,
    TWIN,
    Known,
    evaluations,
    finalists,
    onwards,
    planned,
    twin_of,
    white,
)
from robassay.budgets import Budget, effort_of
from robassay.cell import Model, Source
from robassay.cells import Craft, Examples, Score, check_labels
from robassay.claims import adequate, parse_claim
from robassay.classifier import Net
from robassay.data import Data, find, pixels
from robassay.document import Document
from robassay.errors import RobassayError, UsageError
from robassay.evidence import evidence, loss_of
from robassay.given import Given, Held, given, held, held_data, words_of
from robassay.lowest import Lowest
from robassay.models import Train
from robassay.probe import probe
from robassay.proof import check_provable, write_proof
from robassay.registry import part_name
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.run.worker import forget
from robassay.signals import Facts, Signals
from robassay.store import Store
from robassay.study import Audit, Evaluation, Study
from robassay.threat import Threat

SLICE = 100
"""Images per cell: enough for a full batch, small enough that two workers share an audit."""


class Result(dict[str, Any]):
    """The result of an audit: the JSON value of schema 1, shown as a card in notebooks."""

    def __str__(self) -> str:
        def percent(name: str) -> str:
            return f"{100 * self[name]['value']:.1f} %"

        found = f"clean {percent('clean')}, claimed {percent('claimed')}, strongest attack {percent('robust')}"
        return f"{self['verdict']}: {self['sentence']} ({found}; won by {self['winner']})"

    def _repr_html_(self) -> str:
        from robassay.report import card

        return card(self)


def audit(
    model: nn.Module | str | Model,
    data: str | Data | tuple[Tensor, Tensor] = "digits",
    *,
    linf: float | None = None,
    l2: float | None = None,
    weights: str | None = None,
    examples: int = 200,
    draws: int = 100,
    budget: Budget = "quick",
    delta: float = 0.05,
    claimed: str = "",
    split: str = "",
    proof: str | Path | None = None,
    data_dir: str | Path | None = None,
    store: str | Path | None = None,
    workers: int = 1,
    quiet: bool = False,
) -> Result:
    """Audit one model and return the verdict with its evidence.

    Example:
        >>> import robassay                                         # doctest: +SKIP
        >>> robassay.audit(my_module, "mnist", linf=0.1)            # doctest: +SKIP

    Args:
        model: a module that maps images (B, C, H, W) in [0,1] to logits (B, classes), or "file.py:build", or a cell, or
            "zoo:NAME" (see `robassay list zoo`), whose data are digits, with linf=0.2 unless a radius is given.
        data: name of a data set, or (x, y) with x float in [0,1] or uint8 (N, C, H, W) and y int64 (N,).
        linf, l2: radius of the threat in pixel units of [0,1]; exactly one of them.
        weights: with "file.py:build", a .safetensors or .pt state dict.
        examples: test images, from the first on.
        draws: fresh draws per image that judge (a deterministic model is asked once).
        budget: "quick", "standard" or "thorough".
        delta: gap in accuracy that is not held against a claim.
        claimed: the evaluation that is claimed, such as "pgd:steps=40,step=2/255,draws=1" (see
            :func:`~robassay.claims.parse_claim`); by default the field's usual attack.
        split: the submodule of a random module at whose output everything before the noise ends, which is computed
            once per image; "" to look for it, "none" to run the whole module in every draw.
        proof: where the attack that won is written as a file of plain torch; see :mod:`robassay.proof`.
        data_dir: folder with the data set's parquet files.
        store: folder that keeps results, so that an interrupted audit goes on; None for a temporary one.
        workers: processes; a module in memory is always audited in this process.
        quiet: no progress.

    Raises:
        UsageError: what was given cannot be audited as written.
        RobassayError: a computation failed.
    """
    _check_given(model, data, linf, l2)
    if isinstance(model, str) and model.startswith(zoo.PREFIX):
        model, linf, claimed = zoo.asked(model, linf, l2, claimed)
    if isinstance(model, str) and ":" not in model:
        raise UsageError(f"model='{model}' names no function. Write 'file.py:build'.")
    source: Source = (
        held_data(*data) if isinstance(data, tuple) else find(data, data_dir) if isinstance(data, str) else data
    )
    on = Examples(source, "test", 0, examples)
    on.load()
    if isinstance(model, str):
        file, build = model.rsplit(":", 1)
        cell: Model = given(file, build, weights, on, split)
    else:
        cell = held(model, on, split) if isinstance(model, nn.Module) else model
    in_process = isinstance(model, nn.Module) or isinstance(data, tuple)
    with tempfile.TemporaryDirectory(prefix="robassay-") as temporary:
        place = Store(store or Path(temporary) / "store")
        forget()  # a module in memory may have changed in ways that its name does not show
        item = plan_audit(cell, on, threat_of(linf, l2), budget, draws, delta, place, "audit", claimed=claimed)
        if proof is not None:
            check_provable(item, Path(proof))
        study = Study("audit", "Audit", (item,), scale="audit")
        worst = Lowest(study.items, place)
        outcome = carry_out(study.needs(), place, 0 if in_process else workers, quiet=quiet, worst=worst)
        if outcome.failed:
            raise RobassayError(next(iter(outcome.failed.values())))
        result = Result(Document(study.freeze(), place).audits()[0])
        if proof is not None:
            write_proof(item, result, Path(proof), place)
    return result


def _check_given(model: object, data: object, *radii: object) -> None:
    """Whether arguments are of the kinds that :func:`audit` takes; said before anything is looked at."""
    if not isinstance(model, (str, nn.Module, Model)):
        name = getattr(model, "__name__", "build")
        called = f" Call it: robassay.audit({name}(), …)." if callable(model) else ""
        raise UsageError(
            f"model is a {type(model).__name__}; needed is a torch.nn.Module, or 'file.py:build', the file and name of "
            f"a function that returns one.{called}"
        )
    if isinstance(data, (list, tuple)) and (len(data) != 2 or not isinstance(data, tuple)):
        raise UsageError(f"data is a {type(data).__name__} of {len(data)}. Write (x, y): images, labels.")
    if not isinstance(data, (str, tuple)) and not hasattr(data, "split"):
        raise UsageError(
            f"data is a {type(data).__name__}; needed is (x, y), x float in [0,1] (N, C, H, W) and y int64 (N,), or "
            "the name of a data set. From a loader of batches: x, y = map(torch.cat, zip(*loader))."
        )
    for radius in radii:
        if radius is not None and (isinstance(radius, bool) or not isinstance(radius, (int, float))):
            raise UsageError(
                f"the radius {radius!r} is a {type(radius).__name__}. Write a number: linf=0.1, or linf=8 / 255."
            )


def threat_of(linf: float | None, l2: float | None) -> Threat:
    """The threat of exactly one given radius.

    Raises:
        UsageError: none or both given, or a radius that is not positive.
    """
    if (linf is None) == (l2 is None):
        raise UsageError("an audit needs one threat: write --linf 0.1 (or 8/255), or --l2 0.5.")
    eps = linf if linf is not None else l2
    assert eps is not None
    if not 0 < eps < float("inf"):
        raise UsageError(f"eps={eps} is no radius: it must be positive. Write --linf 0.1, or 8/255 for 8 grey levels.")
    if linf is not None and linf > 1:
        raise UsageError(f"--linf {linf} is more than the whole range [0,1] of a pixel. Did you mean {linf:g}/255?")
    return Threat("linf" if linf is not None else "l2", eps)


def plan_audit(
    model: Model,
    on: Examples,
    threat: Threat,
    budget: Budget,
    draws: int,
    delta: float,
    store: Store,
    name: str,
    command: str = "",
    claimed: str = "",
) -> Audit:
    """The audit of ``model``, after finding out what it is (which is computed at once).

    Raises:
        UsageError: ``claimed`` names no evaluation.
        RobassayError: the model cannot be run on these images.
    """
    parse_claim(claimed, threat)  # a mistake in it is told before anything is computed
    facts = Facts(model, dataclasses.replace(on, stop=min(on.stop, on.start + 8)))
    outcome = carry_out([facts], store, 0, silent=True)
    if outcome.failed:
        raise UsageError(next(iter(outcome.failed.values())))
    known = Known.of(store.read(facts.key))
    check_labels(on.load().y, known.classes, on.data.name)
    item = describe_audit(model, on, threat, budget, draws, delta, name, known, command, claimed)
    shown = evidence(
        model,
        on,
        threat,
        budget,
        known.stochastic,
        known.differentiable,
        known.quiets,
        known.detectors,
        loss_of(parse_claim(claimed, threat).attack),
        known.spiking,
    )
    return dataclasses.replace(item, facts=facts, evidence=shown)


def describe_audit(
    model: Model,
    on: Examples,
    threat: Threat,
    budget: Budget = "quick",
    draws: int = 100,
    delta: float = 0.05,
    name: str = "audit",
    known: Known | None = None,
    command: str = "",
    claimed: str = "",
) -> Audit:
    """The audit of a model of which it is ``known`` what it is: a value, nothing is computed.

    The union is the ``claimed`` attack, an adequate one of its kind, and a battery; see
    :func:`~robassay.battery.planned`. Where the model rejects images, the gradient attacks of the battery evade its
    detectors: an attack that does not know of them proves nothing. On a random model a few draws compare the attacks,
    and the strongest of each image are judged by ``draws`` fresh ones. But at budget quick the battery leaves alone
    what the adequate attack has broken for certain: on a deterministic model by its decision, on a random one in all of
    ``draws``, if they are enough; never where an image's logits depend on its batch mates.

    Args:
        known: what the model is; None finds it out from a network with untrained weights, where there is one.
    """
    if draws < 2:
        raise UsageError(f"draws={draws}: half of the draws choose the worst attack, half judge. Write --draws 100.")
    known = known or known_of(model, on)
    effort = effort_of(budget).on(known.stochastic)
    slices = on.slices(SLICE)
    claim = parse_claim(claimed, threat)
    enough = adequate(claim.attack, 2 * effort.steps)
    if known.stochastic and isinstance(enough, APGD) and not enough.settled:
        enough = dataclasses.replace(enough, settled=effort.settled)

    def against(attack: Attack, access: Access | None) -> Evaluation:
        return tuple(Score(model, Craft((model,), s, attack, threat, access), repeats=draws) for s in slices)

    clean = tuple(Score(model, s, repeats=draws) for s in slices)
    twin = twin_of(model, on.data, effort, known)
    attacks = planned(model, on.data.shape, threat, effort, known, twin)
    staged = known.stochastic and draws > HEATS
    first = against(enough, white(effort.adequate_draws, known, claim.average))
    certain = not known.coupled and (not known.stochastic or draws >= effort.settled)
    broken = first if effort.onwards and certain else None
    battery = evaluations(model, slices, threat, attacks, HEATS if staged else draws, clean, broken)
    if staged and effort.onwards:
        battery |= onwards(model, battery, threat, effort, known, broken)
    learnt = battery.get(TWIN)
    return Audit(
        id=name,
        title=name,
        network=describe_network(model),
        threat=threat,
        clean=clean,
        claimed=against(claim.attack, claim.access(not known.opaque)),
        adequate=first,
        battery=battery,
        finalists=finalists(model, battery, draws) if staged else (),
        twin=tuple(Score(twin, s.on) for s in learnt) if twin is not None and learnt is not None else None,
        signals=tuple(Signals(model, s) for s in slices) if known.differentiable else (),
        delta=delta,
        budget=budget,
        command=command,
        claim=str(claim),
    )


def known_of(model: Model, on: Examples) -> Known:
    """What a network is before it is trained; what cannot be told is taken to be random and differentiable."""
    net, data = getattr(model, "net", None), getattr(model, "data", on.data)
    if not isinstance(net, Net):
        return Known(classes=data.classes)
    with Stream(("known",)).active():
        untrained = net.build(data.shape, data.classes).eval()
    images = dataclasses.replace(on, stop=min(on.stop, on.start + 8)).load()
    found = probe(untrained, pixels(images.x))
    told = {"stochastic": untrained.stochastic, "detectors": untrained.alarms(pixels(images.x[:1])).shape[1] > 0}
    return dataclasses.replace(Known.of(found), **told)


def describe_network(model: Model) -> str:
    """A model in a few words."""
    if isinstance(model, Train):
        size = "" if model.limit is None else f" ({model.limit:,} images)"
        return f"{part_name(type(model.net))}, trained on {model.data.name}{size}"
    if isinstance(model, Given):
        return f"{Path(model.file).name}:{model.build}" + f" ({model.words})" * bool(model.words)
    if isinstance(model, Held):
        words = words_of(model.module)
        return "module in memory" + f" ({words})" * bool(words)
    return str(getattr(model, "summary", type(model).__name__))
