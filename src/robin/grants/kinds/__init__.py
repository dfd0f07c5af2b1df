"""One file for each kind of grant."""
