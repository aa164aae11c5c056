"""The demo's own promises and the chart's, on a real kubelet with the images and the chart that users get."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import images
from tests.e2e.demo import Demo, Outcome, summary
from tests.e2e.stage import Stage
from tests.e2e.upkeep import Upkeep, kept_up

pytestmark = pytest.mark.e2e  # a node needs root: without it the cluster says so, and this fails


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as ready:
        yield ready


@pytest.fixture(scope="module")
def outcome(stage: Stage) -> Outcome:
    played = Demo(stage).play()
    print(summary(played, stage))
    return played


@pytest.fixture(scope="module")
def upkeep(outcome: Outcome, stage: Stage) -> Upkeep:
    """What is upgraded and uninstalled has a release that serves."""
    return kept_up(stage)


def test_every_promise_of_the_demo_is_kept(outcome: Outcome) -> None:
    assert outcome.broken == []


def test_no_request_fails_while_versions_change(outcome: Outcome) -> None:
    assert outcome.traffic.failures == []
    assert outcome.traffic.answered == outcome.traffic.sent > 1000


def test_damaged_version_never_answers_and_the_starved_revision_is_rolled_back(outcome: Outcome) -> None:
    assert set(outcome.traffic.by_version) == {"1", "2"}
    results = [(entry["version"], entry["result"]) for entry in outcome.history]
    assert results == [("2", "RolledBack"), ("3", "RolledBack"), ("2", "Promoted"), ("1", "Promoted")]  # newest first


def test_mlflow_says_what_serves(outcome: Outcome) -> None:
    assert outcome.standing["aliases"]["champion"] == "2"
    assert "canary" not in outcome.standing["aliases"]
    assert outcome.standing["stages"]["2"] == "Production"


def test_an_upgrade_restarts_no_serving_pod(upkeep: Upkeep) -> None:
    assert upkeep.operators == 1  # the operator itself is another one
    assert len(upkeep.before) == 4
    assert upkeep.upgraded == upkeep.before


def test_an_uninstall_leaves_what_serves_and_the_crd_and_nothing_else(upkeep: Upkeep) -> None:
    assert upkeep.uninstalled == upkeep.before
    assert upkeep.left == {"CustomResourceDefinition modelreleases.serinus.dev"}


def test_no_request_fails_while_the_chart_is_upgraded_and_uninstalled(upkeep: Upkeep) -> None:
    assert upkeep.traffic.failures == []
    assert upkeep.traffic.answered == upkeep.traffic.sent > 100


@pytest.mark.parametrize(("kind", "most_megabytes"), [("operator", 200), ("server", 700)])
def test_an_image_is_small_says_what_it_is_and_has_no_tools(stage: Stage, kind: str, most_megabytes: float) -> None:
    image = images.built(stage.values["images"][kind])
    print(f"{kind}: {image.megabytes:.0f} MB, {len(image.files)} files")
    assert image.megabytes <= most_megabytes
    assert image.user == "65532:65532"
    said = {name.removeprefix("org.opencontainers.image."): value for name, value in image.labels.items()}
    assert (said["title"], said["licenses"]) == (f"serinus-{kind}", "Apache-2.0")
    assert {"description", "version", "revision", "base.name"} <= set(said)
    programs = {Path(file).name for file in image.files if Path(file).parent.name in ("bin", "sbin")}
    assert programs.isdisjoint({"pip", "pip3", "cc", "gcc", "ld", "apt", "apt-get", "dpkg", "perl"})
    assert not any("/site-packages/pip/" in file for file in image.files)
