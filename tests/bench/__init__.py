"""Benchmarks: each ends with one line of JSON, exits non-zero when a target is missed (ENFORCE=0 only reports), and writes docs."""
