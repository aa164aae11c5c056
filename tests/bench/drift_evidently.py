"""Evidently's PSI of two numpy files, in an environment of its own: its report on one column, and the bare function in it. JSON out."""

import json
import sys
import time
from importlib.metadata import version

import numpy as np
import pandas as pd
from evidently import Report
from evidently.legacy.calculations.stattests.psi import _psi
from evidently.legacy.core import ColumnType
from evidently.metrics import ValueDrift


def main() -> None:
    """Each way once for each round, after a round that is not counted."""
    reference, current = (pd.DataFrame({"tokens": np.load(file)}) for file in sys.argv[1:3])
    found: dict[str, list[float]] = {"report": [], "function": []}
    for _ in range(int(sys.argv[3]) + 1):
        began = time.process_time()
        Report([ValueDrift(column="tokens", method="psi")]).run(current, reference)
        found["report"].append(time.process_time() - began)
        began = time.process_time()
        value, _ = _psi(reference["tokens"], current["tokens"], ColumnType.Numerical, 0.1)
        found["function"].append(time.process_time() - began)
    packages = {name: version(name) for name in ("evidently", "pandas", "numpy")}
    seconds = {name: each[1:] for name, each in found.items()}
    sys.stdout.write(json.dumps({"seconds": seconds, "psi": float(value), "packages": packages}) + "\n")


if __name__ == "__main__":
    main()
