"""The life of one process, and one builder per plane that runs in it."""
