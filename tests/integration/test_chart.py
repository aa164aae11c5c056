"""The chart: what it renders, what the API server makes of it, what it leaves behind, and what it lets the operator do."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import binaries, chart
from tests.cluster.binaries import ClusterError
from tests.cluster.control_plane import ControlPlane
from tests.integration.surroundings import account_kubeconfig, eventually, free_port, process, wait_established

pytestmark = pytest.mark.integration

EVERYTHING: Mapping[str, Any] = {
    "replicas": 2,
    "tryOut": {"mlflow": {"enabled": True}, "prometheus": {"enabled": True}},
    "podMonitor": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "notifications": {"secret": "webhook"},
    "registries": {"default": {"trackingUri": "https://mlflow", "credentials": "mlflow"}},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}], "egress": [{"ports": [{"port": 443}]}]},
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "everything": EVERYTHING,
    "namespaced": {**EVERYTHING, "namespaces": ["team-a", "team-b"]},
    "namespaced without policy": {"namespaces": ["team-a"], "admissionPolicy": {"enabled": False}},
    "without a CRD that is kept": {"crds": {"keep": False}},
}


@cache
def variant(name: str, version: str = "") -> tuple[dict[str, Any], ...]:
    return tuple(chart.rendered(VARIANTS[name], *(["--kube-version", version] if version else [])))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("version", chart.KUBERNETES)
def test_every_object_is_what_that_kubernetes_describes(version: str, name: str) -> None:
    described = chart.openapi(version)
    for thing in variant(name, version):
        found = chart.misfits(thing, described)
        if found is None:
            assert thing["apiVersion"] == "monitoring.coreos.com/v1"  # of the Prometheus Operator, which brings its own
        else:
            assert found == [], (thing["kind"], thing["metadata"]["name"])


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    (service, *_) = (each for each in variant("as it is") if each["kind"] == "Service")
    wrong = {**service, "spec": {**service["spec"], "selektor": {}}}
    assert "selektor" in str(chart.misfits(wrong, chart.openapi(chart.KUBERNETES[0])))


def test_helm_finds_nothing_to_say() -> None:
    values = yaml.safe_dump({**chart.REQUIRED, **EVERYTHING})
    done = chart.helm("lint", "--strict", chart.CHART, "--values", "-", stdin=values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 2}, "'replica' not allowed"),
        ({"prometheus": {"uri": "http://p"}}, "'uri' not allowed"),
        ({"prometheus": {"url": ""}}, "set prometheus.url"),
        ({"prometheus": {"url": "prometheus:9090"}}, "/prometheus/url"),
        ({"images": {"operator": "o", "server": ""}}, "set images.server"),
        ({"registries": {"default": {"trackingUri": ""}}}, "set registries.default.trackingUri"),
        ({"registries": {"Default": {"trackingUri": "http://m"}}}, "Default"),
        ({"admissionPolicy": {"enabled": False}}, "name the namespaces that may do without it"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ClusterError, match=named):
        chart.rendered(values)


def test_every_value_is_in_the_schema_and_every_part_of_it_is_closed() -> None:
    """A default that the schema does not know would make the chart itself invalid; an open part would let a typo through."""
    schema = json.loads((chart.CHART / "values.schema.json").read_text())
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    assert set(values) | {"global"} == set(schema["properties"])
    for name, part in schema["properties"].items():
        if name not in ("global", "affinity") and part.get("type") == "object":
            assert "additionalProperties" in part, name


@pytest.mark.parametrize("name", VARIANTS)
def test_no_role_has_a_star_or_reads_secrets(name: str) -> None:
    namespaces = {}
    for thing in variant(name):
        for rule in thing.get("rules", []) if thing["kind"].endswith("Role") else []:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], thing["metadata"]["name"]
            assert not {"secrets", "configmaps", "serviceaccounts", "nodes"} & set(rule["resources"])
            namespaces[thing["kind"], thing["metadata"]["name"]] = thing["metadata"].get("namespace")
    if "namespaced" in name:  # then nothing is granted elsewhere but a look at the one policy
        cluster_wide = {role for (kind, role) in namespaces if kind == "ClusterRole"}
        assert cluster_wide <= {"serinus-policy", "serinus-view", "serinus-edit"}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_pod_of_the_chart_satisfies_pod_security_restricted(name: str) -> None:
    for thing in variant(name):
        if thing["kind"] == "Deployment":
            pod = thing["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] == 65532
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                confined = {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert container["securityContext"] == confined


def test_two_replicas_are_spread_and_one_may_be_evicted() -> None:
    kinds = {each["kind"]: each for each in variant("everything") if each["metadata"]["name"] == "serinus-operator"}
    assert kinds["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert kinds["Deployment"]["spec"]["replicas"] == 2
    assert "podAntiAffinity" in kinds["Deployment"]["spec"]["template"]["spec"]["affinity"]
    assert "PodDisruptionBudget" not in {each["kind"] for each in variant("as it is")}


def test_the_crd_goes_only_when_that_is_asked_for() -> None:
    def annotations(name: str) -> Any:
        (crd,) = (each for each in variant(name) if each["kind"] == "CustomResourceDefinition")
        return crd["metadata"].get("annotations")

    assert annotations("as it is") == {"helm.sh/resource-policy": "keep"}
    assert annotations("without a CRD that is kept") is None
    assert "CustomResourceDefinition" not in {each["kind"] for each in chart.rendered({"crds": {"enabled": False}})}


# --- on the API server ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without anything of ours."""
    with ControlPlane(tmp_path_factory.mktemp("bare")) as plane:
        yield plane


KINDS = (
    "customresourcedefinitions,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,roles,"
    "rolebindings,serviceaccounts,services,deployments,configmaps,secrets,networkpolicies,poddisruptionbudgets,leases"
)


def everything_there(plane: ControlPlane) -> dict[str, str]:
    """Generation and UID of everything in the cluster, by kind, namespace and name; what controllers make by themselves left out."""
    shown = plane.kubectl("get", KINDS, "--all-namespaces", "--output=json")
    assert shown.returncode == 0, shown.stderr
    found = {}
    for each in json.loads(shown.stdout)["items"]:
        data = each["metadata"]
        if data["name"] not in ("kube-root-ca.crt", "default") and not data["name"].startswith(
            ("system:", "apiserver-")
        ):
            key = f"{each['kind']} {data.get('namespace', '')}/{data['name']}"
            found[key] = f"{data['uid']} {data.get('generation')}"
    return found


def test_install_upgrade_and_uninstall_leave_nothing_but_the_crd_and_what_serves(
    bare: ControlPlane, tmp_path: Path
) -> None:
    def helm(*arguments: str, **values: Any) -> None:
        given = yaml.safe_dump({**chart.REQUIRED, **values})
        where = ("--namespace", chart.NAMESPACE, "--kubeconfig", str(bare.kubeconfig))
        sets = () if arguments[0] == "uninstall" else ("--values", "-")
        done = chart.helm(*arguments, *where, *sets, stdin=given, HELM_CACHE_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr

    before = everything_there(bare)
    monitoring = {
        "podMonitor": {"enabled": False},
        "serviceMonitor": {"enabled": False},
        "prometheusRule": {"enabled": False},
    }
    helm("install", "serinus", str(chart.CHART), "--create-namespace")
    wait_established(bare, "modelreleases.serinus.dev")
    release = {"apiVersion": "serinus.dev/v1alpha1", "kind": "ModelRelease", "metadata": {"name": "kept", "namespace": "default"},
               "spec": {"model": {"name": "m", "alias": "a"}}}  # fmt: skip
    made = bare.kubectl("apply", "-f", "-", stdin=json.dumps(release))
    assert made.returncode == 0, made.stderr
    serving = bare.kubectl("create", "deployment", "serving", "--image=example.org/server:1")
    assert serving.returncode == 0, serving.stderr
    installed = everything_there(bare)

    helm("upgrade", "serinus", str(chart.CHART), **{**EVERYTHING, **monitoring})
    upgraded = everything_there(bare)
    changed = {key for key in installed if upgraded[key] != installed[key]}
    assert changed <= {
        f"Deployment {chart.NAMESPACE}/serinus-operator",
        f"NetworkPolicy {chart.NAMESPACE}/serinus-operator",
    }
    assert upgraded["Deployment default/serving"] == installed["Deployment default/serving"]

    helm("uninstall", "serinus", "--wait")
    left = set(everything_there(bare)) - set(before)
    assert left == {"CustomResourceDefinition /modelreleases.serinus.dev", "Deployment default/serving"}
    assert bare.kubectl("get", "modelrelease", "kept").returncode == 0

    helm("install", "serinus", str(chart.CHART))  # takes the CRD that it finds
    helm("upgrade", "serinus", str(chart.CHART), crds={"keep": False})
    helm("uninstall", "serinus", "--wait")
    assert set(everything_there(bare)) - set(before) == {"Deployment default/serving"}


def test_the_plain_manifest_is_accepted_as_it_is(bare: ControlPlane, tmp_path: Path) -> None:
    namespace = bare.kubectl("create", "namespace", chart.NAMESPACE, "--dry-run=client", "-o", "yaml")
    things = [yaml.safe_load(namespace.stdout), *chart.rendered()]
    plain = tmp_path / "install.yaml"
    plain.write_text(yaml.safe_dump_all(things))
    applied = bare.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(plain))
    assert applied.returncode == 0, applied.stderr
    gone = bare.kubectl("delete", "--wait=false", "-f", str(plain))
    assert gone.returncode == 0, gone.stderr


def test_the_prometheus_to_try_out_finds_a_releases_pods_with_the_rights_that_it_gets(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    things = chart.rendered({"tryOut": {"prometheus": {"enabled": True}}}, namespace="default")
    its = {each["kind"]: each for each in things if each["metadata"]["name"] == "serinus-prometheus"}
    rights = [its[kind] for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")]
    container = {"name": "server", "image": "example.org/server:1", "ports": [{"name": "http", "containerPort": 8001}]}
    labels = {"serinus.dev/release": "scraped", "serinus.dev/revision": "abc"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "scraped", "namespace": "default", "labels": labels},
           "spec": {"containers": [container]}}  # fmt: skip
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*rights, pod]})
    applied = control_plane.kubectl("apply", "-f", "-", stdin=items)
    assert applied.returncode == 0, applied.stderr
    path = "/api/v1/namespaces/default/pods/scraped"
    here = {"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}
    code, answer = control_plane.call("PATCH", f"{path}/status", here, "application/merge-patch+json")
    assert code == 200, answer

    config = yaml.safe_load(its["ConfigMap"]["data"]["prometheus.yml"])
    account = account_kubeconfig(control_plane, "serinus-prometheus", tmp_path / "kubeconfig")
    config["scrape_configs"][0]["kubernetes_sd_configs"][0]["kubeconfig_file"] = str(account)
    (tmp_path / "prometheus.json").write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    command = [str(binaries.prometheus()), f"--config.file={tmp_path / 'prometheus.json'}",
               f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={address}"]  # fmt: skip

    def found() -> list[dict[str, str]]:
        with suppress(OSError), urllib.request.urlopen(f"http://{address}/api/v1/targets", timeout=5) as answer:
            return [each["labels"] for each in json.loads(answer.read())["data"]["activeTargets"]]
        return []

    with process(command, tmp_path / "prometheus.log"):
        (target,) = eventually("the pod is a target", found, 30, (tmp_path / "prometheus.log").read_text)
    control_plane.call("DELETE", f"{path}?gracePeriodSeconds=0")
    wanted = {"namespace": "default", "pod": "scraped", "serinus_dev_release": "scraped", "serinus_dev_revision": "abc"}
    assert {name: target.get(name) for name in wanted} == wanted


def test_people_with_edit_in_a_namespace_may_roll_out_and_those_with_view_may_look(control_plane: ControlPlane) -> None:
    def may(user: str, verb: str) -> bool:
        asked = control_plane.kubectl(
            "auth", "can-i", verb, "modelreleases.serinus.dev", f"--as={user}", "-n", "default"
        )
        return asked.stdout.strip() == "yes"

    for user, role in (("editor", "edit"), ("viewer", "view")):
        control_plane.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", "-n", "default")
    eventually("edit is aggregated", lambda: may("editor", "patch") and may("viewer", "list"))
    assert not may("viewer", "patch")
    assert not may("somebody", "get")
