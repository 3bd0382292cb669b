"""Networks; importing this package registers them all."""

from robassay.nets import bnn, bsn, cnn, cw_mnist, lenet, lif, mlp, published, resnet, spiking, vgg, wrn

__all__ = ["bnn", "bsn", "cnn", "cw_mnist", "lenet", "lif", "mlp", "published", "resnet", "spiking", "vgg", "wrn"]
