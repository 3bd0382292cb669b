"""Networks; importing this package registers them all."""

from robassay.nets import bnn, bsn, cnn, lenet, lif, mlp

__all__ = ["bnn", "bsn", "cnn", "lenet", "lif", "mlp"]
