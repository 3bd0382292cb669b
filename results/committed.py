"""The trained networks whose weights lie in results/weights, and how often they are right.

Run:    robassay run results/committed.py --adopt results/weights --data-dir FOLDER
Write:  robassay weights results/committed.py results/weights --store STORE
"""

from robassay.data import find
from robassay.papers.networks import table_of
from robassay.papers.subjects import mnist_subjects
from robassay.study import Study

NAMES = (
    "BSN-2",
    "BSN-L",
    "Standard",
    "Dropout",
    "RS-1",
    "RSE",
    "PNI-W",
    "L2P",
    "Adv-BNN",
    "Small CNN, adversarial",
    "RS-1-Dropout",
    "A2SNN m5, seed 0",
)


def study() -> Study:
    """Accuracy of single passes and of ten."""
    data = find("mnist")
    subjects = mnist_subjects(data, "small")
    logits = {n: subjects[n] for n in NAMES if n.startswith(("BSN", "A2SNN"))}
    probs = {n: subjects[n] for n in NAMES if n not in logits}
    items = (
        table_of("logits", "MNIST, 10,000 test images; the mean is that of logits", data, logits, "logits"),
        table_of("probs", "MNIST, 10,000 test images; the mean is that of probabilities", data, probs, "probs"),
    )
    return Study("committed", "Networks with committed weights", items, scale="small")
