"""`kubectl modelrelease VERB NAME`, installed as `kubectl-modelrelease`. A command that changed nothing exits non-zero and says why."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from click.shell_completion import get_completion_class
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import Progress

from serinus_operator.cli import views
from serinus_operator.cli.cluster import Cluster

_PROGRAM = "kubectl-modelrelease"
_REFRESH_SECONDS = 1.0
_RATE = 50.0  # requests a second, for a forecast that names none
_EXIT = {"Healthy": 0, "Degraded": 1}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--namespace", "-n", help="Namespace; default: that of the kubeconfig's context.")
@click.option("--context", "kube_context", help="Context of the kubeconfig.")
@click.version_option(package_name="serinus")
@click.pass_context
def cli(context: click.Context, /, namespace: str | None, kube_context: str | None) -> None:
    """See and steer rollouts of embedding models."""
    context.obj = lambda: Cluster(kube_context, namespace)


@cli.command()
@click.argument("name", required=False)
@click.option("--watch", "-w", is_flag=True, help="Draw it anew every second until interrupted.")
@click.pass_obj
def get(connect: Callable[[], Cluster], name: str | None, watch: bool) -> None:
    """Show releases, or one with its pods, step, gates, and cost."""
    cluster = connect()

    def draw() -> RenderableType:
        if not name:
            return views.overview(cluster.releases())
        return views.tree(cluster.release(name), cluster.pods(name), datetime.now(UTC))  # noqa: TID251 - a person's now

    console = Console()
    if not watch:
        console.print(draw())
        return
    with suppress(KeyboardInterrupt):
        (_redraw if console.is_terminal else _print_changes)(console, draw)


def _redraw(console: Console, draw: Callable[[], RenderableType]) -> None:
    with Live(draw(), console=console, screen=False, auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH_SECONDS)
            live.update(draw(), refresh=True)


def _print_changes(console: Console, draw: Callable[[], RenderableType]) -> None:
    """Into a file or a pipe: whole again whenever it says something else."""
    shown = ""
    while True:
        with console.capture() as drawn:
            console.print(draw())
        if drawn.get() != shown:
            shown = drawn.get()
            click.echo(shown)
        time.sleep(_REFRESH_SECONDS)


@cli.command()
@click.argument("name")
@click.option("--wait", is_flag=True, help="Wait until the release is at rest or a person is needed.")
@click.option("--timeout", default=1800.0, show_default=True, help="Seconds to wait.")
@click.pass_obj
def status(connect: Callable[[], Cluster], name: str, wait: bool, timeout: float) -> None:
    """Say how a release is. Exit status: 0 healthy, 1 rejected or unresolved, 2 under way or paused."""
    cluster, ends_at, said = connect(), time.monotonic() + timeout, ""
    while True:
        release = cluster.release(name)
        now = release.get("status") or {}
        seen = now.get("observedGeneration") == release["metadata"]["generation"]
        phase, message = now.get("phase", "Unknown"), now.get("message", "")
        if (line := f"{phase}: {message}") != said:
            click.echo(line)
            said = line
        settled = seen and phase in (*_EXIT, "Paused")
        if settled or not wait:
            sys.exit(_EXIT.get(phase, 2) if seen else 2)
        if time.monotonic() > ends_at:
            raise click.ClickException(f"not at rest after {timeout:.0f} s")
        time.sleep(_REFRESH_SECONDS)


@cli.command()
@click.argument("name")
@click.pass_obj
def history(connect: Callable[[], Cluster], name: str) -> None:
    """Show the rollouts of a release, newest first."""
    Console(soft_wrap=True).print(views.history(connect().release(name)))


def _verb(verb: str, text: str) -> None:
    @cli.command(name=verb, help=text)
    @click.argument("name")
    @click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for the operator's answer.")
    @click.pass_obj
    def command(connect: Callable[[], Cluster], name: str, timeout: float) -> None:
        cluster = connect()
        click.echo(cluster.command(cluster.release(name), verb, timeout))


for _name, _text in (
    ("pause", "Hold the rollout where it is."),
    ("resume", "Go on after `pause`."),
    ("abort", "Withdraw the canary; its target stays rejected."),
    ("retry", "Try a rejected target again."),
):
    _verb(_name, _text)


@cli.command()
@click.argument("name")
@click.option("--full", is_flag=True, help="Skip all steps that are left, except verify.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for the operator's answer.")
@click.pass_obj
def promote(connect: Callable[[], Cluster], name: str, full: bool, timeout: float) -> None:
    """Release the current step: end a pause, or an analysis without verdict."""
    cluster = connect()
    click.echo(cluster.command(cluster.release(name), "promote-full" if full else "promote", timeout))


@cli.command()
@click.argument("name")
@click.option("--to", metavar="REVISION", help="One of `history`; default: what was promoted before.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for the operator's answer.")
@click.pass_obj
def undo(connect: Callable[[], Cluster], name: str, to: str | None, timeout: float) -> None:
    """Go back to an earlier version, through the same steps; holds until spec or registry name another target."""
    cluster = connect()
    click.echo(cluster.command(cluster.release(name), "undo", timeout, **({"to": to} if to else {})))


@cli.command()
@click.argument("name")
@click.option("--revision", help="One of `history`; default: the one that was taken back last.")
@click.option(
    "--from-log",
    "log",
    envvar="SERINUS_PREDICTION_LOG",
    show_envvar=True,
    required=True,
    help="clickhouse://USER:PASSWORD@HOST:PORT/DATABASE, chdb:FOLDER, jsonl:FILE; or a file of rows as JSON, - is standard input.",
)
@click.option("--prometheus", metavar="URL", help="Where the servers' counters of dropped rows are.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for programs.")
@click.pass_obj
def taint(
    connect: Callable[[], Cluster], name: str, revision: str | None, log: str, prometheus: str | None, as_json: bool
) -> None:
    """List the requests, and the client's document ids, that a revision answered before it was taken back.

    \b
    kubectl modelrelease taint NAME --from-log clickhouse://reader:…@clickhouse:8123/default --prometheus http://prometheus:9090

    Writes request id, place of the text in the request, and document id, separated by tabs; how many rows may be missing goes to standard
    error. Exit status 1 when the log knows nothing of the revision.
    """
    from serinus_operator.cli.log_rows import dropped, rows_of
    from serinus_operator.cli.taint import ledger, revision_of

    release = connect().release(name)
    revision, version, why = revision_of(release, revision)
    found = ledger(rows_of(log, name, revision), name, revision)
    click.echo(f"model version {version}, revision {revision}, {why}", err=True)
    between = f"between {found.first or '-'} and {found.last or '-'}"
    click.echo(f"{len(found.texts)} texts of {found.requests} requests {between}", err=True)
    gaps = f"{found.missing} rows of its {found.processes} processes are missing in between"
    click.echo(
        f"{gaps}; what a process lost after its last row shows in no gap (5 s of rows where the log worked)", err=True
    )
    if prometheus is not None:
        lost = dropped(prometheus.rstrip("/"), release["metadata"]["namespace"], name, revision)
        click.echo(f"its servers counted {lost} rows as dropped", err=True)
    if as_json:
        click.echo(json.dumps([asdict(text) for text in found.texts], ensure_ascii=False))
    else:
        for text in found.texts:
            click.echo(f"{text.request_id}\t{text.item}\t{text.document_id}")
    sys.exit(0 if found.texts else 1)


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests a second.  [default: 50]")
@click.option(
    "--from-log",
    "log",
    metavar="LOG",
    help="Takes rate, latencies and confidence from a prediction log: FILE of JSON lines, - for standard input, a folder of chDB, "
    "chdb:FOLDER, or clickhouse://USER:PASSWORD@HOST:PORT/DATABASE.",
)
@click.option("--release", help="The release whose rows of the log count; needed where it has several.")
@click.option(
    "--errors", type=click.FloatRange(0, 0.5, min_open=True), default=0.01, show_default=True, help="Share of bad ones."
)
@click.option(
    "--trials", type=click.IntRange(10), default=200, show_default=True, help="Simulated rollouts of each kind."
)
def plan(file: Path, rate: float | None, log: str | None, release: str | None, errors: float, trials: int) -> None:
    """Say what the spec in FILE would do: time, weight and evidence of each step, and how often it would be wrong. Needs no cluster.

    A prediction log knows rate, latencies and confidence, but not the share of bad answers: it holds good ones alone.

    Exit status 1 when a step cannot gather its evidence or its weight, or when the log's traffic breaks a limit.
    """
    from serinus_operator.cli.files import read_spec
    from serinus_operator.cli.traffic_log import read_log
    from serinus_operator.forecast import forecast
    from serinus_operator.rehearsal import Traffic

    if log is not None and rate is not None:
        raise click.UsageError("--rate and --from-log exclude each other")
    spec, traffic = read_spec(file), Traffic(_RATE if rate is None else rate)
    if log is not None:
        logged = read_log(log, release)
        traffic = logged.traffic
        click.echo(logged.describe())
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating rollouts", total=1.0)
        try:
            found = forecast(spec, traffic, errors, trials, lambda share: progress.update(task, completed=share))
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    Console(soft_wrap=True).print(views.forecast(found, spec.analysis.false_rollback_probability))
    sys.exit(1 if found.problems else 0)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def lint(files: tuple[Path, ...]) -> None:
    """Say what the API server would refuse in FILES, field by field. Needs no cluster. Exit status 1 when something is wrong."""
    from serinus_operator.cli.files import problems, read_releases

    wrong = 0
    for file in files:
        for release in read_releases(file):
            found = problems(release)
            wrong += len(found)
            name = (release.get("metadata") or {}).get("name", "without a name")
            for line in found or ["ok"]:
                click.echo(f"{file}: {name}: {line}")
    sys.exit(1 if wrong else 0)


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8742, show_default=True, help="0 for any free one.")
@click.option("--all-namespaces", "-A", "everywhere", is_flag=True, help="The releases of all namespaces.")
@click.option("--namespace", "-n", help="As before the verb.")
@click.option(
    "--prometheus",
    metavar="URL|NAMESPACE/SERVICE:PORT",
    help="Default: a Service with a label of Prometheus, through the API server.",
)
@click.option("--read-only", is_flag=True, help="No buttons, and no command is accepted.")
@click.option("--no-browser", is_flag=True, help="Print the address alone.")
@click.pass_obj
def dashboard(
    connect: Callable[[], Cluster],
    port: int,
    everywhere: bool,
    namespace: str | None,
    prometheus: str | None,
    read_only: bool,
    no_browser: bool,
) -> None:
    """Serve a page of the releases on 127.0.0.1: weights, steps, gates with their evidence, canary against stable, and buttons.

    The page does what this plugin does, with the same kubeconfig. Its address carries a key that is new at every start.
    Without Prometheus it shows what the releases' status says, over the time that the page is served.
    """
    from serinus_operator.cli.dashboard.server import Dashboard, serve

    cluster = connect()
    cluster = cluster.within(namespace) if namespace else cluster
    page = Dashboard(cluster, everywhere, prometheus, read_only, _now)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(page, port, browse=not no_browser))
    click.echo("\nthe page is no longer served", err=True)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script: `source <(kubectl-modelrelease completion bash)`."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, _PROGRAM, "_KUBECTL_MODELRELEASE_COMPLETE").source())


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the plugin's border


def main() -> None:
    """Runs the plugin."""
    cli(prog_name=_PROGRAM)


if __name__ == "__main__":
    main()
