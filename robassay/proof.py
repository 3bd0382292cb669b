"""The proof: the attack that won, as one file of plain torch that anybody can run and nobody has to trust us for.

Where plain torch cannot carry the attack itself, the file carries what it made: images in the ball need no author.
Where it cannot build the network either, such as one in memory, the network lies beside it as torch's own program.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from robassay.access import White
from robassay.attacks.gradient import BIM, FGSM, PGD
from robassay.cell import Model
from robassay.cells import Attacked, Craft, Examples
from robassay.data import pixels
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.folds import rows
from robassay.given import Given
from robassay.goals import Untargeted
from robassay.program import write_program
from robassay.proof_text import (
    ATTACK_SEED,
    BALL,
    CARRIES,
    LOGS,
    LOSSES,
    SHOWS,
    SIZES,
    STEEPEST,
    documented,
    images_of,
    named,
    own_network,
    program_network,
    program_of,
)
from robassay.registry import imported_roots, part_name
from robassay.report.words import ball, full
from robassay.run.worker import LocalContext
from robassay.store import Store
from robassay.study import Audit, Evaluation

AT_ONCE = 200
"""Images times draws whose graphs a proof holds at once; a batch is 100 images where a net couples them."""
AS_EXAMPLE = 7
"""Images that a network is shown when it is written down."""
NEAR = 0.02
"""An attack that leaves so much more than the worst of all is not what a reviewer should be sent."""


def check_provable(item: Audit, file: Path) -> None:
    """Whether ``file`` is a place for a proof; known before anything is computed.

    Raises:
        UsageError: it is none that a proof can be written to, or the user's own file none that it can import.
    """
    target = item.claimed[0].target
    own = Path(target.file) if isinstance(target, Given) else None
    if file.suffix != ".py" or file.resolve() == own:
        raise UsageError(f"'{file}' is no place for a proof. Write the name of a new Python file, such as proof.py.")
    if own is not None and _plain(target) and (own.stem in (*sys.stdlib_module_names, "torch") or "." in own.stem):
        raise UsageError(f"a proof imports '{own.name}', which is no module's name of its own. Rename it.")


def _plain(target: Model) -> TypeGuard[Given]:
    """Whether a file of the user's builds the network with nothing of robassay's."""
    return isinstance(target, Given) and not target.words and "robassay" not in imported_roots(target.file)


def write_proof(item: Audit, result: dict[str, Any], file: Path, store: Store | None = None) -> str:
    """Write the strongest attack of an audit that plain torch can carry, or the images of all, with a file of images.

    The images are written where no attack that can be carried comes near the worst of all, and where no file of plain
    torch builds the network: of every image what the strongest attack has made of it. The file then checks that they
    lie in the ball, and asks the network afresh.

    Args:
        item: the audit as it was planned.
        result: what came of it, schema 1.
        file: where the Python file goes; its images go to ``<stem>-images.safetensors`` in the same folder.
        store: where the attacks' images lie, and the network where it is no file; without one an attack is carried,
            or nothing.

    Returns:
        A sentence that says what it carries, and why that is not the audit's winner where it is not.

    Raises:
        UsageError: as :func:`check_provable`, no attack or no network can be carried, or the files cannot be written.
    """
    check_provable(item, file)
    left = {a["name"]: a["robust"] for a in result["attacks"]}
    carried = _carried(item) if _plain(item.claimed[0].target) else {}
    name = min(carried, key=lambda one: float(left[one]["value"]), default=None)
    far = name is None or left[name]["value"] > result["robust"]["value"] + NEAR
    if name is None and store is None:
        first, evaluation = next(iter(_evaluations(item).items()))
        why = _obstacle(item, evaluation)
        raise UsageError(f"no attack of this audit can be written in plain torch; {first}: {why}.")
    examples = _examples(item)
    images = examples.load()
    index = torch.arange(examples.start, examples.stop)
    stored = {"x": images.x.contiguous(), "y": images.y, "index": index}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        network = _network(item, result, file, store)
        if name is None or (far and store is not None):
            told = "the proof is the images that the strongest attack on each has made"
            assert store is not None
            stored["made"] = _made(item, store)
            text = _shown(item, result, file, told, network)
        else:
            told = f"the proof is {name}, which leaves {full(left[name])}" + _better(item, result, left, name)
            text = _text(item, result, file, (name, *carried[name]), told, network)
        about = {"data": examples.data.name, "checksum": examples.data.checksum, "split": examples.split}
        save_file(stored, images_of(file), about)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"'{file}' cannot be written: {error.strerror}. Choose another place.") from error
    return told


def _examples(item: Audit) -> Examples:
    """All images of the audit, whose evaluations are slices."""
    return replace(item.clean[0].examples, stop=item.clean[-1].examples.stop)


def _network(item: Audit, result: dict[str, Any], file: Path, store: Store | None) -> dict[str, object]:
    """How the file finds its network; one that no file of plain torch builds is written beside it."""
    target = item.claimed[0].target
    if _plain(target):
        logs = any(c["name"] == "probabilities" for c in result["checks"])
        return {**own_network(target, file), "network": named(target), "logs": LOGS if logs else ""}
    assert store is not None
    net = LocalContext(target, store, torch.device("cpu")).open(target)
    many = write_program(net, program_of(file), pixels(item.claimed[0].examples.load().x[:AS_EXAMPLE]))
    words = f"{item.title}, which torch.export has written into {program_of(file).name},"
    return {**program_network(file, many), "network": words, "logs": ""}


def _better(item: Audit, result: dict[str, Any], left: dict[str, Any], name: str) -> str:
    """Which attack is stronger than the one that is carried, if any."""
    winner = result["winner"]
    if left[winner]["value"] >= left[name]["value"]:
        return ""
    why = _obstacle(item, _evaluations(item)[winner])
    return f"; the strongest single attack, {winner}, leaves {full(left[winner])} and is not carried: {why}"


def _made(item: Audit, store: Store) -> Tensor:
    """Of every image what the attack has made that most of the audit's draws decide wrongly about, float32."""
    battery = item.finalists or tuple(item.battery.values())
    everything = [item.clean, item.claimed, item.adequate, *battery]
    right = np.stack([rows([store.read(s.key) for s in e]).survives().mean(0) for e in everything])
    chosen = torch.from_numpy(right.argmin(0))
    made = pixels(_examples(item).load().x)
    for place, evaluation in enumerate(everything):
        attacked = torch.cat([_images(score.on, store) for score in evaluation])
        made[chosen == place] = attacked[chosen == place]
    return made


def _images(on: object, store: Store) -> Tensor:
    if isinstance(on, Attacked):
        return torch.from_numpy(store.read(on.key, ("x_adv",))["x_adv"])
    return pixels(on.load().x)  # type: ignore[attr-defined]


def _evaluations(item: Audit) -> dict[str, Evaluation]:
    return {"claimed": item.claimed, "adequate": item.adequate, **item.battery}


def _carried(item: Audit) -> dict[str, tuple[PGD, int]]:
    """By name the attacks that plain torch can carry: as PGD, and how many draws its gradient is averaged over."""
    found = {}
    for name, evaluation in _evaluations(item).items():
        craft = evaluation[0].on
        if _obstacle(item, evaluation) is None and isinstance(craft, Craft) and isinstance(craft.access, White):
            attack = _as_pgd(craft.attack, item.threat.eps or 0.0)
            assert attack is not None
            found[name] = (attack, craft.access.estimator.draws)
    return found


def _obstacle(item: Audit, evaluation: Evaluation) -> str | None:
    """Why plain torch cannot carry an attack; None where it can."""
    craft = evaluation[0].on
    if not isinstance(craft, Craft) or craft.sources != (item.claimed[0].target,) or craft.start is not None:
        return "it is made on another network or begins at another attack's images"
    if craft.aim != Untargeted() or item.threat.norm not in BALL:
        return "it is targeted, or its ball is neither L∞ nor L2"
    if not isinstance(craft.access, White) or _as_pgd(craft.attack, 1.0) is None:
        return f"the file carries pgd, bim and fgsm, and it is {part_name(type(craft.attack))}"
    estimator = craft.access.estimator
    if not isinstance(estimator, Backprop):
        return f"its gradient is that of robassay's {part_name(type(estimator))}, not plain back-propagation"
    return None if estimator.average == "loss" else f"its gradient is that of averaged {estimator.average}"


def _as_pgd(attack: object, eps: float) -> PGD | None:
    """FGSM and BIM as PGD of few steps; None for what is no such ascent."""
    if isinstance(attack, FGSM):
        return PGD(steps=1, step=eps, loss=attack.loss, random_start=False, keep="last")
    if isinstance(attack, BIM) and not attack.early:
        size = eps / attack.steps if attack.step is None else attack.step
        return PGD(steps=attack.steps, step=size, loss=attack.loss, random_start=False, keep="last")
    return attack if isinstance(attack, PGD) else None


def _text(
    item: Audit,
    result: dict[str, Any],
    file: Path,
    carried: tuple[str, PGD, int],
    told: str,
    network: dict[str, object],
) -> str:
    """The file that carries an attack."""
    name, attack, draws = carried
    eps = item.threat.eps
    assert eps is not None
    size = 2.5 * eps / attack.steps if attack.step is None else attack.step
    random = result["stochastic"]
    eot, select, judge = (draws, attack.select, result["draws"]) if random else (1, 1, 1)
    numbers = (eps, size, attack.steps, attack.restarts, eot, select, judge, _batch(result, eot))
    left = {a["name"]: a["robust"] for a in result["attacks"]}[name]
    eots = f", gradients averaged over {eot} draws" if eot > 1 else ""
    ran = f"PGD-{attack.steps} on {attack.loss}{eots}, {ball({'norm': item.threat.norm, 'eps': eps})}"
    return CARRIES.substitute(
        _common(item, result, file, network, ran, told, f"{full(left)} for this attack"),
        **_ascent(attack, item.threat.norm),
        constants="EPS, SIZE, STEPS, RESTARTS, EOT, SELECT, JUDGE, BATCH = " + ", ".join(map(repr, numbers)),
        loss=LOSSES[attack.loss],
    )


def _shown(item: Audit, result: dict[str, Any], file: Path, told: str, network: dict[str, object]) -> str:
    """The file that shows images."""
    judge = result["draws"] if result["stochastic"] else 1
    numbers = (item.threat.eps, judge, _batch(result, 1))
    ran = f"the attacks of an audit, {ball({'norm': item.threat.norm, 'eps': item.threat.eps})}"
    return SHOWS.substitute(
        _common(item, result, file, network, ran, told, f"{len(result['attacks'])} attacks"),
        size=SIZES[item.threat.norm],
        constants="EPS, JUDGE, BATCH = " + ", ".join(map(repr, numbers)),
    )


def _common(
    item: Audit, result: dict[str, Any], file: Path, network: dict[str, object], ran: str, told: str, audit: str
) -> dict[str, object]:
    """What both kinds of file say."""
    return {
        **network,
        "doc": documented(str(network["network"]), _examples(item), file, ran, told, result["robust"]),
        "images": json.dumps(images_of(file).name),
        "attack_seed": ATTACK_SEED,
        "audit": audit,
        "union": full(result["robust"]),
    }


def _batch(result: dict[str, Any], eot: int) -> int:
    coupled = any(c["name"] == "coupled" for c in result["checks"])
    return 100 if coupled or eot == 1 else max(10, AT_ONCE // eot)


def _ascent(attack: PGD, norm: str) -> dict[str, str]:
    """The lines of the file that depend on the attack's settings and on the ball."""
    wide = "[:, None, None, None]"
    start = BALL[norm].format("x + EPS * (2 * torch.rand_like(x) - 1)")
    begin = during = ""
    if attack.momentum:
        begin += f"{' ' * 8}pace = torch.zeros_like(x)\n"
        share = "way / way.abs().sum((1, 2, 3), True).clamp_min(1e-38)"
        during += f"{' ' * 12}way = pace = {attack.momentum!r} * pace + {share}\n"
    if attack.keep == "best":
        begin += f"{' ' * 8}best, top = x, torch.full((len(x),), -torch.inf)\n"
        during += f"{' ' * 12}best, top = torch.where((rank > top){wide}, at, best), torch.maximum(rank, top)\n"
    during += f"{' ' * 12}way = {STEEPEST[norm]}\n"
    return {
        "start": start if attack.random_start else f"{start} if kept else x.clone()",
        "corners": "    low, high = (x - EPS).clamp_min(0), (x + EPS).clamp_max(1)\n" if norm == "linf" else "",
        "begin": begin,
        "during": during,
        "move": BALL[norm].format("at + SIZE * way"),
        "kept": "[best, at]" if attack.keep == "best" else "[at]",
    }
