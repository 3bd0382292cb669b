"""Networks of snnTorch, SpikingJelly and Norse; each framework is imported only when it is asked for."""

from robassay.adapters.adapted import Adapted
from robassay.adapters.readouts import FirstSpike, Membrane, Rate, Readout
from robassay.adapters.wrap import adapt, recognised
from robassay.nets.encoders import Direct, Encoder, Latency, Poisson

__all__ = [
    "Adapted",
    "Direct",
    "Encoder",
    "FirstSpike",
    "Latency",
    "Membrane",
    "Poisson",
    "Rate",
    "Readout",
    "adapt",
    "recognised",
]
