"""The judge: what counters say about a canary. Pure functions over windows; no I/O, no clock."""
