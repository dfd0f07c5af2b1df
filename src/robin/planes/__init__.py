"""Thin services over the engine that do not know each other."""
