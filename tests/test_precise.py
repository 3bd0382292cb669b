"""Double precision where single is flat: a softmax inside the network, against its derivative by hand."""

from __future__ import annotations

import torch
from torch import nn

from robassay.classifier import Wrapped
from robassay.data import find, pixels
from robassay.estimators import Backprop
from robassay.precise import Precise, doubles
from robassay.rng import Stream
from robassay.threat import Goal

RNG = Stream(("precise",))
TEMPERATURE = 0.02


class Inside(nn.Module):
    """A linear layer of known weights and a softmax at a low temperature; or one that names float32 itself."""

    def __init__(self, single: bool = False) -> None:
        super().__init__()
        self.layer, self.single = nn.Linear(4, 3, bias=False), single
        self.layer.weight.data = torch.tensor([[6.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, -1.0, 2.0]])

    def forward(self, x):
        z = self.layer(x.flatten(1))
        return (torch.ones(1, 1).mm(z[:1, :1]) * 0 + z if self.single else z).div(TEMPERATURE).softmax(-1)


X = torch.tensor([0.9, 0.4, 0.3, 0.2]).reshape(1, 1, 2, 2)


def test_what_is_flat_in_single_precision_has_its_slope_in_double() -> None:
    # The best rival is class 1 (0.4 against 0.1). Its logit rises with pixel 1, and the label's falls six times as fast
    # with pixel 0; of probabilities, that of the label is 1 in double precision, too, and has no slope of its own.
    for probabilities, slope in ((True, [-1.0, 1 / 6, 0, 0]), (False, [0.0, 1.0, 0, 0])):
        model, goal = Wrapped(Inside(), 3, False, probabilities=probabilities), Goal(torch.tensor([0]))
        flat = Backprop()(model, X, goal.loss("margin"), RNG)
        assert float(flat.gradient.abs().max()) == 0
        found = Precise()(model, X, goal.loss("margin"), RNG)
        assert torch.allclose(found.gradient.flatten(), torch.tensor(slope), atol=1e-4)
        assert found.gradient.dtype == found.logits.dtype == found.value.dtype == torch.float32
        assert found.cost == (1, 1)


def test_the_network_itself_stays_in_single_precision() -> None:
    model = Wrapped(Inside(), 3, False)
    before = model(X)
    Precise()(model, X, Goal(torch.tensor([0])).loss("margin"), RNG)
    assert next(model.parameters()).dtype == torch.float32 and torch.equal(model(X), before)


def test_a_network_that_names_its_precision_is_told_apart() -> None:
    assert doubles(Wrapped(Inside(), 3, False), X) and not doubles(Wrapped(Inside(single=True), 3, False), X)


def test_an_audit_finds_out_a_softmax_at_a_low_temperature() -> None:
    """A network is trained and audited with its softmax inside (about 5 s)."""
    import robassay

    images = find("digits").split("train")
    x, y = pixels(images.x), images.y
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(150):
            rows = torch.randint(len(y), (128,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    test = find("digits").split("test")

    class Cold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x):
            return (self.net(x) / 0.01).softmax(-1)

    data = (pixels(test.x[:40]), test.y[:40])
    result = robassay.audit(Cold(), data, linf=0.15, examples=40, quiet=True)
    left = {a["name"]: a["robust"]["value"] for a in result["attacks"]}
    plain = {
        a["name"]: a["robust"]["value"]
        for a in robassay.audit(net, data, linf=0.15, quiet=True, examples=40)["attacks"]
    }
    assert left["PGD-40 margin"] > plain["PGD-40 margin"] + 0.2
    assert left["double precision"] <= plain["PGD-40 margin"] + 0.05
    assert result["cause"] in ("masking", "both")
