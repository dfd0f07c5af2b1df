"""Robin: a workload-identity egress plane. The application carries no credential; Robin injects a fresh one on every request."""

__version__ = "0.1.0"
