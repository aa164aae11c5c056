"""Which version a spec names, by alias, stage or number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.operator.world import spec

from serinus_contract.names import DIGEST_TAG, SPACE_TAG
from serinus_operator.registry import ModelView, VersionView, resolve
from serinus_operator.rollout.model import Revision
from serinus_operator.rollout.observed import Resolved, Unresolved
from serinus_operator.spec import Follow, ModelRef, Spec

STABLE = Revision("rev", "9", "digest-9", "space")


def following(follow: Follow, selector: str) -> Spec:
    return replace(spec(), model=ModelRef("m", "default", follow, selector))


def model(**stages: str) -> ModelView:
    """Packaged versions by their stages: v9="Staging"."""
    tags = {name: {DIGEST_TAG: f"digest-{name[1:]}", SPACE_TAG: "space"} for name in stages}
    return ModelView(
        {"champion": "9"}, {name[1:]: VersionView(name[1:], stage, tags[name]) for name, stage in stages.items()}
    )


@pytest.mark.parametrize(
    ("follow", "selector", "version"),
    [(Follow.ALIAS, "champion", "9"), (Follow.VERSION, "8", "8"), (Follow.STAGE, "Staging", "10")],
)
def test_of_several_versions_in_a_followed_stage_the_highest_number_is_meant(
    follow: Follow, selector: str, version: str
) -> None:
    known = model(v8="Staging", v9="Staging", v10="Staging", v11="None")
    assert resolve(following(follow, selector), known, None) == Resolved(version, f"digest-{version}", "space")


def test_our_own_promotion_out_of_a_followed_stage_never_looks_like_a_vanished_target() -> None:
    followed = following(Follow.STAGE, "Staging")
    assert followed.on_promote.stage == "Production"
    assert resolve(followed, model(v8="Archived", v9="Production"), STABLE) == Resolved("9", "digest-9", "space")
    by_somebody_else = resolve(followed, model(v8="Archived", v9="Archived"), STABLE)
    assert isinstance(by_somebody_else, Unresolved)
    assert "the registry has these: Archived. Set it there or change spec.model" in by_somebody_else.message
    newcomer = resolve(followed, model(v9="Production", v10="Staging"), STABLE)
    assert newcomer == Resolved("10", "digest-10", "space")


def test_a_version_that_register_did_not_make_is_told_from_a_missing_one() -> None:
    unpackaged = ModelView({"champion": "1"}, {"1": VersionView("1", "None", {})})
    found = resolve(following(Follow.ALIAS, "champion"), unpackaged, None)
    assert isinstance(found, Unresolved)
    assert (found.reason, "register it with `serinus-server register`" in found.message) == ("NotPackaged", True)
