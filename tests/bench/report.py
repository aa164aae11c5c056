"""Where benchmarks leave their tables: one section each in docs/benchmarks.md, replaced at every run."""

from __future__ import annotations

from pathlib import Path

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
_HEAD = "# Benchmarks\n\nEach table is written by the command above it.\n"


def write_section(name: str, markdown: str) -> None:
    """Writes or replaces the section of `make bench-NAME`."""
    text = REPORT.read_text(encoding="utf-8") if REPORT.exists() else _HEAD
    head, *sections = text.split("\n## ")
    kept = [section for section in sections if not section.startswith(f"`make bench-{name}`")]
    kept.append(f"`make bench-{name}`\n\n{markdown}\n")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n## ".join([head.rstrip("\n") + "\n", *sorted(kept)]), encoding="utf-8")
