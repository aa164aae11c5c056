"""What is rendered: pods go where the user says, and stay what the operator needs them to be."""

from __future__ import annotations

from dataclasses import replace

from tests.operator.world import spec

from serinus_operator import manifests
from serinus_operator.manifests import Defaults, Release
from serinus_operator.rollout.model import Target
from serinus_operator.rollout.observed import Resolved
from serinus_operator.rollout.revision import target_of

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
    def environment(backend: str) -> dict[str, str]:
        pod = manifests.deployment(RELEASE, spec(), REVISION, 2, DEFAULTS, backend)["spec"]["template"]["spec"]
        return {each["name"]: each.get("value", "") for each in pod["containers"][0]["env"]}

    assert environment("openvino")["SERINUS_BACKEND"] == "openvino"
    assert environment("openvino")["SERINUS_BACKEND_REASON"] == "verify chose it for revision abc"
    assert "SERINUS_BACKEND" not in environment("")


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
