"""A network as a program that plain torch opens: what a proof carries where no file of plain torch builds it."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from robassay.classifier import Classifier
from robassay.errors import UsageError

SEED = 1


def write_program(net: Classifier, file: Path, x: Tensor) -> bool:
    """Write what ``net`` computes as a program of ``torch.export``: images like ``x`` (B, C, H, W), B > 1, → logits.

    It is random where the network is. Only decisions are kept: a backward pass of the network's own is not. The program
    is opened again and asked beside the network, under equal seeds.

    Returns:
        Whether it takes any number of images; otherwise one at a time, as where a network's own loops count its images.

    Raises:
        UsageError: torch cannot write it, or the program computes something else.
    """
    if net.alarms(x[:1]).shape[1]:
        raise UsageError("a proof asks for logits, and this network refuses images, too.")
    _asked(net, x)  # what is only known after a pass is no part of a program
    try:
        _write(net, file, x, {0: torch.export.Dim("batch")})
        many = True
    except Exception as error:  # the network may be anybody's, and the tracer's errors have no base of their own
        if net.coupled or (net.stochastic and net.rows == "shared"):
            raise _unwritten(error) from error
        try:
            _write(net, file, x[:1], None)
            many = False
        except Exception as again:
            raise _unwritten(again) from again
    written = torch.export.load(file).module()
    if any(not torch.equal(_asked(net, some), _asked(written, some)) for some in (*x.split(1), *([x] if many else []))):
        raise UsageError(
            "what torch.export writes of this network computes something else: its numbers do not all come from "
            "torch's generator, or it keeps state between calls."
        )
    return many


def _write(net: Classifier, file: Path, x: Tensor, batch: dict[int, torch.export.Dim] | None) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=(batch,), strict=False), file)


def _unwritten(error: Exception) -> UsageError:
    reason = str(error).strip().partition("\n")[0]
    return UsageError(f"torch.export cannot write this network: {type(error).__name__}: {reason}")


def _asked(net: nn.Module, x: Tensor) -> Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        logits: Tensor = net(x)
    return logits
