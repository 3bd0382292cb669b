"""A study of a few seconds on digits, for the tests of the command line."""

import robassay as ra
from robassay.access import White
from robassay.attacks.gradient import FGSM, PGD
from robassay.nets.bsn import BSN
from robassay.nets.mlp import MLP
from robassay.training import Recipe

EPOCHS = {"smoke": 4, "small": 60}


def study(scale):
    """Two networks, two attacks, a table with a published figure, curves, a check and a gallery."""
    data = ra.find("digits")
    on = ra.Examples(data, "test", 0, 40)
    models = {
        "mlp": ra.Train(MLP(), data, Recipe(epochs=EPOCHS[scale])),
        "bsn": ra.Train(BSN(), data, Recipe(epochs=4)),
    }

    def attacked(model, attack, eps=0.1):
        return (ra.Score(model, ra.Craft((model,), on, attack, ra.Threat("linf", eps), White())),)

    entries, series = {}, {}
    for name, model in models.items():
        clean = (ra.Score(model, on),)
        pgd = attacked(model, PGD(steps=5))
        entries[name, "clean"] = ra.Measure((clean,), ra.Accuracy())
        entries[name, "fgsm"] = ra.Measure((attacked(model, FGSM()),), ra.Accuracy())
        entries[name, "pgd"] = ra.Measure((pgd,), ra.Accuracy())
        series[name] = tuple(ra.Measure((attacked(model, FGSM(), e),), ra.Accuracy()) for e in (0.05, 0.2))
    table = ra.Table("t1", "Small", ("mlp", "bsn"), ("clean", "fgsm", "pgd"), entries, {("mlp", "clean"): 0.99})
    curves = ra.Curves("f1", "Over eps", "eps", "accuracy", (0.05, 0.2), series)
    check = ra.Check("c1", "Is the MLP above chance?", entries["mlp", "clean"], 0.1)
    gallery = ra.Gallery("g1", "Images", attacked(models["mlp"], PGD(steps=5))[0], 3)
    return ra.Study("small", "A small study", (table, curves, check, gallery), scale=scale)
