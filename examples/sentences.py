"""Real sentences without a download: Python's own language reference, which every Python brings along as `pydoc_data.topics`.

python examples/sentences.py > reference.jsonl
"""

from __future__ import annotations

import json
import re
import sys
from pydoc_data.topics import topics

_SENTENCE = re.compile(r"[A-Z][^.!?:*|`\"\[\]{}<>=]{20,300}\.")


def sentences() -> list[str]:
    """Sentences of 5 to 60 words, in the order of the reference's topics, each once."""
    found: dict[str, None] = {}
    for topic in sorted(topics):
        for match in _SENTENCE.finditer(" ".join(topics[topic].split())):
            if 5 <= len(match[0].split()) <= 60:
                found[match[0]] = None
    return list(found)


if __name__ == "__main__":
    for sentence in sentences():
        sys.stdout.write(json.dumps({"text": sentence}) + "\n")
