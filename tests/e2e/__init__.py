"""The whole path on a real kubelet: `make demo` shows it, `make test` asserts it."""
