"""How `make test` divides its work between processes: file by file, and the node's cluster, which mostly waits, goes first.

What is beside it steps back when the cluster wants the processor.
"""

from __future__ import annotations

import os

import pytest

_STEPS_BACK = 10


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test starts inherits its priority."""
    if "PYTEST_XDIST_WORKER" in os.environ and os.geteuid() == 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0 if item.get_closest_marker("e2e") else _STEPS_BACK)
