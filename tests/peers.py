"""Small spiking networks of the three frameworks, and single neurons of each, for the adapters' tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

FRAMEWORKS = ("snntorch", "spikingjelly", "norse")
SHAPE = (1, 3, 3)


def layer(framework: str, leak: float = 0.5, threshold: float = 1.0, reset: str = "hard") -> nn.Module:
    """One step of a layer of neurons v ← leak·v + current, as near as the framework has it."""
    pytest.importorskip(framework)
    if framework == "snntorch":
        import snntorch

        how = {"hard": "zero", "soft": "subtract"}[reset]
        return snntorch.Leaky(beta=leak, threshold=threshold, reset_mechanism=how, reset_delay=False, init_hidden=True)
    if framework == "spikingjelly":
        from spikingjelly.activation_based import neuron

        value = 0.0 if reset == "hard" else None
        return neuron.LIFNode(1 / (1 - leak), decay_input=False, v_threshold=threshold, v_reset=value)
    import norse.torch as norse
    from norse.torch.functional.reset import reset_subtract, reset_value

    return norse.LIFBoxCell(
        norse.LIFBoxParameters(
            tau_mem_inv=torch.tensor(1000 * (1 - leak)),
            v_th=torch.tensor(threshold),
            reset_method=reset_value if reset == "hard" else reset_subtract,
        )
    )


def spikes(framework: str, current: Tensor, **how: object) -> Tensor:
    """Spikes (steps, …) of a layer on a current (steps, …)."""
    neuron, state, found = layer(framework, **how), None, []  # type: ignore[arg-type]
    for x in current:
        if framework == "norse":
            # Norse scales its input by 1 − leak.
            out, state = neuron(x / (1 - how.get("leak", 0.5)), state)  # type: ignore[operator]
        else:
            out = neuron(x)
        found.append(out)
    return torch.stack(found)


def net(framework: str, hidden: int = 12, classes: int = 4, threshold: float = 1.0) -> nn.Module:
    """One step of a fully connected network for images 1×3×3; weights large enough to fire."""
    layers = [layer(framework, threshold=threshold) for _ in range(2)]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        dense = [nn.Linear(9, hidden), nn.Linear(hidden, classes)]
        for d in dense:
            d.weight.data *= 4 / (0.5 if framework == "norse" else 1)
    parts = [nn.Flatten(), dense[0], layers[0], dense[1], layers[1]]
    if framework == "norse":
        import norse.torch as norse

        return norse.SequentialState(*parts)
    return nn.Sequential(*parts)
