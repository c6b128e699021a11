"""What all clients do alike: they say their addresses, and are closed when their block ends."""

from types import TracebackType
from typing import Self


class Addressed:
    """Its repr shows addresses, and no token."""

    _addresses: tuple[str, ...]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._addresses)!r})"


class Blocking(Addressed):
    """A client for `with`."""

    def close(self) -> None:
        """Ends the calls in progress and refuses new ones."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Async(Addressed):
    """A client for `async with`."""

    async def close(self) -> None:
        """Ends the calls in progress and refuses new ones."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
