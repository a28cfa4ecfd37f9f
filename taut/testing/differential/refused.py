"""What an oracle says of a model that it cannot judge."""


class Refused(Exception):
    """The peer does not take this model."""
