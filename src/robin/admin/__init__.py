"""Health, metrics and status, on a listener of their own."""
