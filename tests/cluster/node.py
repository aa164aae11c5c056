"""The one node: a bridge with the node's address, containerd with runc, the kubelet, kube-proxy. GPUs are only advertised.

Needs root. Everything of it lives in one folder, and `stop` takes all of it away again: containers, mounts, interfaces, rules.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.control_plane import POD_RANGE, ControlPlane, program
from tests.cluster.processes import Processes

NODE = "node0"
NODE_ADDRESS = "198.18.255.1"
SANDBOX_IMAGE = "localhost/pause:1"
_BRIDGE = "serinus0"
_POD_SUBNET = "198.18.0.0/17"  # the node's own address is in the other half of POD_RANGE
_NETWORK = "serinus"
_SYSCTL = ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.route_localnet=1")
_BRIDGED_TO_IPTABLES = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


class Node:
    """The node's programs; `folder` is where all that they keep is."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.processes = folder, processes
        self.socket = folder / "containerd.sock"
        self._kubelet = folder / "kubelet"

    def prepare_network(self) -> None:
        """The bridge that carries the node's address: the kubelet refuses loopback, and kube-proxy wants it to stay."""
        if _command("ip", "link", "show", NODE).returncode != 0:
            _must("ip", "link", "add", NODE, "type", "bridge")
        _must("ip", "address", "replace", f"{NODE_ADDRESS}/32", "dev", NODE)
        _must("ip", "link", "set", NODE, "up")
        _command("modprobe", "br_netfilter")  # built in, or not to be had: the file below tells
        for setting in _SYSCTL:
            _must("sysctl", "--quiet", "--write", setting)
        if _BRIDGED_TO_IPTABLES.exists():
            _BRIDGED_TO_IPTABLES.write_text("1\n")

    def start_containerd(self) -> None:
        """containerd, ready for the kubelet, with the sandbox's image in it."""
        folder = binaries.containerd()
        (self.folder / "cni").mkdir(parents=True, exist_ok=True)
        (self.folder / "cni" / "10-serinus.conflist").write_text(json.dumps(self._network()))
        config = self.folder / "containerd.toml"
        config.write_text(self._containerd_config(binaries.runc() / "runc"))
        path = {"PATH": f"{folder}:{os.environ['PATH']}"}
        self.processes.start("containerd", [folder / "containerd", "--config", config], path)
        self.processes.wait("containerd", lambda: self.ctr("version").returncode == 0, 30)

    def start_kubelet(self, plane: ControlPlane) -> None:
        """The kubelet, then kube-proxy, which ends when a node's addresses change and so comes last."""
        plane.pki.issue("kubelet", f"/O=system:nodes/CN=system:node:{NODE}", f"subjectAltName=IP:{NODE_ADDRESS}")
        self._kubelet.mkdir(parents=True, exist_ok=True)
        kubeconfig = plane.pki.kubeconfig(self.folder / "kubelet.kubeconfig", plane.url, "kubelet")
        (self.folder / "kubelet.json").write_text(json.dumps(self._kubelet_config(plane)))
        (self.folder / "resolv.conf").write_text(_resolver())
        self.processes.start("kubelet", [
            *program("kubelet"), f"--kubeconfig={kubeconfig}", f"--config={self.folder / 'kubelet.json'}",
            f"--root-dir={self._kubelet}", f"--hostname-override={NODE}", f"--node-ip={NODE_ADDRESS}",
        ])  # fmt: skip
        self.processes.wait("kubelet", lambda: self._is_ready(plane), 60)
        (self.folder / "kube-proxy.json").write_text(json.dumps(self._proxy_config(plane)))
        self.processes.start("kube-proxy", [*program("kube-proxy"), f"--config={self.folder / 'kube-proxy.json'}"])

    def advertise(self, plane: ControlPlane, resources: Mapping[str, int]) -> None:
        """Lets the node offer resources that are not there; scheduler and kubelet account for them as for real ones."""
        capacity = {name: str(count) for name, count in resources.items()}
        patch = json.dumps({"status": {"capacity": capacity, "allocatable": capacity}})
        done = plane.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", patch)
        if done.returncode != 0:
            raise binaries.ClusterError(f"cannot advertise {dict(resources)}: {done.stderr.strip()}")

    def ctr(self, *arguments: str | Path, deadline_seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """containerd's own client, in the namespace that the kubelet uses."""
        client: list[str | Path] = [binaries.containerd() / "ctr", "--address", self.socket, "--namespace", "k8s.io"]
        return _command(*client, *arguments, deadline_seconds=deadline_seconds)

    def stop(self) -> None:
        """Ends kubelet and proxy, then every container, then containerd; undoes mounts, interfaces and rules. Keeps images."""
        for name in ("kubelet", "kube-proxy"):
            self.processes.stop(name)
        if self.processes.pid("containerd") is not None:
            for container in self.ctr("containers", "ls", "--quiet").stdout.split():
                self.ctr("tasks", "kill", "--signal", "SIGKILL", container)
                self.ctr("tasks", "delete", "--force", container)
                self.ctr("containers", "delete", container)
        self.processes.stop("containerd")
        for mount in reversed(Path("/proc/mounts").read_text().splitlines()):
            point = Path(mount.split()[1])
            if point.is_relative_to(self.folder):
                _command("umount", "--lazy", str(point))
        for namespace in Path("/var/run/netns").glob("cni-*") if Path("/var/run/netns").exists() else ():
            _command("ip", "netns", "delete", namespace.name)
        for link in (_BRIDGE, NODE):
            _command("ip", "link", "delete", link)
        _command(*program("kube-proxy"), "--cleanup")
        _forget_rules()
        _remove_cgroups()
        for folder in (self._kubelet, self.folder / "containerd-state", self.folder / "cni-addresses"):
            shutil.rmtree(folder, ignore_errors=True)

    def _is_ready(self, plane: ControlPlane) -> bool:
        jsonpath = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        return plane.kubectl("get", "node", NODE, "-o", jsonpath).stdout == "True"

    def _network(self) -> object:
        addresses = {"type": "host-local", "ranges": [[{"subnet": _POD_SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {"type": "bridge", "bridge": _BRIDGE, "isGateway": True, "ipMasq": True, "hairpinMode": True}
        plugins = [
            {**bridge, "ipam": addresses | {"dataDir": str(self.folder / "cni-addresses")}},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        return {"cniVersion": "1.0.0", "name": _NETWORK, "plugins": plugins}

    def _containerd_config(self, runc: Path) -> str:
        """`restrict_oom_score_adj`: without CAP_SYS_RESOURCE a pod could not even lower its own score."""
        runtime = '[plugins."io.containerd.cri.v1.runtime"'
        return f"""version = 3
root = "{binaries.cache_folder() / "containerd"}"
state = "{self.folder / "containerd-state"}"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{SANDBOX_IMAGE}"
{runtime}]
  restrict_oom_score_adj = true
{runtime}.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{self.folder / "cni"}"
{runtime}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
{runtime}.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
"""

    def _kubelet_config(self, plane: ControlPlane) -> object:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(plane.pki.ca)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "tlsCertFile": str(plane.pki.folder / "kubelet.crt"),
            "tlsPrivateKeyFile": str(plane.pki.folder / "kubelet.key"),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [NODE_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.folder / "resolv.conf"),
            "podLogsDir": str(self.folder / "pod-logs"),
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeStatusUpdateFrequency": "5s",
        }

    def _proxy_config(self, plane: ControlPlane) -> object:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(plane.kubeconfig)},
            "clusterCIDR": POD_RANGE,
            "hostnameOverride": NODE,
            "mode": "iptables",
            "conntrack": {"maxPerCore": 0},
        }


def _forget_rules() -> None:
    """Takes out of iptables what kubelet, kube-proxy and our CNI network put there, and nothing else."""
    saved = _command("iptables-save").stdout
    chains = re.findall(rf'-A POSTROUTING .*name: \\"{_NETWORK}\\".* -j (CNI-[0-9a-f]+)', saved)
    ours = ("KUBE-", *chains)
    kept = [line for line in saved.splitlines(keepends=True) if not any(name in line for name in ours)]
    subprocess.run(["iptables-restore"], input="".join(kept), text=True, capture_output=True, timeout=60)


def _remove_cgroups() -> None:
    """Pods' cgroups, leaves first; one that still has processes (of another kubelet) refuses to go, and stays."""
    for top in (*Path("/sys/fs/cgroup").glob("*/kubepods"), Path("/sys/fs/cgroup/kubepods")):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _resolver() -> str:
    """What pods resolve outside the cluster: the machine's own servers where they are not on loopback."""
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except OSError:
        lines = []
    return "".join(f"{line}\n" for line in lines if line.startswith("nameserver") and " 127." not in line)


def _must(*command: str | Path) -> None:
    done = _command(*command)
    if done.returncode != 0:
        raise binaries.ClusterError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def _command(*command: str | Path, deadline_seconds: float = 60) -> subprocess.CompletedProcess[str]:
    words: Sequence[str] = [str(each) for each in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=deadline_seconds)
