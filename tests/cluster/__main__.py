"""The local cluster from the shell: `python3 -m tests.cluster VERB`. Needs nothing but Python 3.11, Debian and root."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.binaries import ClusterError, say
from tests.cluster.control_plane import program
from tests.cluster.local_cluster import DEFAULT_GPUS, LocalCluster
from tests.cluster.machine import alone


def main() -> int:
    """Returns the exit status: 0 done, 1 it could not be done, or `status` found no whole cluster; 130 interrupted."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.verb(LocalCluster(), arguments))
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what this had started has been stopped, what was built is kept\n")
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"{binaries.DISK_IS_FULL}\n")
        return 1


def _up(cluster: LocalCluster, arguments: argparse.Namespace) -> int:
    other = _other_cluster(cluster)
    if other is not None:
        return other
    began = time.monotonic()
    with alone("`make cluster`"):
        cluster.up({"nvidia.com/gpu": arguments.gpus})
    say(f'up after {time.monotonic() - began:.0f} s; to use it from a shell: eval "$(python3 -m tests.cluster env)"')
    return 0


def _build(cluster: LocalCluster, arguments: argparse.Namespace) -> int:
    cluster.build()
    if arguments.tests:
        binaries.kwok()
        binaries.glua()
        binaries.promtool()
        binaries.gateway_api_crds()
    return 0


def _down(cluster: LocalCluster, _: argparse.Namespace) -> int:
    with alone("`make cluster-down`"):
        stopped = cluster.down()
    say(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")
    return 0


def _status(cluster: LocalCluster, _: argparse.Namespace) -> int:
    for name in cluster.processes.names():
        pid = cluster.processes.pid(name)
        say(f"{name:24} {f'pid {pid}' if pid else 'ended'}  {cluster.processes.log(name)}")
    if not cluster.is_up():
        say("the cluster is not up: `make cluster` starts it")
        return 1
    say(cluster.plane.kubectl("get", "nodes,pods", "--all-namespaces", "--output=wide").stdout.replace("\n", "\n  "))
    return 0


def _env(cluster: LocalCluster, _: argparse.Namespace) -> int:
    for name, value in cluster.environment().items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    return 0


def _other_cluster(cluster: LocalCluster) -> int | None:
    """With KUBECONFIG naming another cluster, that one is used, and all that is done here is to see whether it answers."""
    named = os.environ.get("KUBECONFIG")
    if not named or Path(named) == cluster.plane.kubeconfig:
        return None
    client = [shutil.which("kubectl")] if shutil.which("kubectl") else program("kubectl")
    command = [*map(str, client), "version", "--request-timeout=10s"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=30)
    say(f"KUBECONFIG={named}: {'using that cluster' if asked.returncode == 0 else asked.stderr.strip()}")
    return asked.returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.cluster", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    up = verbs.add_parser("up", help="start what is not there (first time: build it, under 20 minutes)")
    up.add_argument(
        "--gpus", type=int, default=DEFAULT_GPUS, help="GPUs that the node says it has (default %(default)s)"
    )
    up.set_defaults(verb=_up)
    build = verbs.add_parser("build", help="build what `up` needs and the cache has not")
    build.add_argument("--tests", action="store_true", help="and what the tests need beside it")
    build.set_defaults(verb=_build)
    for name, verb, text in (
        ("down", _down, "stop all of it and leave nothing but the cache"),
        ("status", _status, "what runs, with logs; exit status 1 when the cluster is not up"),
        ("env", _env, "shell lines that set KUBECONFIG and PATH"),
    ):
        verbs.add_parser(name, help=text).set_defaults(verb=verb)
    return parser


if __name__ == "__main__":
    sys.exit(main())
