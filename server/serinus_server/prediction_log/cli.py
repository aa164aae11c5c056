"""`serinus-server log`: questions to the prediction log, answered as a table or as JSON."""

from __future__ import annotations

import json
import re
import sys
from typing import Final

import click

from serinus_contract.names import PREDICTION_LOG_ENV
from serinus_server.prediction_log.questions import QUESTIONS
from serinus_server.prediction_log.sinks import Row, open_for_reading, parse_target

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[int]):
    """90s, 10m, 24h or 7d, as whole seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Reads it."""
        if isinstance(value, int):
            return value
        parsed = re.fullmatch(r"(\d+)([smhd])", str(value))
        if parsed is None:
            self.fail(f"{value!r} is no duration such as 90s, 10m, 24h or 7d", param, ctx)
        return int(parsed[1]) * _SECONDS[parsed[2]]


@click.group()
def log() -> None:
    """Ask the prediction log."""


@log.command()
@click.argument("question", type=click.Choice(list(QUESTIONS)), required=False, default="versions")
@click.option("--prediction-log", "target", envvar=PREDICTION_LOG_ENV, required=True, show_envvar=True,
              help="chdb:FOLDER, clickhouse://USER:PASSWORD@HOST:PORT/DATABASE or jsonl:FILE.")  # fmt: skip
@click.option("--since", type=Duration(), default="24h", show_default=True, help="How far back.")
@click.option("--every", type=Duration(), default="1m", show_default=True, help="Length of an interval of time.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Rows at most.")
@click.option("--sql", help="A SELECT of your own instead of a question; {table} stands for the log.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for programs.")
def query(question: str, target: str, since: int, every: int, limit: int, sql: str | None, as_json: bool) -> None:
    """Answer one of the usual questions.

    \b
    versions        what answered, by release and version
    latency         milliseconds by version over time
    confidence      nearness to the reference profile, by version over time
    lengths         input lengths by version over time
    slowest         the slowest texts
    low-confidence  the texts farthest from the reference profile
    gaps            rows that were dropped or lost

    A folder of chDB is held by the server that writes it; the question is then answered by that server's writer.
    """
    sink = open_for_reading(parse_target(target))
    try:
        if sql is not None:
            title, statement = sql, sql.replace("{table}", sink.table)
        else:
            title, statement = QUESTIONS[question].title, QUESTIONS[question].fill(sink.table, since, every, limit)
        rows = sink.query(statement)
    finally:
        sink.close()
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False))
    elif not rows:
        click.echo(f"{title}: nothing in this time", err=True)
    else:
        _print(title, rows)


def _print(title: str, rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), justify="right" if isinstance(value, int | float) else "left")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    # A pipe has no width; cut columns would help nobody there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
