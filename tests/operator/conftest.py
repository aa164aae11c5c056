"""What tests of the operator share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.operator.stand_in import StandIn


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    source = StandIn()
    thread = threading.Thread(target=source.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield source
    source.server.shutdown()
    source.server.server_close()
