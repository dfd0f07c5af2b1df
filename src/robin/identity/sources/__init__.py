"""One file for each way in which a platform issues identity."""
