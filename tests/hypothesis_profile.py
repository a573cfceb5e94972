"""Examples are counted, not timed: on a busy machine a slow one says nothing about the product."""

from hypothesis import settings

settings.register_profile("counted", deadline=None)
settings.load_profile("counted")
