"""MLflow's Model Registry in memory, as far as the operator calls it. `test_registry` holds the real one to the same calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from serinus_contract.names import DIGEST_TAG, SPACE_TAG
from serinus_operator.errors import SerinusError

JSON: TypeAlias = dict[str, Any]


@dataclass
class Mlflow:
    """One registered model: aliases by name, stages and tags by version."""

    aliases: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    refusal: SerinusError | None = None  # what every call gets now
    read_only: SerinusError | None = None  # what every write gets now

    def register(self, alias: str) -> str:
        """One more version; the alias moves to it."""
        version = str(len(self.tags) + 1)
        self.tags[version] = {DIGEST_TAG: f"digest{version}", SPACE_TAG: f"space{version}"}
        self.stages[version] = "None"
        self.aliases[alias] = version
        return version

    def call(self, method: str, path: str, arguments: Mapping[str, Any]) -> JSON:
        """One call of the REST API."""
        if self.read_only is not None and method != "GET":
            raise self.read_only
        version = str(arguments.get("version", ""))
        match method, path:
            case "GET", "registered-models/get":
                named = [{"alias": alias, "version": version} for alias, version in self.aliases.items()]
                return {"registered_model": {"name": arguments["name"], "aliases": named}}
            case "GET", "model-versions/search":
                return {"model_versions": [self._version(version) for version in self.tags]}
            case "POST", "registered-models/alias":
                self.aliases[arguments["alias"]] = version
            case "DELETE", "registered-models/alias":
                self.aliases.pop(arguments["alias"], None)
            case "POST", "model-versions/transition-stage":
                self.stages[version] = arguments["stage"]
            case "POST", "model-versions/set-tag":
                self.tags[version][arguments["key"]] = arguments["value"]
            case _:
                raise AssertionError(f"{method} {path}")
        return {}

    def _version(self, version: str) -> JSON:
        tags = [{"key": key, "value": value} for key, value in self.tags[version].items()]
        return {"version": version, "current_stage": self.stages[version], "tags": tags}
