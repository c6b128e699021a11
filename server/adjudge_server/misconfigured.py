"""Mistakes that stay until somebody mends them, and how complaints say what they are about."""


class Misconfigured(ValueError):
    """What flags say, or a file that a flag names, makes no sense, and will not when it is tried
    again: the process ends with status 2, after which nobody starts it anew.

    What may pass by itself is any other ValueError or a RuntimeError, and status 1: a file or
    weights that are not there yet, secrets that are being replaced, an address that is in use.
    """


def about(what: str, error: Exception) -> ValueError:
    """The same complaint, saying what it is about. A mistake that stays remains one."""
    kind = Misconfigured if isinstance(error, Misconfigured) else ValueError
    return kind(f"{what}: {error}")
