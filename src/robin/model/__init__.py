"""Nouns: frozen values; no I/O, no await, no clock."""
