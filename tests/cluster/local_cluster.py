"""The whole cluster on this machine, one per machine: control plane, node, DNS, Prometheus. It survives the command that started it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping

from tests.cluster import binaries, debian, images, machine, services
from tests.cluster.binaries import ClusterError
from tests.cluster.control_plane import ControlPlane, program
from tests.cluster.node import NODE_ADDRESS, Node
from tests.cluster.processes import Processes

_PORT = 6443
_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet", "kube-proxy",
             "coredns", "prometheus")  # fmt: skip
DEFAULT_GPUS = 4


class LocalCluster:
    """What `make cluster` starts and stops."""

    def __init__(self) -> None:
        self.folder = binaries.state_folder()
        self.plane = ControlPlane(self.folder, NODE_ADDRESS, _PORT)
        self.node = Node(self.folder, self.plane.processes)
        self.bin = self.folder / "bin"

    @property
    def processes(self) -> Processes:
        """Its programs."""
        return self.plane.processes

    def is_up(self) -> bool:
        """Do all of its programs run, and does the API server answer?"""
        return all(self.processes.pid(name) is not None for name in _PROGRAMS) and self.plane.ready()

    def up(self, extended_resources: Mapping[str, int]) -> None:
        """Starts what is not there. Raises ClusterError, and leaves nothing running then."""
        if os.geteuid() != 0:
            raise ClusterError(machine.NOT_ROOT)
        if self.is_up():
            binaries.say("the cluster is up already")
        else:
            if self.folder.exists():
                binaries.say("an unfinished cluster is here: stopping it first")
                self.down()
            self.build()
            try:
                self._start()
            except BaseException:
                self.down()
                raise
        self.node.advertise(self.plane, extended_resources)

    def down(self) -> list[str]:
        """Stops everything that `up` started. Returns the names of the programs that were running."""
        was_running = [name for name in self.processes.names() if self.processes.pid(name) is not None]
        if self.folder.exists():
            self.node.stop()
            self.processes.stop_all()
            shutil.rmtree(self.folder)
        return was_running

    def environment(self) -> dict[str, str]:
        """What a shell needs to use it."""
        return {
            "KUBECONFIG": str(self.plane.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kube-cache"),  # else in the home of whoever runs them
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }

    def build(self) -> None:
        """Has every program that the cluster consists of: from the cache, or built now."""
        debian.install(*debian.NODE_PACKAGES, *debian.BUILD_PACKAGES, *debian.IMAGE_PACKAGES)
        binaries.hyperkube()
        binaries.prometheus()
        binaries.containerd()
        binaries.runc()
        binaries.helm()

    def _start(self) -> None:
        began = time.monotonic()

        def done(what: str) -> None:
            binaries.say(f"{what} ({time.monotonic() - began:.0f} s)")

        self.folder.mkdir(parents=True, exist_ok=True)
        self.node.prepare_network()
        self.node.start_containerd()
        images.load_sandbox(self.node)
        done("containerd runs")
        self.plane.start()
        done("control plane is ready")
        self.node.start_kubelet(self.plane)
        done("node is ready")
        services.start_dns(self.plane, self.folder, self.processes)
        services.start_prometheus(self.plane, self.folder, self.processes)
        done("DNS and Prometheus are ready")
        self.bin.mkdir(exist_ok=True)
        for name, path in (("kubectl", program("kubectl")[0]), ("helm", binaries.helm())):
            link = self.bin / name
            link.unlink(missing_ok=True)
            link.symlink_to(path)
