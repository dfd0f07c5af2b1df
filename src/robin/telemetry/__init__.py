"""Names, metrics, the exchange record."""
