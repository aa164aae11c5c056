"""The pure core: what a release is (model), what should be done next (plan), how replicas move (capacity). No I/O, no clock."""
