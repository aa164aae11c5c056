"""How `make test` divides its work between two processes: tests that share something expensive stay together.

One process has the node's cluster, which mostly waits; the other has everything else, and steps back when the cluster wants the processor.
"""

from __future__ import annotations

import os

import pytest

_TOGETHER = {"e2e": "node", "integration": "control plane", "model": "model"}
_STEPS_BACK = 10


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        groups = [group for marker, group in _TOGETHER.items() if item.get_closest_marker(marker)]
        if groups:
            item.add_marker(pytest.mark.xdist_group(groups[0]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test starts inherits its priority."""
    if "PYTEST_XDIST_WORKER" in os.environ and os.geteuid() == 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0 if item.get_closest_marker("e2e") else _STEPS_BACK)
