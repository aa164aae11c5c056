"""What the chart lets the operator do, and what the operator does: the API server's audit log beside the rendered roles.

That the rights are enough, every other test here shows: it runs with them, and fails on a 403. This one shows that none is too much.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.cluster import chart
from tests.cluster.control_plane import ControlPlane
from tests.integration.conftest import Kubelet, Operator, eventually
from tests.integration.team import Team

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("gateway_api"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

STRATEGY: dict[str, Any] = {
    "scaleDownDelay": "0s",
    "bake": "0s",
    "steps": [{"verify": {}}, {"setWeight": 50}, {"pause": {"duration": "1s"}}],
}
ROUTING = {"type": "GatewayAPI", "parentRefs": [{"name": "public", "namespace": "infra"}]}
GUARDED = {"template": {"spec": {"volumes": [{"name": "scratch", "emptyDir": {}}]}}}  # has the policy looked at


class Right(NamedTuple):
    """`name` is empty where a rule names no objects."""

    group: str
    resource: str
    verb: str
    name: str = ""


def granted() -> set[Right]:
    """What the chart's roles give to the operator's service account, and not to people."""
    things = chart.rendered(namespace="default")
    operators = {"kind": "ServiceAccount", "name": "serinus-operator", "namespace": "default"}
    bound = {
        (each["roleRef"]["kind"], each["roleRef"]["name"]) for each in things if operators in each.get("subjects", ())
    }
    roles = [each for each in things if (each["kind"], each["metadata"]["name"]) in bound]
    assert len(roles) == len(bound) == 3
    return {right for role in roles for rule in role["rules"] for right in _of(rule)}


def _of(rule: dict[str, Any]) -> Iterator[Right]:
    parts = (rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", [""]))
    return (Right(*each) for each in product(*parts))


def used(audit_log: Path, since: int) -> set[Right]:
    """Every right that a logged request needed, with its object's name and without."""
    found = set()
    with audit_log.open("rb") as stream:
        stream.seek(since)
        for line in stream:
            if not line.endswith(b"\n"):
                break  # it is being written
            entry = json.loads(line)
            thing, code = entry.get("objectRef"), entry["responseStatus"]["code"]
            if thing is None or code == 403:
                continue
            resource = "/".join(filter(None, (thing["resource"], thing.get("subresource"))))
            verbs = {entry["verb"]} | ({"create"} if code == 201 else set())  # an apply of what is not there
            found |= {
                Right(thing.get("apiGroup", ""), resource, verb, name)
                for verb in verbs
                for name in ("", thing.get("name", ""))
            }
    return found


def test_the_operator_has_no_right_that_it_does_not_use(
    control_plane: ControlPlane, team: Team, operator: Operator, kubelet: Kubelet
) -> None:
    """One release goes all ways: refused, tried again with its objects in the way, promoted, routed by a Gateway and not, told twice."""
    since = control_plane.audit_log.stat().st_size if control_plane.audit_log.exists() else 0

    def does(resource: str, verb: str) -> bool:
        return any((each.resource, each.verb) == (resource, verb) for each in used(control_plane.audit_log, since))

    team.register()
    team.apply(strategy=STRATEGY | {"routing": ROUTING}, serving=GUARDED)
    eventually("version 1 is stable", lambda: team.stable_version() == "1", 60, team.status)
    kubelet.verify_passes = False
    team.register()
    eventually("version 2 is refused", lambda: team.status().get("target", {}).get("rejected"), 60, team.status)

    name = f"{team.name}-{team.status()['target']['revision']}"
    in_the_way = {f"job/{name}-verify": "jobs", f"deployment/{name}": "deployments"}
    for thing in in_the_way:  # as if the answer to an earlier request had been lost
        made = control_plane.kubectl("create", *thing.split("/"), "--image=example.org/other:1")
        assert made.returncode == 0, made.stderr
    kubelet.verify_passes = True
    say(team, "retry", "1")
    for thing, resource in in_the_way.items():
        eventually(f"it looks at {thing}", lambda resource=resource: does(resource, "get"), 60, team.status)
        control_plane.kubectl("delete", thing)
    eventually("version 2 is stable", lambda: team.stable_version() == "2", 60, team.status)
    eventually("one Deployment is left", lambda: len(team.kinds("deployments")) == 1)

    team.apply(strategy=STRATEGY | {"routing": {"type": "Replicas"}}, serving=GUARDED)
    eventually("the route goes", lambda: does("httproutes", "delete"))
    for number in ("2", "3"):
        say(
            team, "promote", number
        )  # there is nothing to promote: the second refusal is counted in the first one's Event
    eventually("an Event is counted", lambda: does("events", "patch"))
    eventually("the old space's Service goes", lambda: does("services", "delete"))

    rights, done = granted(), used(control_plane.audit_log, since)
    assert rights - done == set(), "granted by the chart, used by nobody"
    too_much = {Right("", "services", "get"), Right("", "secrets", "list")}
    assert {*rights, *too_much} - done == too_much, "this test does not see a right too many"


def say(team: Team, verb: str, number: str) -> None:
    """A person's command; returns once it was looked at."""
    command = json.dumps({"id": number, "verb": verb})
    done = team.plane.kubectl("annotate", "--overwrite", "modelrelease", team.name, f"serinus.dev/command={command}")
    assert done.returncode == 0, done.stderr
    eventually(f"{verb} was looked at", lambda: team.status().get("command", {}).get("id") == number)
