"""The parsers are tested for what they say, not for how long a busy machine takes to say it."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
