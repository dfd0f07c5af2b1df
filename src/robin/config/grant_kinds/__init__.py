"""One file for each kind of grant: the keys that only it has, and how they become a plan."""
