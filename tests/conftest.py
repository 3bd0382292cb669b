"""Shared settings: one torch thread, and one loud line when the tests that need data are skipped."""

from __future__ import annotations

import os

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("ROBASSAY_DATA"):
        return
    waiting = [item for item in items if item.get_closest_marker("data")]
    for item in waiting:
        item.add_marker(pytest.mark.skip(reason="needs ROBASSAY_DATA"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "needs ROBASSAY_DATA" in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"!!! {len(skipped)} tests that need MNIST and CIFAR-10 were SKIPPED: set ROBASSAY_DATA to their folder",
            yellow=True,
            bold=True,
        )
