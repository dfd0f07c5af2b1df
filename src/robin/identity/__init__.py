"""Who we are (sources) and whom we trust (trust)."""
