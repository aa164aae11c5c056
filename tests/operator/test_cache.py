"""The cache keeps what is read, forgets what is gone, and never goes back."""

from __future__ import annotations

from typing import Any

from serinus_operator.cache import Cache

KEY = ("default", "embedder")


def pod(name: str, version: int) -> dict[str, Any]:
    labels = {"serinus.dev/release": "embedder", "serinus.dev/revision": "r"}
    metadata = {"namespace": "default", "name": name, "uid": name, "resourceVersion": str(version), "labels": labels}
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "podIP": "198.18.0.1"}
    return {"metadata": metadata | {"managedFields": [{}]}, "spec": {"containers": []}, "status": status}


def filled(*pods: dict[str, Any]) -> Cache:
    cache = Cache()
    cache.put_release({"metadata": {"namespace": "default", "name": "embedder", "uid": "u", "resourceVersion": "1"}})
    for each in pods:
        cache.put("Pod", each)
    return cache


def names(cache: Cache) -> list[str]:
    return [each["metadata"]["name"] for each in cache.children(KEY).pods]


def test_of_a_pod_only_what_is_read_is_kept() -> None:
    kept = filled(pod("a", 5)).children(KEY).pods[0]
    assert kept["status"] == {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    assert "spec" not in kept
    assert "managedFields" not in kept["metadata"]


def test_of_a_pods_spec_the_accelerators_are_kept() -> None:
    asking = pod("a", 5)
    limits = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    asking["spec"] = {
        "nodeName": "n",
        "containers": [{"name": "server", "resources": {"limits": limits}}, {"name": "x"}],
    }
    kept = filled(asking).children(KEY).pods[0]
    assert kept["spec"] == {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}


def test_why_a_pod_does_not_run_is_kept_whole() -> None:
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    waiting = {"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
    held = pod("a", 5)
    held["status"] = {"conditions": [unschedulable], "containerStatuses": [waiting | {"image": "x"}]}
    kept = filled(held).children(KEY).pods[0]
    assert kept["status"] == {"conditions": [unschedulable], "containerStatuses": [waiting]}


def test_what_a_list_lacks_is_gone_unless_it_was_seen_after_the_list() -> None:
    cache = filled(pod("old", 5), pod("new", 12))
    assert cache.retain("Pod", None, set(), listed_at="10") == {KEY}
    assert names(cache) == ["new"]


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
    assert cache.children(KEY).pods[0]["status"]["conditions"]
