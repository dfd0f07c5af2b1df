"""The engine: exchange, relay, tunnel, pool, rescue."""
