"""The rights in ClickHouse that the how-to grants: the engine (chDB) does with them what a server's sink does, and with fewer not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from serinus_contract.prediction_log import TABLE, create_statements

pytestmark = pytest.mark.integration

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "clickhouse.md"
USERS = """<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default>
  <password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota><grants><query>{}</query></grants>
</default></users></clickhouse>"""
RUN = """import sys
from chdb.session import Session
session = Session(sys.argv[1])
for statement in sys.stdin.read().split(";;"):
    session.query(statement)
"""
SINK = [
    *create_statements(30),
    f"INSERT INTO {TABLE} (model_version, request) VALUES ('1', 1)",
    f"SELECT count() FROM {TABLE}",
]


def refusal(folder: Path, rights: list[str], *statements: str) -> str:
    """What the engine says to them as a user with these rights on the database; empty when it does them. No rights named: all."""
    session = str(folder / "data")
    if rights:
        (folder / "users.xml").write_text(USERS.format(f"GRANT {', '.join(rights)} ON serinus.*"))
        (folder / "config.xml").write_text(
            f"<clickhouse><users_config>{folder / 'users.xml'}</users_config></clickhouse>"
        )
        session += f"?config-file={folder / 'config.xml'}"
    command = [sys.executable, "-W", "ignore", "-c", RUN, session]
    done = subprocess.run(command, input=";;".join(statements), capture_output=True, text=True, timeout=120)
    return "" if done.returncode == 0 else done.stderr


def test_the_rights_of_the_how_to_are_what_a_sink_needs(tmp_path: Path) -> None:
    (granted,) = re.findall(r"GRANT (.+) ON serinus\.\* TO serinus;", HOW_TO.read_text(encoding="utf-8"))
    rights = granted.split(", ")
    for number, without in enumerate([None, *rights]):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert refusal(folder, [], "CREATE DATABASE serinus") == ""
        said = refusal(folder, [each for each in rights if each != without], "USE serinus", *SINK)
        assert ("Not enough privileges" in said) == (without is not None), (without, said)
        assert (said == "") == (without is None), said
