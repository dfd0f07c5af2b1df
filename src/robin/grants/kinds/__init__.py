"""One file for each recipe that turns identity into a credential."""
