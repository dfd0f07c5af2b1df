"""Settings in: flags, environment, file, default."""
