"""The log of a real process, and what a line of it may hold."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_server.errors import CriticFailure, InputTooLong
from adjudge_server.observing.exchange import Exchange, Item
from adjudge_server.observing.logs import FIELDS, JsonFormatter, TextFormatter
from adjudge_server.observing.request_ids import request_id
from adjudge_server.observing.request_log import MAX_PER_SECOND, RequestLog
from tests.server.test_serve import process
from tests.server.test_service import refusal, score_request, turn

HOSTILE = "secret\n2026-01-01 00:00:00,000 WARNING adjudge_server forged\r\u2028\x1b[2J secret"


NAMES = ("httpx2", "adjudge_server.serve")
"""Of a library's logger, and of one of ours."""


@contextmanager
def served(*flags: str) -> Iterator[tuple[RewardServiceStub, list[str]]]:
    """A process, and the lines of its log once the block is over."""
    lines: list[str] = []
    with process(*flags) as (server, address):
        with grpc.insecure_channel(address) as channel:
            yield RewardServiceStub(channel), lines
        server.terminate()
        _, errors = server.communicate(timeout=30)
        lines += errors.splitlines()


def test_no_text_of_a_request_is_in_the_log() -> None:
    for log_format in ("text", "json"):
        flags = ("--log-level", "debug", "--log-format", log_format, "--max-input-tokens", "2000")
        with served(*flags) as (service, lines):
            request = score_request(HOSTILE, HOSTILE * 2000, prompt=[turn(HOSTILE)])
            outcomes = service.ScoreCandidates(request).outcomes
            assert [o.WhichOneof("outcome") for o in outcomes] == ["reward", "error"]
            refusal(service, score_request(HOSTILE, template=HOSTILE))
            refusal(service, score_request(HOSTILE, model=HOSTILE))
            refusal(service, score_request(HOSTILE, rubric=HOSTILE))
        assert sum("ScoreCandidates" in line for line in lines) == 4
        assert not any("secret" in line or "forged" in line for line in lines)


def test_every_line_of_a_json_log_is_an_object() -> None:
    flags = ("--log-format", "json", "--log-level", "debug")
    with served(*flags) as (service, lines):
        service.ScoreCandidates(score_request("a"), metadata=[("x-request-id", "step-7")])
        refusal(service, score_request("a", template="none"))
    found = [json.loads(line) for line in lines]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, found))
    good, bad = (line for line in found if line["message"] == "request")
    assert good["request_id"] == "step-7" and good["level"] == "DEBUG"
    assert good["items"] == 1 and good["outcome"] == "OK" and good["seconds"] > 0
    assert good["peer"] == "ipv4:127.0.0.1"
    assert bad["outcome"] == "UNKNOWN_TEMPLATE" and bad["level"] == "INFO"
    (minute,) = (line for line in found if line["message"] == "the last minute")
    assert minute["requests"] == 2 and minute["failures"] == {"UNKNOWN_TEMPLATE": 1}
    (judged,) = (line for line in found if "judgements" in line["message"])
    assert judged["n"] == 1 and judged["sd"] == 0


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_libraries_speak_from_warnings_on_at_the_least(level: str) -> None:
    program = f"""
import logging
from adjudge_server.observing.logs import configure
configure("json", "{level}")
for name in {NAMES}:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger(name).log(level, "said")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    ours = levels[levels.index(level.upper()) :]
    said = {name: [line["level"] for line in lines if line["logger"] == name] for name in NAMES}
    assert said == {NAMES[0]: [each for each in ours if each in levels[2:]], NAMES[1]: ours}


def test_a_server_without_work_says_nothing_of_its_minutes() -> None:
    with served() as (_, lines):
        pass
    assert lines and not any("minute" in line for line in lines)


def test_a_request_id_comes_back_with_answers_and_with_refusals(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        service = RewardServiceStub(channel)
        sent = [("x-request-id", "run-1/step-7")]
        _, call = service.ScoreCandidates.with_call(score_request("a"), metadata=sent)
        assert dict(call.trailing_metadata())["x-request-id"] == "run-1/step-7"
        with pytest.raises(grpc.RpcError) as failed:
            service.ScoreCandidates(score_request(), metadata=sent)
        assert dict(failed.value.trailing_metadata())["x-request-id"] == "run-1/step-7"
        ids = set()
        for _ in range(3):
            _, call = service.ScoreCandidates.with_call(score_request("a"))
            ids.add(dict(call.trailing_metadata())["x-request-id"])
        assert len(ids) == 3


@given(st.text() | st.binary() | st.none() | st.just("a" * 129) | st.just("a b") | st.just("a\n"))
def test_a_request_id_that_is_not_sane_is_replaced(sent: str | bytes | None) -> None:
    found = request_id(sent)
    assert 1 <= len(found) <= 128 and found.isascii() and found.isprintable()
    assert not set(found) & set(" \"'\\,;{}[]<>&%$`\n")


@given(st.text(), st.dictionaries(st.sampled_from("abc"), st.text()))
def test_a_text_line_is_one_line_whatever_is_in_it(message: str, fields: dict[str, str]) -> None:
    try:
        raise ValueError(message)
    except ValueError:
        record = logging.LogRecord("x", logging.INFO, "", 1, "%s", (message,), sys.exc_info())
    setattr(record, FIELDS, fields)
    first, *others = TextFormatter().format(record).splitlines()
    assert first.split(" ")[2:4] == ["INFO", "x"]
    assert others and all(line.startswith("    ") for line in others)
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1 and json.loads(line)["message"] == message


def exchange(outcome: str = "OK", *failures: Exception) -> Exchange:
    made = Exchange("ScoreCandidates", "id", outcome=outcome)
    made.items = [Item(failure) for failure in failures]
    return made


def test_only_our_own_faults_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "adjudge_server")
    log = RequestLog(clock=lambda: 0.0)
    for each in (
        exchange("OK"),
        exchange("QUEUE_FULL"),
        exchange("CANCELLED"),
        exchange("OK", InputTooLong("")),
        exchange("INVALID_REQUEST"),
        exchange("CRITIC_FAILURE"),
        exchange("OK", CriticFailure("")),
    ):
        log(each)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["DEBUG"] * 4 + ["INFO"] + ["WARNING"] * 2


def test_a_flood_of_failures_is_no_flood_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    caplog.set_level(logging.INFO, "adjudge_server")
    log = RequestLog(clock=lambda: now)
    for _ in range(100):
        log(exchange("INVALID_REQUEST"))
    log(exchange("CRITIC_FAILURE"))  # is told all the same
    assert len(caplog.records) == MAX_PER_SECOND + 1
    assert log.num_untold == 100 - MAX_PER_SECOND
    now = 1.0
    log(exchange("INVALID_REQUEST"))
    assert len(caplog.records) == MAX_PER_SECOND + 2
