"""Who this workload is (sources and what keeps their tokens current), and whose signatures it trusts (verification keys)."""
