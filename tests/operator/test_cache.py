"""The cache keeps what is read, forgets what is gone, and never goes back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from serinus_operator.cache import Cache
from serinus_operator.rollout.observed import Problem

KEY = ("default", "embedder")


def pod(name: str, version: int) -> dict[str, Any]:
    labels = {"serinus.dev/release": "embedder", "serinus.dev/revision": name}
    metadata = {"namespace": "default", "name": name, "uid": name, "resourceVersion": str(version), "labels": labels}
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "podIP": "198.18.0.1"}
    return {"metadata": metadata | {"managedFields": [{}]}, "spec": {"containers": []}, "status": status}


def filled(*pods: dict[str, Any]) -> Cache:
    cache = Cache()
    cache.put_release({"metadata": {"namespace": "default", "name": "embedder", "uid": "u", "resourceVersion": "1"}})
    for each in pods:
        cache.put("Pod", each)
    return cache


def revisions(cache: Cache) -> list[str]:
    return [each.revision for each in cache.children(KEY).pods]


def test_a_release_is_kept_without_what_is_not_read() -> None:
    cache, annotations = Cache(), {"serinus.dev/command": "{}", "kubectl.kubernetes.io/last-applied-configuration": "x"}
    metadata = {"namespace": "default", "name": "embedder", "uid": "u", "resourceVersion": "7", "generation": 2}
    model = {"registry": "default", "name": "m"}
    release = {"kind": "ModelRelease", "spec": {"model": model}, "status": {"canary": {"revision": "r"}}}
    whole = release | {"metadata": metadata | {"managedFields": [{}], "annotations": annotations}}
    assert cache.put_release(whole)
    held = cache.releases[KEY]
    assert held.json() == release | {"metadata": metadata | {"annotations": {"serinus.dev/command": "{}"}}}
    assert (held.model, held.rolling) == (("default", "m"), True)
    assert not cache.put_release(whole)


def test_of_a_pods_spec_the_accelerators_are_kept() -> None:
    asking = pod("a", 5)
    limits = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    asking["spec"] = {
        "nodeName": "n",
        "containers": [{"name": "server", "resources": {"limits": limits}}, {"name": "x"}],
    }
    assert filled(asking).children(KEY).pods[0].accelerators == 1


def test_why_a_pod_does_not_run_is_kept_whole() -> None:
    since = "2026-01-01T00:00:00Z"
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    waiting = {"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
    held = pod("a", 5)
    held["status"] = {"conditions": [unschedulable | {"lastTransitionTime": since}], "containerStatuses": [waiting]}
    kept = filled(held).children(KEY).pods[0]
    assert kept.problem == Problem("Unschedulable", "0/3 nodes", since=datetime.fromisoformat(since))
    held["status"]["conditions"] = []
    kept = filled(held).children(KEY).pods[0]
    assert (kept.problem, kept.restarts) == (Problem("CrashLoop", "back-off"), 2)


def test_what_a_list_lacks_is_gone_unless_it_was_seen_after_the_list() -> None:
    cache = filled(pod("old", 5), pod("new", 12))
    assert cache.retain("Pod", None, set(), listed_at="10") == {KEY}
    assert revisions(cache) == ["new"]


def test_a_list_of_another_namespace_says_nothing_of_this_one() -> None:
    cache = filled(pod("a", 5))
    assert cache.retain("Pod", "elsewhere", set(), listed_at="10") == set()


def test_only_what_is_read_wakes_a_release() -> None:
    cache = filled(pod("a", 5))
    moved = pod("a", 6)
    moved["status"]["podIP"] = "198.18.0.2"
    assert cache.put("Pod", moved) is None
    failed = pod("a", 7)
    failed["status"]["conditions"][0]["status"] = "False"
    assert cache.put("Pod", failed) == KEY
    assert cache.put("Pod", failed) is None


def test_an_older_object_changes_nothing() -> None:
    cache = filled(pod("a", 5))
    cache.put("Pod", pod("a", 4) | {"status": {}})
    assert cache.children(KEY).pods[0].ready
