"""What reads models, or makes them. Nothing here imports a frontend: each is asked for by name."""

ZOO_PREFIX = "zoo:"
"""What stands before a network's name where a file's name would stand (see `zoo`)."""
