"""Writes what the documents say of the code from the code: `make docs`. A test fails while a document says something else.

python docs/generate.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from serinus_operator.rollout.stages import diagram

_ROOT = Path(__file__).parents[1]


def generated(text: str) -> str:
    """The document with its generated blocks as the code has them now."""
    block = re.compile(r"(<!-- stages: .*? -->\n).*?(<!-- end of stages -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}```mermaid\n{diagram()}\n```\n{found[2]}", text)


def main() -> int:
    """Returns 1 when something was not as the code has it; without --check it is then written."""
    stale = 0
    for path in (_ROOT / "README.md",):
        text = path.read_text(encoding="utf-8")
        if generated(text) != text:
            stale += 1
            if "--check" in sys.argv:
                sys.stderr.write(f"{path.name} is older than the code: run `make docs`\n")
            else:
                path.write_text(generated(text), encoding="utf-8")
                sys.stdout.write(f"{path.name} written\n")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
