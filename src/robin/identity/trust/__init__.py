"""Whose signatures this workload trusts: key sets, where they come from, and the verification of JWTs with them."""
