"""Every prediction, tied to its model version: taken after the answer, written in batches by a process of its own, asked with SQL.

recorder (in the serving process: bounded, never waits) → pipe → writer (a child: retries) → sink (chDB, ClickHouse, JSON lines) ← query
"""
