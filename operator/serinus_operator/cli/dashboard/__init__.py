"""`kubectl modelrelease dashboard`: a page on this machine, of what the API server and Prometheus know. Buttons write what the verbs write.

`server.py` serves, `source.py` asks Prometheus, `record.py` remembers statuses; pure are `shown.py` (a release as the page shows it),
`panels.py` (which charts it has), and `charts.py` (SVG).
"""
