"""One request as those who watch see it: who asked what, how long each stage took, what came out.

The handlers fill it; whoever watches gets it once, when the request is over. It knows no protobuf.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from adjudge_server.errors import AdjudgeError, as_failure
from adjudge_server.judge import Identity, Work
from adjudge_server.readout import Outcome
from adjudge_server.templates import Readout, Template

OK = "OK"
CANCELLED = "CANCELLED"
"""By the caller, or because the server ended before the request did."""

READ = "read"
"""The stage in which items wait for the model, and are read by it: `work` says how long each."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Times on the monotonic clock, in seconds."""

    name: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Item:
    """What came of one candidate, or of one pair."""

    outcome: Outcome
    digest: str | None = None
    """See `digests.item_digest`; None where nobody asks for it, or a candidate has no text."""
    critique_digest: str | None = None
    """Of what the critic wrote, where it wrote something."""


@dataclass(slots=True)
class Exchange:
    """Filled while a request is answered, by its own task and those that it waits for."""

    method: str
    """Name of the RPC."""
    request_id: str
    peer: str = ""
    """Host of the caller."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """`traceparent` and `tracestate`, as the caller sent them."""
    arrived: float = field(default_factory=time.time)
    """Unix time, seconds."""
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    """Both on the monotonic clock; 0 until it is over."""
    outcome: str = OK
    """`OK`, `CANCELLED`, or the reason for which the whole call failed."""
    is_audited: bool = False
    """Whether digests are wanted."""
    prompt_digest: str | None = None
    """See `digests.prompt_digest`."""
    template: Template | None = None
    reward_range: tuple[float, float] | None = None
    """Of an ensemble's rewards, if they have one: of a critic's, the template says it."""
    readout: Readout = Readout.DIRECT
    orders: int = 1
    """In which each pair was read."""
    model: str = ""
    fingerprint: str = ""
    epoch: int = 0
    """Of who answered, a critic or an ensemble; nothing until somebody did."""
    items: list[Item] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    work: Work = field(default_factory=Work)

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done within, also if it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.stages.append(Stage(name, began, time.monotonic()))

    def answered_by(self, identity: Identity) -> None:
        self.model = identity.name
        self.fingerprint = identity.fingerprint
        self.epoch = identity.epoch

    def fail(self, error: BaseException) -> None:
        """The whole call ends with this."""
        self.outcome = as_failure(error).reason if isinstance(error, Exception) else CANCELLED

    def outcomes(self) -> Counter[str]:
        """How many items there are of each outcome, `OK` or a reason."""
        return Counter(
            item.outcome.reason if isinstance(item.outcome, AdjudgeError) else OK
            for item in self.items
        )


_current: ContextVar[Exchange] = ContextVar("exchange")


def current_exchange() -> Exchange:
    """Of the request that this task answers. Raises LookupError where nobody watches it."""
    return _current.get()


def begin(exchange: Exchange) -> None:
    """From now on it is this task's, which answers no other request."""
    _current.set(exchange)


def failed(error: BaseException) -> str | None:
    """Notes that the call which this task answers ends with an error. Returns its request id; None
    where nobody watches the call."""
    exchange = _current.get(None)
    if exchange is None:
        return None
    exchange.fail(error)
    return exchange.request_id
