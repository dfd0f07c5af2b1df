"""The side-by-side bench: Robin and four other proxies, one core each, taking turns."""
