"""The actions of `robin passport`, one module each."""
