"""What the documents point at is there: links, headings, and the pages that are made from the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def check(*options: str) -> str:
    """What the generator says of pages that are older than the code."""
    command = [sys.executable, ROOT / "docs" / "generate.py", "--check", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stderr


def test_diagrams_show_the_table_of_stages() -> None:
    assert check("--diagrams") == ""


@pytest.mark.long
def test_reference_pages_say_what_the_code_says() -> None:
    assert check() == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if heading:
            assert heading in _anchors(there.read_text()), f"{page.name}: {target}"


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
