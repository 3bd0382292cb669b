"""Networks; importing this package registers them all."""

from robassay.nets import bsn, cnn, lenet, lif, mlp

__all__ = ["bsn", "cnn", "lenet", "lif", "mlp"]
