"""Who may have the operator make which pods: the chart's admission policy, asked by users with different rights on the real API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.integration.conftest import Kubelet, Operator, eventually
from tests.integration.team import Team

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

PLACE = "tenants"
CONTAINER: dict[str, Any] = {"name": "sidecar", "image": "example.org/sidecar:1"}


def role(name: str, *rules: tuple[str, str, list[str]]) -> dict[str, Any]:
    made = [{"apiGroups": [group], "resources": [resource], "verbs": verbs} for group, resource, verbs in rules]
    metadata = {"name": name, "namespace": PLACE}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": made}


RELEASES = ("serinus.dev", "modelreleases", ["create", "update", "patch", "get"])
PODS, SECRETS = ("", "pods", ["create"]), ("", "secrets", ["get"])
CONFIG_MAPS, ACCOUNTS = ("", "configmaps", ["get"]), ("", "serviceaccounts", ["get"])
PEOPLE = {
    "releaser": role("releaser", RELEASES),
    "builder": role("builder", RELEASES, PODS),
    "owner": role("owner", RELEASES, PODS, SECRETS, CONFIG_MAPS, ACCOUNTS),
}


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    """With a namespace in which three people have different rights."""
    things: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}}]
    for person, rights in PEOPLE.items():
        to = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": person}
        whom = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": person}]
        binding = {**rights, "kind": "RoleBinding", "roleRef": to, "subjects": whom}
        binding.pop("rules")
        things += [rights, binding]
    applied = control_plane.kubectl(
        "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
    )
    assert applied.returncode == 0, applied.stderr
    told = "the policy is in force"
    eventually(told, lambda: "may not" in asked(control_plane, "releaser", {"image": "example.org/other:1"}), 30)
    return control_plane


def asked(plane: ControlPlane, person: str, serving: dict[str, Any], name: str = "asked", *options: str) -> str:
    """What the API server says to a release with this `spec.serving`; empty when it takes it. Nothing is stored."""
    release = {
        "apiVersion": "serinus.dev/v1alpha1", "kind": "ModelRelease", "metadata": {"name": name, "namespace": PLACE},
        "spec": {"model": {"name": "m", "alias": "a"}, "serving": serving},
    }  # fmt: skip
    how = options or ("--dry-run=server",)
    done = plane.kubectl(
        "apply", "--server-side", "--force-conflicts", *how, f"--as={person}", "-f", "-", stdin=json.dumps(release)
    )
    return "" if done.returncode == 0 else done.stderr


def template(**spec: Any) -> dict[str, Any]:
    return {"template": {"spec": spec}}


def sidecar(**more: Any) -> dict[str, Any]:
    return template(containers=[CONTAINER | more])


def volume(**of: Any) -> dict[str, Any]:
    return template(volumes=[{"name": "v", **of}])


SECRET_BY = {
    "a variable": sidecar(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "k"}}}]),
    "all variables": sidecar(envFrom=[{"secretRef": {"name": "theirs"}}]),
    "a volume": volume(secret={"secretName": "theirs"}),
    "a projected volume": volume(projected={"sources": [{"secret": {"name": "theirs"}}]}),
    "a driver's volume": volume(csi={"driver": "d.example.org", "nodePublishSecretRef": {"name": "theirs"}}),
    "a pull secret": template(imagePullSecrets=[{"name": "theirs"}]),
    "an init container": template(initContainers=[CONTAINER | {"envFrom": [{"secretRef": {"name": "theirs"}}]}]),
    "the second of two": sidecar(envFrom=[{"secretRef": {"name": "first"}}, {"secretRef": {"name": "theirs"}}]),
}


def test_who_may_only_write_releases_chooses_no_pods(plane: ControlPlane) -> None:
    assert asked(plane, "releaser", {"resources": {"limits": {"nvidia.com/gpu": "1"}}}) == ""
    for serving in ({"image": "example.org/other:1"}, sidecar(), template(serviceAccountName="admin")):
        said = asked(plane, "releaser", serving)
        assert f"are for those who may create pods in {PLACE}, which releaser may not" in said


@pytest.mark.parametrize("by", SECRET_BY)
def test_who_may_create_pods_gets_no_secret_that_he_may_not_read(plane: ControlPlane, by: str) -> None:
    said = asked(plane, "builder", SECRET_BY[by])
    assert "spec.serving.template: builder may not get the Secret" in said
    assert "theirs" in said
    assert asked(plane, "owner", SECRET_BY[by]) == ""


def test_config_maps_and_accounts_are_asked_for_too_and_names_are_bounded(plane: ControlPlane) -> None:
    assert "may not get the ConfigMap theirs" in asked(plane, "builder", volume(configMap={"name": "theirs"}))
    assert "may not get the service account admin" in asked(plane, "builder", template(serviceAccountName="admin"))
    assert asked(plane, "builder", sidecar()) == ""
    many = sidecar(envFrom=[{"secretRef": {"name": f"secret-{number}"}} for number in range(9)])
    assert "names 9 Secrets; 8 at most" in asked(plane, "owner", many)


def test_what_another_one_chose_may_be_scaled_and_not_changed(plane: ControlPlane) -> None:
    chosen = SECRET_BY["a volume"]
    assert asked(plane, "owner", chosen, "shared", "--field-manager=owner") == ""
    by_releaser = ("patch", "modelrelease", "shared", "-n", PLACE, "--as=releaser", "--type=merge", "--patch")
    assert plane.kubectl(*by_releaser, json.dumps({"spec": {"replicas": 2}})).returncode == 0
    refused = plane.kubectl(*by_releaser, json.dumps({"spec": {"serving": {"image": "example.org/evil:1"}}}))
    assert "may not" in refused.stderr


def test_without_the_policy_no_pods_are_made_of_what_it_guards(
    control_plane: ControlPlane, team: Team, operator: Operator, kubelet: Kubelet
) -> None:
    """Somebody took the binding away: what serves goes on, and what would need it says so."""
    team.register()
    binding = control_plane.kubectl(
        "get", "validatingadmissionpolicybinding", "serinus-pods.serinus.dev", "-o", "json"
    ).stdout
    kept = json.loads(binding)
    kept["metadata"] = {"name": kept["metadata"]["name"]}
    assert (
        control_plane.kubectl("delete", "validatingadmissionpolicybinding", "serinus-pods.serinus.dev").returncode == 0
    )
    try:
        team.apply(serving={"image": "example.org/other:1"})
        eventually("it says so", lambda: "admission policy" in team.status().get("message", ""), 30, team.status)
    finally:
        back = control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(kept))
        assert back.returncode == 0, back.stderr
    eventually("version 1 is stable", lambda: team.stable_version() == "1", 60, team.status)
