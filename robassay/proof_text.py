"""The text of a proof: a file of plain torch, in pieces that the two kinds of proof share."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any

import torch

from robassay.cells import Examples
from robassay.given import Given
from robassay.report.words import full
from robassay.version import __version__

ATTACK_SEED = 1
"""Of everything the proof draws; its judge's draws come after its attacker's, so that they are fresh."""
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
HEAD = '''\
"""$doc
"""

import json
import sys
${imports}from pathlib import Path
from time import monotonic

import torch

HERE = Path(__file__).resolve().parent
${places}IMAGES = HERE / $images
$constants
TYPES = $types


def tensors(file):  # .safetensors: the size of a header, the header in JSON, the numbers
    raw = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    body, told = torch.frombuffer(raw, dtype=torch.uint8)[start:], json.loads(raw[8:start])
    told = {k: (slice(*v["data_offsets"]), TYPES[v["dtype"]], v["shape"]) for k, v in told.items() if k[0] != "_"}
    return {k: body[where].clone().view(kind).reshape(shape) for k, (where, kind, shape) in told.items()}


'''
BUILD = """\
if {"-h", "--help"} & set(sys.argv):
    sys.exit(print(__doc__))
if gone := [str(file) for file in ($files) if not file.is_file()]:
    sys.exit(f"not there: {', '.join(gone)}. Put it back, or correct its path at the top of {__file__}.")
${opened}${logs}images, right, begun = tensors(IMAGES), [], monotonic()
"""
TOLD = """\
    k, n = sum(one.shape[1] for one in right), len(images["y"])
    print(f"\\r{k} of {n}, {(monotonic() - begun) * (n / k - 1):.0f} s left ", end="\\n" * (k == n), file=sys.stderr)
"""
TAIL = """\
each = torch.cat(right, 1).double().mean(0)
p, n = each.mean().item(), len(each)
m = min(max(p * (1 - p) * n / max(each.var().item(), 1e-12), 1), n * JUDGE) if 0 < p < 1 else n  # effective images
centre, half = (p + 1.92 / m) / (1 + 3.84 / m), 1.96 / (1 + 3.84 / m) * (p * (1 - p) / m + 0.96 / m**2) ** 0.5
low, high = 100 * max(centre - half, 0), 100 * min(centre + half, 1)  # Wilson, 95 %
print(f"this file: {100 * p:.1f} % [{low:.1f}, {high:.1f}], n = {n}, {JUDGE} fresh draws each")
print("the audit: $audit, $union for the worst of all")
"""
ATTACK = """\
def measure(z, y):  # logits (draws, images, classes): the loss, and a rank per image: wrong draws, then mean loss
    wrong = (z.argmax(-1) != y).sum(0)
${loss}    return value.sum(), (4 * wrong + value.detach().mean(0).atan()).nan_to_num(-torch.inf)


"""
ASCENT = """\
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
"""
DELIVERED = """\
torch.manual_seed($attack_seed)
for pixels, made, y in zip(*(images[name].split(BATCH) for name in ("x", "made", "y")), strict=True):
    way = (made - pixels / 255).flatten(1)
    if not (${size} <= EPS + 1e-6).all() or not (0 <= made.min() <= made.max() <= 1):
        sys.exit("an image lies outside of the ball")
    right.append(torch.stack([net(made$cast).argmax(-1) == y for _ in range(JUDGE)]))
"""
SIZES = {"linf": "way.abs().amax(1)", "l2": "way.norm(dim=1)"}
CARRIES = Template(HEAD + ATTACK + BUILD + ASCENT + TOLD + TAIL)
SHOWS = Template(HEAD + BUILD + DELIVERED + TOLD + TAIL)


def images_of(file: Path) -> Path:
    return file.with_name(f"{file.stem}-images.safetensors")


def program_of(file: Path) -> Path:
    return file.with_name(f"{file.stem}-network.pt2")


def own_network(target: Given, file: Path) -> dict[str, object]:
    """How the file finds the user's network."""
    folder = file.resolve().parent
    places, files, load = [f"MODEL = HERE / {json.dumps(os.path.relpath(target.file, folder))}"], "MODEL, IMAGES", []
    if target.weights is not None:
        plain = Path(target.weights).suffix == ".safetensors"
        state = "tensors(WEIGHTS)" if plain else 'state.get("state_dict", state)'
        places += [f"WEIGHTS = HERE / {json.dumps(os.path.relpath(target.weights, folder))}"]
        load += [] if plain else ['state = torch.load(WEIGHTS, map_location="cpu", weights_only=True)']
        load += [f"net.load_state_dict({state})"]
        files = "MODEL, WEIGHTS, IMAGES"
    opened = [
        "sys.path.insert(0, str(MODEL.parent))",
        f"torch.manual_seed({target.seeded().seed()})",
        f"net = import_module(MODEL.stem).{target.build}()",
        *load,
        "net.eval().requires_grad_(False)",
    ]
    net = target.network(torch.device("cpu"))
    floating = [t.dtype for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
    cast = f".to({floating[0]})" if floating and floating[0] != torch.float32 else ""
    return {
        "imports": "from importlib import import_module\n",
        "places": _lines(places),
        "files": files,
        "opened": _lines(opened),
        "cast": cast,
        "types": _types(t.dtype for t in net.state_dict().values()),
    }


def program_network(file: Path, many: bool) -> dict[str, object]:
    """How the file finds a network that :mod:`robassay.program` has written, for ``many`` images or for one."""
    opened = "net = torch.export.load(NETWORK).module()\n"
    each = "one, net = net, lambda x: torch.cat([one(k) for k in x.split(1)])  # it takes one image at a time\n"
    return {
        "imports": "",
        "places": f"NETWORK = HERE / {json.dumps(program_of(file).name)}\n",
        "files": "NETWORK, IMAGES",
        "opened": opened if many else opened + each,
        "cast": "",
        "types": _types(()),
    }


def _types(kinds: Iterable[torch.dtype]) -> str:
    """The types of tensor that the file must be able to read, besides those of its images."""
    known = dict.fromkeys([torch.uint8, torch.int64, torch.float32, *kinds])
    return "{" + ", ".join(f'"{TYPES[kind]}": {kind}' for kind in known) + "}"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def documented(network: str, on: Examples, file: Path, ran: str, told: str, union: dict[str, Any]) -> str:
    """What stands at the top of a proof: what ``ran``, on which images, and what the audit has ``told``."""
    data = on.data
    first = f"What is left of {network} under {ran}. Run: python {file.name}"
    second = (
        f"Images {on.start} to {on.stop - 1} of {data.name} ({on.split}, checksum {data.checksum}) lie in "
        f"{images_of(file).name}. Of robassay {__version__}'s audit, {told}; the worst of all its attacks per image "
        f"leaves {full(union)}."
    )
    safe = [one.replace("\\", "/").replace('"', "'") for one in (first, second)]
    quotes = " " * 3
    return "\n\n".join(textwrap.fill(one, 120, initial_indent=quotes, break_long_words=False)[3:] for one in safe)


def named(target: Given) -> str:
    """The user's network with the file of its weights, in words."""
    weights = f" with {Path(target.weights).name} (SHA-256 {target.weights_digest}…)" if target.weights else ""
    return f"{Path(target.file).name}:{target.build}{weights}"
