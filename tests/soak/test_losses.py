"""A soak's judgement of lost requests: only a killed server's, and the erring release's, are explained."""

from tests.soak.load import Lost
from tests.soak.losses import Fault, explained

KILL = Fault("server killed (-9)", "pod", began=100.0, ended=104.0, loses=True)
DELETION = Fault("serving pod deleted", "pod", began=200.0, ended=200.0)


def lost(began: float, ended: float, version: str = "", *, saved: bool = True) -> Lost:
    return Lost(began, ended, "refused", version, saved)


def test_only_a_request_beside_a_killed_server_is_explained() -> None:
    requests = [lost(99.9, 100.1), lost(103.0, 103.1), lost(99.0, 99.5), lost(104.5, 104.6), lost(199.9, 200.1)]
    losses = explained(requests, [KILL, DELETION], erring="4")
    assert (losses.in_flight, losses.refused) == (requests[:1], requests[1:2])
    assert losses.unexplained == requests[2:]


def test_erring_release_is_blamed_for_its_own_answers_alone() -> None:
    requests = [lost(10.0, 10.1, "4", saved=False), lost(10.0, 10.1, "1", saved=False)]
    losses = explained(requests, [], erring="4")
    assert (losses.erring, losses.unsaved) == (requests[:1], requests[1:])
    assert explained([lost(10.0, 10.1)], [], erring="").unexplained, "a soak without one blames nobody"
