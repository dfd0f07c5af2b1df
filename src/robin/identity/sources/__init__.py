"""One file for each way the platform hands out identity."""
