"""ModelReleases in files, read as the API server would store them. Raises click.ClickException with what is wrong, field by field."""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from serinus_contract.names import GROUP, KIND
from serinus_operator.cli.schema import JSON, refusals, schema, with_defaults
from serinus_operator.errors import InvalidSpec
from serinus_operator.spec import Spec
from serinus_operator.spec_parser import parse_spec


def read_releases(path: Path) -> list[JSON]:
    """Every ModelRelease in a YAML file, at least one."""
    try:
        found = [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if isinstance(each, dict)]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} is no YAML: {error}") from error
    releases = [
        each for each in found if each.get("kind") == KIND and str(each.get("apiVersion")).startswith(f"{GROUP}/")
    ]
    if not releases:
        kinds = ", ".join(sorted({str(each.get("kind")) for each in found})) or "nothing"
        raise click.ClickException(f"{path}: a {KIND} of {GROUP} is needed, {kinds} is there")
    return releases


def problems(release: JSON) -> list[str]:
    """What is wrong with a release, as far as can be told without a cluster."""
    found = refusals(release)
    if not found:
        try:
            parse_spec(with_defaults(release, schema())["spec"])
        except InvalidSpec as error:
            found = [str(error)]
    return found


def read_spec(path: Path) -> Spec:
    """The spec of the one ModelRelease in a YAML file, with the CRD's defaults."""
    releases = read_releases(path)
    if len(releases) != 1:
        raise click.ClickException(f"{path}: one {KIND} is needed, {len(releases)} are there")
    if found := problems(releases[0]):
        raise click.ClickException("; ".join(found))
    return parse_spec(with_defaults(releases[0], schema())["spec"])
