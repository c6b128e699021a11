"""HTTP to a running `vllm serve`, from any thread. Knows neither prompts nor answers.

All requests run in one event loop in a thread of its own. What goes wrong on the way comes out as
the errors that callers are told.
"""

import asyncio
import json
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2 as httpx

from adjudge_server.errors import CriticFailure, NotReady

T = TypeVar("T")
Body = dict[str, Any]

BUSY = 429
"""Status of an engine, or of a proxy before it, that may answer later."""
AWAY = (502, 503, 504)
"""Statuses of a proxy before an engine that is not there."""
TELLS = 300
"""Characters of what an engine says about a refusal."""
CONNECT_SECONDS = 15.0
IDLE_SECONDS = 3.0
"""After which a line is not used again; vLLM's server closes it after 5."""
_CUT = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""The line is cut."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine is, and how it is asked."""

    url: str
    model: str | None = None
    """What it calls the model; None: the only one that it serves."""
    key: str | None = field(default=None, repr=False)
    """What `--api-key` of vLLM demands."""
    timeout_seconds: float = 60.0
    """Of one request."""
    concurrency: int = 64
    """Requests at a time."""
    start_seconds: float = 600.0
    """How long to wait for it at the start."""


class EngineRefusal(CriticFailure):
    """The engine answered, and not with numbers. Only the status is told to callers: what it says
    may repeat the request."""

    status = 0
    said = ""

    @classmethod
    def of(cls, status: int, said: str) -> "EngineRefusal":
        error = cls(f"the engine answered with status {status}")
        error.status, error.said = status, said
        return error


class Away(NotReady):
    """It cannot be reached, takes too long, or gave up what it was asked: whoever answers next may
    be another engine."""


class Engine:
    """See the module. Raises Away where the engine is, NotReady where it says that it is busy, and
    EngineRefusal for whatever else is no answer."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._thread.start()
        self._closing = threading.Lock()
        self._is_closed = False
        self._streams: set[Future[None]] = set()
        """That are open."""
        self._client = self.run(self._connect())
        self._places = asyncio.Semaphore(address.concurrency)

    async def _connect(self) -> httpx.AsyncClient:
        key = self.address.key
        return httpx.AsyncClient(
            base_url=self.address.url,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(self.address.timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(
                # Readings are bounded by their places, critiques by the server. With a bound here,
                # they could keep one another, and the question whether it is well, from a line.
                max_connections=None,
                max_keepalive_connections=self.address.concurrency,
                keepalive_expiry=IDLE_SECONDS,
            ),
            trust_env=False,  # a proxy for the outside world does not lead to it
        )

    def close(self) -> None:
        """Gives up what still runs: it raises Away, like whatever is asked from then on."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _disconnect(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()
        await asyncio.sleep(0)  # for the transports to close

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it in the engine's loop, and waits for it."""
        try:
            return self._begun(work).result()
        except CancelledError:
            raise _closed() from None

    def _begun(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._closing:
            if not self._is_closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise _closed()

    async def post(
        self, path: str, body: Body, check_wanted: Callable[[], None] = lambda: None
    ) -> Any:
        """The answer's JSON. Waits for its turn among `concurrency`; that wait has no limit.
        `check_wanted` raises where it is no longer wanted when its turn comes."""
        async with self._places:
            check_wanted()
            return await self._answered("POST", path, self.address.timeout_seconds, json=body)

    def get(self, path: str, seconds: float | None = None) -> Any:
        """The answer's JSON; None where it is empty."""
        seconds = seconds or self.address.timeout_seconds
        return self.run(self._answered("GET", path, seconds, tries=2))

    async def _answered(
        self, method: str, path: str, seconds: float, *, tries: int = 1, **content: Any
    ) -> Any:
        """More than one of `tries` only where it does not matter who answers: a line may have been
        cut because nobody had asked for long, or because there is another engine now."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    tries -= 1
                    try:
                        answer = await self._client.request(method, path, **content)
                        break
                    except _CUT:
                        if not tries:
                            raise
        except (httpx.TransportError, TimeoutError) as error:
            raise _away(error) from error
        return _json(answer.status_code, answer.content)

    def stream(self, path: str, body: Body) -> Generator[Any, None, None]:
        """The JSON of each event of an answer. Closing it ends the request in the engine too. If
        one finds the engine away, all that are open do: whoever reads them one after the other
        would wait as long for each. From one thread."""
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        reading = self._begun(self._pass_on(path, body, events))
        # However it ends, even given up before it began: whoever waits for more is told.
        reading.add_done_callback(lambda _: events.put(Away("the engine was given up")))
        self._streams.add(reading)
        try:
            while (event := self._next(events)) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        except Away:
            if not reading.cancelled():  # then another one found it first
                for open_one in tuple(self._streams):
                    open_one.cancel()
            raise
        finally:
            self._streams.discard(reading)
            reading.cancel()

    def _next(self, events: "queue.SimpleQueue[Any]") -> Any:
        try:
            return events.get(timeout=self.address.timeout_seconds)
        except queue.Empty:
            raise _away(TimeoutError()) from None

    async def _pass_on(self, path: str, body: Body, events: "queue.SimpleQueue[Any]") -> None:
        try:
            async for event in self._events(path, body):
                events.put(event)
            events.put(None)
        except httpx.TransportError as error:
            events.put(_away(error))
        except Exception as error:
            events.put(error)

    async def _events(self, path: str, body: Body) -> AsyncIterator[Any]:
        async with self._client.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                _json(answer.status_code, await answer.aread())
            async for line in answer.aiter_lines():
                data = line.removeprefix("data: ")
                if data == line or data == "[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise EngineRefusal.of(200, _said(event))
                yield event


def _closed() -> Away:
    return Away("the engine is no longer asked")


def why(error: NotReady) -> str:
    """For operators: also what was found out on the way, of which callers are told nothing."""
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    if cause is error or not str(cause):
        return error.message
    number = (cause.errno or 0) if isinstance(cause, OSError) else 0
    return f"{error.message}: {os.strerror(number) if number > 0 else cause}"  # resolvers: below 0


def _away(error: BaseException) -> Away:
    how = "took too long" if isinstance(error, TimeoutError | httpx.TimeoutException) else "is away"
    return Away(f"the engine {how}")


def _json(status: int, content: bytes) -> Any:
    """Raises NotReady or EngineRefusal."""
    try:
        value = json.loads(content) if content else None
    except ValueError:
        value = None
        status = status if status != 200 else 502  # whoever answers is no vLLM
    if status == 200:
        return value
    if status == BUSY or status in AWAY:
        kind = NotReady if status == BUSY else Away
        raise kind(f"the engine answered with status {status}")
    raise EngineRefusal.of(status, _said(value))


def _said(value: Any) -> str:
    error = value.get("error") if isinstance(value, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message or "nothing").split())[:TELLS]
