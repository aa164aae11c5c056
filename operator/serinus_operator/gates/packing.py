"""Evidence as short text for the status: a table's numbers and a tally's are one string each, bit for bit. Pure.

Three gates that compare latencies and seventeen others then fit into 16 KB, which the CRD's rules see to.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from serinus_operator.gates.betting import NO_MEAN_EVIDENCE, NO_RATE_EVIDENCE
from serinus_operator.gates.comparison import Comparison
from serinus_operator.gates.limits import Tally
from serinus_operator.gates.versus import TableEvidence

_RANKS: Final = len(Comparison().ranks)
_RATIOS: Final = len(Comparison().ratios)
_BETS: Final = 2 * _RANKS + _RATIOS
_COUNTS: Final = 4


def pack_table(table: TableEvidence) -> str:
    """Ranks, ratios, power, then the four counts."""
    bets, counts = table.comparison, (table.canary_bad, table.canary_total, table.stable_good, table.stable_total)
    return _packed((*bets.ranks, *bets.ratios, *bets.power, *counts))


def unpack_table(stored: Any) -> TableEvidence:
    """What `pack_table` wrote; of what was written before it, the wealth. Raises ValueError for anything else."""
    if isinstance(stored, Mapping):
        return TableEvidence(_unpacked_bets(stored.get("comparison", {})))
    numbers = _numbers(stored)
    if len(numbers) != _BETS + _COUNTS:
        raise ValueError(f"{len(numbers)} numbers of a table, {_BETS + _COUNTS} are known")
    ranks, ratios = numbers[:_RANKS], numbers[_RANKS : _RANKS + _RATIOS]
    return TableEvidence(Comparison(ranks, ratios, numbers[_RANKS + _RATIOS : _BETS]), *numbers[_BETS:])


def pack_tally(tally: Tally) -> str:
    """Count and total, then the wealth of each bet."""
    return _packed((tally.count, tally.total, *tally.log_wealth))


def unpack_tally(stored: Any) -> Tally:
    """What `pack_tally` wrote, or the fields that were written before it. Raises ValueError for anything else."""
    if isinstance(stored, Mapping):
        wealth = tuple(map(float, stored.get("logWealth", ())))
        return Tally(float(stored.get("count", 0.0)), float(stored.get("total", 0.0)), wealth)
    count, total, *bets = _numbers(stored)
    if len(bets) not in (0, len(NO_MEAN_EVIDENCE), len(NO_RATE_EVIDENCE)):
        raise ValueError("another number of bets than is known")
    return Tally(count, total, tuple(bets))


def _unpacked_bets(stored: Mapping[str, Sequence[str]]) -> Comparison:
    found = {name: tuple(map(float, values)) for name, values in stored.items() if name in ("ranks", "ratios", "power")}
    comparison = Comparison(**found)
    if len(comparison.ranks) != _RANKS or len(comparison.ratios) != _RATIOS or len(comparison.power) != _RANKS:
        raise ValueError("another number of bets than is known")
    return comparison


def _packed(numbers: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}d", *numbers)).decode()


def _numbers(stored: Any) -> tuple[float, ...]:
    data = base64.b64decode(stored, validate=True)
    if len(data) % 8:
        raise ValueError(f"{len(data)} bytes are no whole numbers")
    return struct.unpack(f"<{len(data) // 8}d", data)
