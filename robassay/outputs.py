"""What a module hands back: whether it is logits, and what to write where it is something else."""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.errors import RobassayError, UsageError

WRAPPER = """
    class Logits(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return {}"""


def check_finite(logits: Tensor) -> None:
    """Raise when any of the logits (…, B, C) is NaN, saying for how many images."""
    bad = logits.isnan().any(-1).reshape(-1, logits.shape[-2]).any(0).sum().item()
    if bad:
        raise RobassayError(
            f"the model returned NaN logits for {bad} of {logits.shape[-2]} images. A NaN decides nothing, so no rate "
            "can be given. Look for a division by zero, a log of 0 or an overflow in the model's forward."
        )


def like_probabilities(logits: Tensor) -> bool:
    """Whether every row of ``logits`` (…, B, C) is non-negative and adds up to 1, to what its precision allows."""
    allowed = max(1e-3, 4 * torch.finfo(logits.dtype).eps)
    return bool((logits >= 0).all() and (logits.float().sum(-1) - 1).abs().max() < allowed)


def logits_of(output: object) -> Tensor:
    """The logits (B, C) in a module's output.

    Raises:
        UsageError: the output is no (B, C) tensor of floats; the message says what to write.
    """
    if isinstance(output, Tensor) and output.dim() == 2 and output.is_floating_point():
        return output
    if isinstance(output, Tensor):
        what = f"a {output.dtype} tensor of shape {tuple(output.shape)}".replace("torch.", "")
    elif isinstance(output, (tuple, list)):
        what = f"a {type(output).__name__} of {len(output)}"
    elif isinstance(output, dict):
        what = f"a dict with keys {', '.join(map(str, output))}"
    else:
        what = f"a {type(output).__name__}"
    raise UsageError(
        f"the model returned {what}; an audit needs one float tensor of logits (images, classes). {_remedy(output)}"
    )


def _remedy(output: object) -> str:
    """What to write for an output that is no logits."""
    plain = "Return only the logits from build()'s module, for instance through a small wrapper module."
    if isinstance(output, (tuple, list, dict)):
        entries = dict(output.items() if isinstance(output, dict) else enumerate(output))
        found = [key for key, value in entries.items() if isinstance(value, Tensor) and value.dim() == 2]
        key = "logits" if "logits" in found else next(iter(found), None)
        return (
            plain if key is None else f"If they are entry {key!r}, wrap it:" + WRAPPER.format(f"self.net(x)[{key!r}]")
        )
    if not isinstance(output, Tensor):
        return plain
    if not output.is_floating_point():
        votes = "If they are votes or spike counts, return them as floats: .float()."
        labels = "Class labels do not say how near another class is: return what the argmax was taken of."
        return votes if output.dim() == 2 else labels
    if output.dim() > 2:
        return "Bring them into that shape in forward, such as by .flatten(1)."
    return "If it is one logit z of two classes, return torch.stack([-z, z], 1) / 2, with z of shape (images,)."
