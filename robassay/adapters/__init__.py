"""Networks of snnTorch, SpikingJelly and Norse; each framework is imported only when it is asked for."""

from robassay.adapters.wrap import adapt, recognised
from robassay.adapters.adapted import Adapted, Shares
from robassay.adapters.encoders import Direct, Encoder, Latency, Poisson
from robassay.adapters.readouts import FirstSpike, Membrane, Rate, Readout

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
    "Shares",
    "adapt",
    "recognised",
]
