"""The proof: the attack that won, as one file of plain torch that anybody can run and nobody has to trust us for."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path
from string import Template
from typing import Any

import torch
from safetensors.torch import save_file

from robassay.access import White
from robassay.attacks.gradient import BIM, FGSM, PGD
from robassay.cells import Craft
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.given import Given
from robassay.goals import Untargeted
from robassay.registry import imported_roots, part_name
from robassay.report.words import ball, full
from robassay.study import Audit, Evaluation
from robassay.version import __version__

ATTACK_SEED = 1
"""Of everything the proof draws; its judge's draws come after its attacker's, so that they are fresh."""
AT_ONCE = 200
"""Images times draws whose graphs a proof holds at once; a batch is 100 images where a net couples them."""
GAP = """\
    label = torch.nn.functional.one_hot(y, z.shape[-1]).bool()
    value = z.masked_fill(label, -torch.inf).amax(-1) - z.masked_fill(~label, -torch.inf).amax(-1)
"""
SCALE = """\
    scale = z.detach().std(-1, keepdim=True)
    z = z / scale.where(scale > 1e-12, 1)
"""
ENTROPY = "    value = -z.log_softmax(-1).gather(-1, y.expand(z.shape[:-1])[..., None])[..., 0]\n"
SPAN = """\
    top = z.topk(3, -1).values
    value = value / (top[..., 0] - top[..., 2]).where(top[..., 0] - top[..., 2] > 1e-12, 1)
"""
LOGS = "raw, net = net, lambda x: raw(x).float().clamp_min(1.1754944e-38).log()  # it returns probabilities\n"
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
LOSSES = {"ce": ENTROPY, "scaled_ce": SCALE + ENTROPY, "margin": GAP, "dlr": GAP + SPAN}
BALL = {"linf": "({}).clamp(low, high)", "l2": "(x + ({} - x).renorm(2, 0, EPS)).clamp(0, 1)"}
STEEPEST = {
    "linf": "way.nan_to_num(0).sign()",
    "l2": "torch.nn.functional.normalize(way.nan_to_num(0).double().flatten(1), eps=1e-60).view_as(x).float()",
}
TEXT = Template('''\
"""$doc
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
MODEL = HERE / $model
${weights}IMAGES = HERE / $images
EPS, SIZE, STEPS, RESTARTS, EOT, SELECT, JUDGE, BATCH = $numbers
TYPES = $types


def tensors(file):  # .safetensors: the size of a header, the header in JSON, the numbers
    raw = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    body, told = torch.frombuffer(raw, dtype=torch.uint8)[start:], json.loads(raw[8:start])
    told = {k: (slice(*v["data_offsets"]), TYPES[v["dtype"]], v["shape"]) for k, v in told.items() if k[0] != "_"}
    return {k: body[where].clone().view(kind).reshape(shape) for k, (where, kind, shape) in told.items()}


def measure(z, y):  # logits (draws, images, classes): the loss, and a rank per image: wrong draws, then mean loss
    wrong = (z.argmax(-1) != y).sum(0)
${loss}    return value.sum(), (4 * wrong + value.detach().mean(0).atan()).nan_to_num(-torch.inf)


if gone := [str(file) for file in ($files) if not file.is_file()]:
    sys.exit(f"not there: {', '.join(gone)}. Put it back, or correct its path at the top of {__file__}.")
sys.path.insert(0, str(MODEL.parent))
torch.manual_seed($build_seed)
net = import_module(MODEL.stem).$build()
${load}net.eval().requires_grad_(False)
${logs}images, right = tensors(IMAGES), []
torch.manual_seed($attack_seed)
for pixels, y in zip(images["x"].split(BATCH), images["y"].split(BATCH), strict=True):
    x, kept = pixels / 255, []
${corners}    for _ in range(RESTARTS):
        at = $start
${begin}        for _ in range(STEPS):
            z = torch.stack([net(at.requires_grad_()$cast) for _ in range(EOT)])
            loss, rank = measure(z, y)
            (way,), at = torch.autograd.grad(loss, at), at.detach()
${during}            at = $move
        kept += $kept
    ranks = torch.stack([measure(torch.stack([net(k$cast) for _ in range(SELECT)]), y)[1] for k in kept])
    made = torch.stack(kept)[ranks.argmax(0), torch.arange(len(x))]
    right.append(torch.stack([net(made$cast).argmax(-1) == y for _ in range(JUDGE)]))  # fresh draws of the same stream
each = torch.cat(right, 1).double().mean(0)
p, n = each.mean().item(), len(each)
m = min(max(p * (1 - p) * n / max(each.var().item(), 1e-12), 1), n * JUDGE) if 0 < p < 1 else n  # effective images
centre, half = (p + 1.92 / m) / (1 + 3.84 / m), 1.96 / (1 + 3.84 / m) * (p * (1 - p) / m + 0.96 / m**2) ** 0.5
low, high = 100 * max(centre - half, 0), 100 * min(centre + half, 1)  # Wilson, 95 %
print(f"this file: {100 * p:.1f} % [{low:.1f}, {high:.1f}], n = {n}, {JUDGE} fresh draws each")
print("the audit: $audit for this attack, $union for the worst of all")
''')


def check_provable(item: Audit, file: Path) -> None:
    """Whether some attack of an audit can be carried by a file of plain torch; known before anything is computed.

    Raises:
        UsageError: it cannot, with the reason, or ``file`` is none that a proof can be written to.
    """
    target = item.claimed[0].target
    if not isinstance(target, Given):
        raise UsageError(
            f"a proof calls the build() of your own file, and this network is a {type(target).__name__.lower()} one. "
            "Write the module into a file and audit 'file.py:build' with its weights."
        )
    if file.suffix != ".py" or file.resolve() == Path(target.file):
        raise UsageError(f"'{file}' is no place for a proof. Write the name of a new Python file, such as proof.py.")
    if "robassay" in imported_roots(target.file):
        raise UsageError(
            f"a proof runs without robassay, and '{Path(target.file).name}' (or a module beside it) imports it. Put "
            "build() into a file of plain torch."
        )
    if target.words:
        raise UsageError(
            f"a proof runs in plain torch, and this network ({target.words}) runs through robassay's adapter, which "
            "resets its state and says how time runs."
        )
    stem = Path(target.file).stem
    if stem in sys.stdlib_module_names or stem == "torch" or "." in stem:
        raise UsageError(
            f"a proof imports '{Path(target.file).name}', which is no module's name of its own. Rename it."
        )
    if not _carried(item):
        name, evaluation = next(iter(_evaluations(item).items()))
        raise UsageError(
            f"no attack of this audit can be written in plain torch; {name}: {_obstacle(item, evaluation)}."
        )


def write_proof(item: Audit, result: dict[str, Any], file: Path) -> str:
    """Write the strongest attack of an audit that plain torch can carry, and its images beside it.

    Args:
        item: the audit as it was planned.
        result: what came of it, schema 1.
        file: where the Python file goes; its images go to ``<stem>-images.safetensors`` in the same folder.

    Returns:
        A sentence that says which attack it is, and why it is not the audit's winner where it is not.

    Raises:
        UsageError: as :func:`check_provable`, or the files cannot be written.
    """
    check_provable(item, file)
    left = {a["name"]: a["robust"] for a in result["attacks"]}
    carried = _carried(item)
    name = min(carried, key=lambda one: float(left[one]["value"]))
    winner = result["winner"]
    told = f"the proof is {name}, which leaves {full(left[name])}"
    if left[winner]["value"] < left[name]["value"]:
        why = _obstacle(item, _evaluations(item)[winner])
        told += f"; the strongest single attack, {winner}, leaves {full(left[winner])} and is not carried: {why}"
    examples = item.claimed[0].examples
    images = examples.load()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        about = {"data": examples.data.name, "checksum": examples.data.checksum, "split": examples.split}
        index = torch.arange(examples.start, examples.stop)
        save_file({"x": images.x.contiguous(), "y": images.y, "index": index}, _images(file), about)
        file.write_text(_text(item, result, file, name, carried[name], told), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"'{file}' cannot be written: {error.strerror}. Choose another place.") from error
    return told


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


def _images(file: Path) -> Path:
    return file.with_name(f"{file.stem}-images.safetensors")


def _text(item: Audit, result: dict[str, Any], file: Path, name: str, carried: tuple[PGD, int], told: str) -> str:
    attack, draws = carried
    target, eps = item.claimed[0].target, item.threat.eps
    assert isinstance(target, Given) and eps is not None
    size = 2.5 * eps / attack.steps if attack.step is None else attack.step
    random = result["stochastic"]
    eot, select, judge = (draws, attack.select, result["draws"]) if random else (1, 1, 1)
    coupled = any(c["name"] == "coupled" for c in result["checks"])
    batch = 100 if coupled or eot == 1 else max(10, AT_ONCE // eot)
    left = {a["name"]: a["robust"] for a in result["attacks"]}[name]
    return TEXT.substitute(
        _plain(target, file),
        **_ascent(attack, item.threat.norm),
        doc=_doc(item, target, result, file, attack, eot, told),
        images=json.dumps(_images(file).name),
        numbers=", ".join(repr(v) for v in (eps, size, attack.steps, attack.restarts, eot, select, judge, batch)),
        loss=LOSSES[attack.loss],
        logs=LOGS if any(c["name"] == "probabilities" for c in result["checks"]) else "",
        attack_seed=ATTACK_SEED,
        audit=full(left),
        union=full(result["robust"]),
    )


def _plain(target: Given, file: Path) -> dict[str, object]:
    """How the file finds the user's network."""
    folder = file.resolve().parent
    lines = {"weights": "", "load": "", "files": "MODEL, IMAGES"}
    if target.weights is not None:
        plain = Path(target.weights).suffix == ".safetensors"
        state = "tensors(WEIGHTS)" if plain else 'state.get("state_dict", state)'
        before = "" if plain else 'state = torch.load(WEIGHTS, map_location="cpu", weights_only=True)\n'
        lines["weights"] = f"WEIGHTS = HERE / {json.dumps(os.path.relpath(target.weights, folder))}\n"
        lines["load"] = f"{before}net.load_state_dict({state})\n"
        lines["files"] = "MODEL, WEIGHTS, IMAGES"
    net = target.network(torch.device("cpu"))
    floating = [t.dtype for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
    cast = f".to({floating[0]})" if floating and floating[0] != torch.float32 else ""
    kinds = dict.fromkeys([torch.uint8, torch.int64, *(t.dtype for t in net.state_dict().values())])
    types = ", ".join(f'"{TYPES[kind]}": {kind}' for kind in kinds)
    model = json.dumps(os.path.relpath(target.file, folder))
    seeded = {"build": target.build, "build_seed": target.seeded().seed()}
    return {**lines, **seeded, "model": model, "cast": cast, "types": f"{{{types}}}"}


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


def _doc(item: Audit, target: Given, result: dict[str, Any], file: Path, attack: PGD, eot: int, told: str) -> str:
    examples = item.claimed[0].examples
    data = examples.data
    weights = f" with {Path(target.weights).name} (SHA-256 {target.weights_digest}…)" if target.weights else ""
    eots = f", gradients averaged over {eot} draws" if eot > 1 else ""
    ran = f"PGD-{attack.steps} on {attack.loss}{eots}, {ball({'norm': item.threat.norm, 'eps': item.threat.eps})}"
    first = f"What is left of {Path(target.file).name}:{target.build}{weights} under {ran}. Run: python {file.name}"
    second = (
        f"Images {examples.start} to {examples.stop - 1} of {data.name} ({examples.split}, checksum {data.checksum}) "
        f"lie in {_images(file).name}. Of robassay {__version__}'s audit, {told}; the worst of all its attacks per "
        f"image leaves {full(result['robust'])}, which one attack alone need not reach."
    )
    safe = [one.replace("\\", "/").replace('"', "'") for one in (first, second)]
    quotes = " " * 3
    return "\n\n".join(textwrap.fill(one, 120, initial_indent=quotes, break_long_words=False)[3:] for one in safe)
