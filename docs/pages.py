"""The pages of docs/reference/, from the code that they describe: the CRD, the commands, the settings, what is measured."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import prometheus_client
import yaml
from prometheus_client.metrics_core import Metric

from serinus_contract import metrics as contract
from serinus_operator import __main__ as operator
from serinus_operator import reconcile, registry
from serinus_operator.cache import Cache
from serinus_operator.cli.__main__ import cli as plugin
from serinus_operator.metrics import Metrics
from serinus_operator.rollout import retention, spaces, summary
from serinus_server.__main__ import cli as server
from serinus_server.settings import Settings
from serinus_server.telemetry import Telemetry

_ROOT = Path(__file__).parents[1]
_CRD: Final = _ROOT / "crds" / "modelreleases.yaml"
_SHORT: Final = 60  # characters of a default that a table shows


def pages() -> Mapping[str, str]:
    """Every page by its file name, as the code has it now."""
    made: dict[str, Callable[[], str]] = {
        "modelrelease.md": _modelrelease,
        "kubectl-modelrelease.md": lambda: _commands("kubectl modelrelease", plugin),
        "serinus-server.md": lambda: _commands("serinus-server", server) + _settings(),
        "metrics.md": _metrics,
        "conditions.md": _conditions,
    }
    note = "<!-- written by `make docs`; a test fails while it differs from the code -->\n"
    return {name: note + make().rstrip() + "\n" for name, make in made.items()}


def _modelrelease() -> str:
    (version,) = yaml.safe_load(_CRD.read_text(encoding="utf-8"))["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    text = "# ModelRelease\nGroup `serinus.dev`, version `v1alpha1`, short name `mr`. "
    text += "What a rule refuses is refused by the API server, with the sentence below.\n"
    for name, part in schema["spec"]["properties"].items():
        text += f"\n## spec.{name}\n" + _object(f"spec.{name}", part)
    rules = "".join(f"- {rule}\n" for rule in _rules(schema["spec"]))
    return text + "\n## Rules\n" + rules + "\n## status\n" + _object("status", schema["status"])


def _object(path: str, part: Mapping[str, Any]) -> str:
    rows = "".join(
        f"| `{field}` | {kind} | {default} | {_cell(means)} |\n" for field, kind, default, means in _fields(path, part)
    )
    return "| field | type | default | means |\n|---|---|---|---|\n" + rows


def _fields(path: str, part: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    default = str(part["default"]) if part.get("default") not in (None, {}) else ""
    default = f"`{default}`" if 0 < len(default) <= _SHORT else ("see the CRD" if default else "")
    kind = " \\| ".join(f"`{each}`" for each in part["enum"]) if "enum" in part else str(part.get("type", "any"))
    yield path, kind, default, part.get("description", "")
    for name, inner in part.get("properties", {}).items():
        yield from _fields(f"{path}.{name}", inner)
    for name, inner in part.get("items", {}).get("properties", {}).items():
        yield from _fields(f"{path}[].{name}", inner)


def _rules(part: Mapping[str, Any]) -> Iterator[str]:
    yield from (rule["message"] for rule in part.get("x-kubernetes-validations", []) if "message" in rule)
    for inner in (*part.get("properties", {}).values(), *([part["items"]] if "items" in part else [])):
        yield from _rules(inner)


def _commands(name: str, command: click.Command) -> str:
    text = f"# {name}\n" + _help(command)
    for path, each in _subcommands(name, command):
        context = click.Context(each, info_name=path)
        usage = " ".join((path, *each.collect_usage_pieces(context)))
        text += f"\n## {path}\n```\n{usage}\n```\n{_help(each)}"
        options = [option.get_help_record(context) for option in each.params if isinstance(option, click.Option)]
        rows = "".join(f"| `{record[0]}` | {_cell(record[1])} |\n" for record in options if record)
        text += f"\n| option | means |\n|---|---|\n{rows}" if rows else ""
    return text


def _help(command: click.Command) -> str:
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    return text + "\n" if text else ""


def _subcommands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, each in sorted(command.commands.items()):
            yield f"{path} {name}", each
            yield from _subcommands(f"{path} {name}", each)


def _settings() -> str:
    text = "\n## Settings\nAll from the environment. The operator sets what a release says; `spec.serving.template` sets others.\n"
    text += "\n| variable | default | means |\n|---|---|---|\n"
    for name, field in Settings.model_fields.items():
        default = (
            "required" if field.is_required() else f"`{field.default}`" if field.default not in (None, "", ()) else ""
        )
        text += f"| `{field.alias}` | {default} | {_cell(field.description or name.replace('_', ' '))} |\n"
    return text


def _metrics() -> str:
    text = "# Metrics\n\n## Of a server\nOn its HTTP port, `/metrics`; several front ends answer as one.\n"
    of_server = list(Telemetry().registry.collect())
    known = {each.name for each in of_server}
    text += _table(of_server)
    more = [value for name, value in vars(contract).items() if name.isupper() and isinstance(value, str)]
    others = sorted(each for each in more if each.removesuffix("_total") not in known)
    text += "\nBeside these, where there is a reference profile, a GPU, a prediction log or several processes: "
    text += ", ".join(f"`{each}`" for each in others) + ".\n"
    text += "\n## Of the operator\nOn port 8080, `/metrics`.\n"
    assert operator.main  # it is imported for the counters that it has
    own = prometheus_client.REGISTRY.collect()
    ours = [each for each in own if each.name.startswith("serinus_")]
    return text + _table([*Metrics(Cache(), lambda: datetime(2000, 1, 1, tzinfo=UTC)).collect(), *ours])


def _table(metrics: list[Metric]) -> str:
    rows = ""
    for each in sorted(metrics, key=lambda metric: metric.name):
        name = each.name + ("_total" if each.type == "counter" else "")
        rows += f"| `{name}` | {each.type} | {_cell(each.documentation)} |\n"
    return "\n| name | type | means |\n|---|---|---|\n" + rows


_CONDITIONS: Final = {
    "Ready": "stable is the target and has at least `capacityFloor` ready replicas",
    "Reconciling": "the operator is still moving towards the target (kstatus)",
    "Stalled": "it has given up on the target until the spec, the alias or a person says otherwise (kstatus)",
    "Progressing": "a rollout moves; False while it is paused or at rest",
    "ModelResolved": "the registry says which version is meant, and that it is packaged",
    "EmbeddingSpaceChanged": "vectors of two spaces are served, or would be",
    "SpaceRetained": "pods are kept for clients that pin a former space",
    "AnalysisPassing": "the gates' verdict together; the message has each one's evidence",
    "RegistrySynced": "aliases, stages and tags are as the spec asks; a registry that fails or refuses has the reasons of `ModelResolved`",
}


def _conditions() -> str:
    """Types and reasons are read from the modules that set them; what a type means is said here, and none may be missing.

    Every decision of the tests' state machine is held against this page, too (`tests/operator/promises.py`).
    """
    found = _reasons(summary._conditions, spaces.condition)
    found["ModelResolved"] += re.findall(r'Unresolved\(\s*"(\w+)"', inspect.getsource(registry))
    found["RegistrySynced"] = found["AnalysisPassing"]  # stand before their type
    found["AnalysisPassing"] = [str(each) for each in summary.Verdict]
    found["EmbeddingSpaceChanged"] += spaces._REASONS.values()
    found["SpaceRetained"] = re.findall(
        r'"([A-Z]\w+)"', inspect.getsource(retention.condition).replace('"SpaceRetained"', "")
    )
    stalled = re.findall(r'_stalled\(status, "(\w+)"', inspect.getsource(reconcile))
    for kind in ("Ready", "Stalled"):
        found[kind] += stalled
    if unsaid := set(found) ^ set(_CONDITIONS):
        raise ValueError(f"docs/pages.py does not know the conditions of the code: {sorted(unsaid)}")
    text = "# Conditions\n`kubectl wait --for=condition=Ready modelrelease/NAME` and kstatus read them; `status.phase` is a summary.\n"
    text += "\n| type | True when | reasons |\n|---|---|---|\n"
    for kind, means in _CONDITIONS.items():
        reasons = ", ".join(f"`{each}`" for each in dict.fromkeys(found[kind]))
        text += f"| `{kind}` | {_cell(means)} | {reasons} |\n"
    return text


def _reasons(*functions: Callable[..., Any]) -> dict[str, list[str]]:
    """The words in CamelCase that follow each condition's type in the source of what sets it."""
    found: dict[str, list[str]] = {}
    for function in functions:
        kind = ""
        for word in re.findall(r'"([A-Z]\w+)"', inspect.getsource(function)):
            if word in _CONDITIONS and (kind, word) != ("Stalled", "EmbeddingSpaceChanged"):  # there it is a reason
                kind = word
                found.setdefault(kind, [])
            elif kind:
                found[kind].append(word)
    return found


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
