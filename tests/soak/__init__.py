"""An hour on the real cluster: rollouts good and bad, faults and moves of replicas beside them, under load. `make soak`."""
