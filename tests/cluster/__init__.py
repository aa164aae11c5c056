"""A real Kubernetes cluster from package registries, on one machine. Standard library only: it runs before any environment exists."""
