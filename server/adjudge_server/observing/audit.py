"""What the audit says of a request: a line of JSON for each that was judged. `docs/observing.md`
lists its fields.

A request that failed as a whole got no reward, and has no record; the log has it.
"""

import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from adjudge_server.content import ImageReference, Question
from adjudge_server.errors import AdjudgeError
from adjudge_server.observing.audit_writer import AuditWriter
from adjudge_server.observing.digests import item_digest, prompt_digest
from adjudge_server.observing.exchange import Exchange, Item
from adjudge_server.readout import Comparison, Reward
from adjudge_server.templates import Kind

VERSION = 1
BYTES_OF_RECORD, BYTES_OF_ITEM = 600, 4000
"""About as many, in memory before they are a line: an item has its whole distribution."""


class Audit:
    """A watcher (see `watching`) that hands every judgement to a writer."""

    def __init__(self, writer: AuditWriter) -> None:
        self._writer = writer
        self._run = secrets.token_hex(8)
        """One life of a server."""
        self._number = 0

    def __call__(self, exchange: Exchange) -> None:
        if not exchange.items:
            return
        number, self._number = self._number, self._number + 1
        size = BYTES_OF_RECORD + BYTES_OF_ITEM * len(exchange.items)
        # On the writer's thread: nobody fills the exchange any more.
        self._writer.append(lambda: _line(exchange, self._run, number), size)


def digest_of_prompt(question: Question) -> str:
    """See `digests.prompt_digest`; it takes a while, where there are large pictures."""
    parts = [part for message in question.prompt for part in message.parts]
    images = [part for part in parts if not isinstance(part, str)]
    return prompt_digest(
        messages=[
            (message.role.value, "".join(part for part in message.parts if isinstance(part, str)))
            for message in question.prompt
        ],
        images=[i.digest if isinstance(i, ImageReference) else i.wire_digest() for i in images],
        reference=question.reference,
        rubric=question.rubric,
    )


def digests_of(prompt: str | None, texts: Sequence[Sequence[str] | None]) -> list[str | None]:
    """See `digests.item_digest`, one for each item; None where it has no text."""
    assert prompt is not None
    return [None if item is None else item_digest(prompt, item) for item in texts]


def _line(exchange: Exchange, run: str, number: int) -> bytes:
    template = exchange.template
    assert template is not None
    record = {
        "v": VERSION,
        "run": run,
        "number": number,
        "time": datetime.fromtimestamp(exchange.arrived, UTC).isoformat(timespec="milliseconds"),
        "request_id": exchange.request_id,
        "method": exchange.method,
        "outcome": exchange.outcome,
        "model": exchange.model,
        "fingerprint": exchange.fingerprint,
        "epoch": exchange.epoch,
        "template": template.name,
        "template_hash": template.hash,
        "readout": exchange.readout.value,
        "orders": exchange.orders if template.kind is Kind.PAIRWISE else None,
        "prompt": exchange.prompt_digest,
        "items": [_item(item) for item in exchange.items],
    }
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode()


def _item(item: Item) -> dict[str, Any]:
    said: dict[str, Any] = {"item": item.digest}
    if item.critique_digest is not None:
        said["critique"] = item.critique_digest
    match item.outcome:
        case Reward() as reward:
            said |= {
                "reward": reward.reward,
                "mode": reward.mode,
                "sd": reward.standard_deviation,
            }
            if reward.members:
                said["member_spread"] = reward.member_spread
                said["members"] = [member.reward.reward for member in reward.members]
        case Comparison() as comparison:
            said |= {
                "margin": comparison.margin,
                "preference": comparison.preference,
                "first": comparison.first_probability,
                "second": comparison.second_probability,
                "tie": comparison.tie_probability,
                "position_bias": comparison.position_bias,
                "within_noise": comparison.within_noise,
            }
        case AdjudgeError() as error:
            return said | {"failure": error.reason}
    return said | {
        "valid_mass": item.outcome.valid_mass,
        "opening_mass": item.outcome.opening_mass,
    }
