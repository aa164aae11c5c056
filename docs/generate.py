"""Writes what the documents say of the code from the code: `make docs`. A test fails while a document says something else.

python docs/generate.py [--check] [--diagrams]     (--diagrams: without the reference pages)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pages import pages

from serinus_operator.rollout.stages import diagram

_ROOT = Path(__file__).parents[1]
_WITH_THE_DIAGRAM = (_ROOT / "README.md", _ROOT / "docs" / "concepts.md")


def generated(text: str) -> str:
    """The document with its generated blocks as the code has them now."""
    block = re.compile(r"(<!-- stages: .*? -->\n).*?(<!-- end of stages -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}```mermaid\n{diagram()}\n```\n{found[2]}", text)


def main() -> int:
    """Returns 1 when something was not as the code has it; without --check it is then written."""
    stale = 0
    wanted = {path: generated(path.read_text(encoding="utf-8")) for path in _WITH_THE_DIAGRAM}
    if "--diagrams" not in sys.argv:
        wanted |= {_ROOT / "docs" / "reference" / name: text for name, text in pages().items()}
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale += 1
            if "--check" in sys.argv:
                sys.stderr.write(f"{path.relative_to(_ROOT)} is older than the code: run `make docs`\n")
            else:
                path.write_text(text, encoding="utf-8")
                sys.stdout.write(f"{path.relative_to(_ROOT)} written\n")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
