"""The Serinus operator: rolls out embedding models on Kubernetes and judges every step on Prometheus data."""
