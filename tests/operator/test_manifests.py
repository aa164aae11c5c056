"""What is rendered: pods go where the user says, and stay what the operator needs them to be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.operator.world import spec

from serinus_operator import manifests
from serinus_operator.errors import InvalidSpec
from serinus_operator.manifests import Release
from serinus_operator.pod_template import Defaults
from serinus_operator.rollout.model import Target
from serinus_operator.rollout.observed import Resolved
from serinus_operator.rollout.revision import target_of
from serinus_operator.spec import Engine

RELEASE = Release("default", "embedder", "uid")
REVISION = Target("abc", "3", "digest", "space")
DEFAULTS = Defaults("image", "IfNotPresent", "http://mlflow")
TEMPLATE = {
    "metadata": {"labels": {"team": "vision"}, "annotations": {"note": "x"}},
    "spec": {"nodeSelector": {"gpu": "h100"}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
}


def test_pods_and_the_verify_job_go_where_the_template_says() -> None:
    chosen = replace(spec(), serving=replace(spec().serving, template=TEMPLATE))
    pods = (
        manifests.deployment(RELEASE, chosen, REVISION, 2, DEFAULTS)["spec"]["template"],
        manifests.verify_job(RELEASE, chosen, REVISION, "2", DEFAULTS)["spec"]["template"],
    )
    for pod in pods:
        assert pod["spec"]["nodeSelector"] == {"gpu": "h100"}
        assert pod["spec"]["tolerations"] == TEMPLATE["spec"]["tolerations"]
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert pods[0]["metadata"]["labels"]["team"] == "vision"
    assert pods[0]["metadata"]["labels"]["serinus.dev/release"] == "embedder"


def test_a_runtime_that_verify_chose_is_pinned_in_the_pods_and_none_is_where_it_did_not() -> None:
    def environment(backend: str, dtype: str = "") -> dict[str, str]:
        pod = manifests.deployment(RELEASE, spec(), REVISION, 2, DEFAULTS, backend, dtype)["spec"]["template"]["spec"]
        return {each["name"]: each.get("value", "") for each in pod["containers"][0]["env"]}

    assert environment("openvino")["SERINUS_BACKEND"] == "openvino"
    assert environment("openvino")["SERINUS_BACKEND_REASON"] == "verify chose it for revision abc"
    assert environment("openvino", "bfloat16")["SERINUS_DTYPE"] == "bfloat16"
    assert not {"SERINUS_BACKEND", "SERINUS_DTYPE"} & set(environment(""))


def test_volumes_variables_and_claims_of_the_template_stand_beside_what_is_the_operators_own() -> None:
    mount = {"name": "cache", "mountPath": "/cache"}
    container = {
        "name": "server",
        "env": [{"name": "SERINUS_PREDICTION_LOG", "value": "jsonl:/cache/log"}],
        "volumeMounts": [mount],
    }
    claims = [{"name": "gpu", "resourceClaimTemplateName": "h100"}]
    overlay = {"containers": [container], "volumes": [{"name": "cache", "emptyDir": {}}], "resourceClaims": claims}
    resources = {"claims": [{"name": "gpu"}]}
    plain = spec()
    chosen = replace(plain, serving=replace(plain.serving, template={"spec": overlay}, resources=resources))
    pod = manifests.deployment(RELEASE, chosen, REVISION, 2, DEFAULTS)["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert pod["resourceClaims"] == claims
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp", "cache"]
    assert server["volumeMounts"][1:] == [mount]
    assert server["resources"] == resources
    assert [each for each in server["env"] if each["name"] == "SERINUS_PREDICTION_LOG"] == container["env"]
    assert "MLFLOW_MODEL_URI" in {each["name"] for each in server["env"]}


def test_the_engine_is_what_the_spec_says_and_makes_another_revision() -> None:
    plain, engine = spec(), Engine("openvino", 8192, dtype="float32")
    chosen = replace(plain, serving=replace(plain.serving, engine=engine))
    (server,) = manifests.deployment(RELEASE, chosen, REVISION, 2, DEFAULTS)["spec"]["template"]["spec"]["containers"]
    said = {each["name"]: each.get("value") for each in server["env"]}
    assert (said["SERINUS_BACKEND"], said["SERINUS_MAX_BATCH_TOKENS"]) == ("openvino", "8192")
    assert said["SERINUS_DTYPE"] == "float32"
    assert "SERINUS_QUEUE_TOKENS" not in said
    resolved = Resolved("3", "digest", "space")
    without = replace(plain, serving=replace(plain.serving, engine=replace(engine, dtype=None)))
    assert len({target_of(each.serving, resolved).revision for each in (chosen, plain, without)}) == 3
    # What runs since before there was a dtype is the same revision with it: a field that is new rolls nothing.
    assert target_of(without.serving, resolved).revision == "9907ced180"


def test_a_directive_of_a_strategic_merge_is_refused_by_its_name() -> None:
    affinity = {"nodeAffinity": [{"$patch": "delete"}]}
    with pytest.raises(InvalidSpec, match=r"template\.spec\.affinity\.nodeAffinity\[0\]: \$patch is refused"):
        spec(serving={"template": {"spec": {"affinity": affinity}}})


def test_verify_pods_are_out_of_every_services_reach() -> None:
    labels = manifests.verify_job(RELEASE, spec(), REVISION, "2", DEFAULTS)["spec"]["template"]["metadata"]["labels"]
    assert "serinus.dev/release" not in labels


def test_a_template_makes_another_revision_and_none_leaves_it_as_it_was() -> None:
    resolved = Resolved("3", "digest", "space")
    plain = target_of(spec().serving, resolved)
    assert target_of(replace(spec().serving, template={}), resolved) == plain
    assert target_of(replace(spec().serving, template=TEMPLATE), resolved).revision != plain.revision


def test_pods_log_predictions_where_a_secret_of_their_namespace_says() -> None:
    (container,) = manifests.deployment(RELEASE, spec(), REVISION, 2, DEFAULTS)["spec"]["template"]["spec"][
        "containers"
    ]
    (variable,) = [each for each in container["env"] if each["name"] == "SERINUS_PREDICTION_LOG"]
    reference = {"name": "serinus-prediction-log", "key": "url", "optional": True}
    assert variable["valueFrom"]["secretKeyRef"] == reference


def test_the_verify_job_outlives_the_operators_deadline_so_that_its_pod_still_says_why_it_waits() -> None:
    job = manifests.verify_job(RELEASE, spec(), REVISION, "2", DEFAULTS)["spec"]
    assert job["activeDeadlineSeconds"] > spec().strategy.progress_deadline.total_seconds()
