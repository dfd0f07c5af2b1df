"""Bytes to nouns and back; sans-I/O."""
