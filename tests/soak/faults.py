"""What is done to the cluster while releases roll: the operator ended, serving pods deleted and killed, replicas moved as an HPA would.

A container that is killed gets SIGKILL from outside, all of its processes with it. The kubelet restarts it, later each time, so the
operator's pod is replaced in turn: every minute it ends in one way or the other.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.cluster.binaries import ClusterError
from tests.e2e.demo import NAME
from tests.e2e.stage import OPERATOR_NAMESPACE, Stage
from tests.soak.losses import Fault

BETWEEN_SECONDS = 15.0
REPLICAS = (3, 4, 5)
RELEASE = f"/apis/serinus.dev/v1alpha1/namespaces/default/modelreleases/{NAME}"
PODS = "/api/v1/namespaces/default/pods"
_OPERATORS = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods"
_SLICES = (
    f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name={NAME}-door"
)
_PROXY_SECONDS = 2.0  # kube-proxy's rules follow within a second; requests then under way had chosen before
_NOTICED_SECONDS = 20.0


class Faults:
    """One fault after the other from `start` to `stop`, in a thread of its own. What was done is in `done`."""

    def __init__(self, stage: Stage, tell: Callable[[str], None]) -> None:
        self.done: list[Fault] = []
        self.problems: list[str] = []
        self._call, self._node, self._tell = stage.cluster.plane.call, stage.cluster.node, tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._random = random.Random(1)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends when the fault that is under way is over, and gives the release its replicas back."""
        self._stop.set()
        self._thread.join(60)
        with suppress(ClusterError, OSError):
            self._scale(4)

    def _run(self) -> None:
        cycle = (
            self._kill_operator, self._delete_server, self._move_replicas, self._kill_server,
            self._delete_operator, self._move_replicas, self._delete_server, self._move_replicas,
        )  # fmt: skip
        turn = 0
        while not self._stop.wait(BETWEEN_SECONDS):
            began = time.monotonic()
            try:
                fault = cycle[turn % len(cycle)](began)
            except (ClusterError, OSError) as error:  # an API server that is slow for a moment
                self.problems.append(str(error))
                continue
            turn += 1
            self.done.append(fault)
            self._tell(f"{fault.kind}: {fault.thing}")

    def _kill_operator(self, began: float) -> Fault:
        pod = self._pods(_OPERATORS)[0]
        self._kill(pod)
        return Fault("operator killed (-9)", pod["metadata"]["name"], began, began)

    def _delete_operator(self, began: float) -> Fault:
        pod = self._pods(_OPERATORS)[0]
        self._delete(_OPERATORS, pod)
        return Fault("operator's pod deleted", pod["metadata"]["name"], began, began)

    def _delete_server(self, began: float) -> Fault:
        pod = self._victim()
        self._delete(PODS, pod)
        return Fault("serving pod deleted", pod["metadata"]["name"], began, began)

    def _kill_server(self, began: float) -> Fault:
        """One of stable's: a canary that dies is a canary that fails, and its gate says so."""
        pod = self._victim()
        began = time.monotonic()
        self._kill(pod)
        while self._receives(pod) and time.monotonic() < began + _NOTICED_SECONDS:
            time.sleep(0.1)
        noticed = time.monotonic()
        what = f"{pod['metadata']['name']}, out of its Service after {noticed - began:.1f} s"
        return Fault("server killed (-9)", what, began, noticed + _PROXY_SECONDS, loses=True)

    def _move_replicas(self, began: float) -> Fault:
        return Fault("replicas moved by /scale", f"to {self._scale(self._random.choice(REPLICAS))}", began, began)

    def _scale(self, replicas: int) -> int:
        code, answer = self._call(
            "PATCH", f"{RELEASE}/scale", {"spec": {"replicas": replicas}}, "application/merge-patch+json"
        )
        if code != 200:
            raise ClusterError(f"/scale: {code} {answer}")
        return replicas

    def _victim(self) -> Any:
        """One of stable's ready pods, but never the oldest: how much memory it holds after a while is to be seen."""
        stable = self._call("GET", RELEASE)[1]["status"]["stable"]["revision"]
        ready = [
            pod
            for pod in self._pods(f"{PODS}?labelSelector=serinus.dev/revision={stable},serinus.dev/release={NAME}")
            if any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))
        ]
        if len(ready) < 2:
            raise ClusterError("fewer than two pods are ready")
        ready.sort(key=lambda pod: (pod["status"]["startTime"], pod["metadata"]["name"]))
        return self._random.choice(ready[1:])

    def _pods(self, path: str) -> list[Any]:
        code, answer = self._call("GET", path)
        pods = [
            pod for pod in (answer["items"] if code == 200 else ())
            if not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") == "Running"
        ]  # fmt: skip
        if not pods:
            raise ClusterError(f"no pod runs: {path}")
        return pods

    def _delete(self, path: str, pod: Any) -> None:
        code, answer = self._call("DELETE", f"{path}/{pod['metadata']['name']}")
        if code != 200:
            raise ClusterError(f"cannot delete {pod['metadata']['name']}: {answer}")

    def _kill(self, pod: Any) -> None:
        """SIGKILL to the first process of the pod's container: the kernel ends the others of its namespace."""
        (status,) = pod["status"]["containerStatuses"]
        container = status.get("containerID", "").removeprefix("containerd://")
        for line in self._node.ctr("tasks", "ls").stdout.splitlines():
            name, pid, *_ = line.split()
            if name == container:
                os.kill(int(pid), signal.SIGKILL)
                return
        raise ClusterError(f"{pod['metadata']['name']} has no process")

    def _receives(self, pod: Any) -> bool:
        """Do new connections still go to it?"""
        code, answer = self._call("GET", _SLICES)
        return code == 200 and any(
            each["conditions"].get("ready") and pod["status"]["podIP"] in each["addresses"]
            for piece in answer["items"]
            for each in piece.get("endpoints") or ()
        )
