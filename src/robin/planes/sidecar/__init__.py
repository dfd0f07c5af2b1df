"""The sidecar: one listener, one identity, one upstream."""
