"""What can go wrong while candidates are generated. Errors of judging are `RewardError`s instead.

GenerationError
├── PolicyRefused       will never work: the request, the key or the model's name is wrong
├── PolicyUnavailable   try later; the policy's own retries already did
├── PolicyTimeout       too slow
└── PolicyFault         the policy answered something that is no candidate
"""

from typing import Any


class GenerationError(Exception):
    """Base of every failure to generate a candidate. Survives pickling."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """The HTTP status; None if there was none."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,), self.__dict__


class PolicyRefused(GenerationError):
    """The policy does not accept the request, and would not accept it again."""


class PolicyUnavailable(GenerationError):
    """The policy cannot be reached, failed, or has no room; a later request may succeed."""


class PolicyTimeout(GenerationError):
    """The time for one request passed."""


class PolicyFault(GenerationError):
    """The answer holds no text, fewer choices than were asked for, or is no chat completion."""
