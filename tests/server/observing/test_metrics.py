"""Metrics, as Prometheus reads them off a real server."""

import math
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge.v1 import reward_pb2 as pb
from adjudge_server.config import Config
from adjudge_server.observing import histogram
from adjudge_server.serve import Server
from tests.conftest import Launch, running, stub
from tests.server.observing.scraping import Scraped, scrape, scraped_when
from tests.server.test_service import (
    compare_request,
    critique_request,
    encoded,
    noise,
    refusal,
    score_request,
    turn,
)

LOCAL = "127.0.0.1:0"


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch(critic="fake", metrics_listen=LOCAL, max_candidates=6)


def test_without_the_flag_there_is_no_port(fake_server: Server) -> None:
    assert fake_server.metrics_port is None


@given(
    scored=st.lists(st.integers(1, 6), max_size=3),
    compared=st.lists(st.sampled_from([(0, 1), (1, 2), (2, 0)]), max_size=4),
    refused=st.integers(0, 2),
)
@settings(max_examples=15, deadline=None)
def test_counts_agree_with_what_was_asked(
    server: Server, scored: list[int], compared: list[tuple[int, int]], refused: int
) -> None:
    before = Scraped.of(server)
    with stub(server) as service:
        answers: list[Any] = [
            service.ScoreCandidates(score_request(*map(str, range(number)))) for number in scored
        ]
        if compared:
            answers.append(
                service.CompareCandidates(compare_request("a", "b", "c", pairs=compared))
            )
        for _ in range(refused):
            refusal(service, score_request(*"abcdefgh"))
    asked = before("adjudge_requests_total") + len(scored) + bool(compared) + refused
    after = scraped_when(server, "adjudge_requests_total", asked)

    def grown(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    requests = "adjudge_requests_total"
    assert grown(requests, method="ScoreCandidates", outcome="OK") == len(scored)
    assert grown(requests, method="CompareCandidates", outcome="OK") == bool(compared)
    assert grown(requests, method="ScoreCandidates", outcome="LIMIT_EXCEEDED") == refused
    items = "adjudge_items_total"
    assert grown(items, method="ScoreCandidates", outcome="OK") == sum(scored)
    assert grown(items, method="CompareCandidates", outcome="OK") == len(compared)
    assert grown("adjudge_reward_bucket", le="+Inf") == grown("adjudge_reward_count") == sum(scored)
    assert grown("adjudge_margin_bucket", le="+Inf") == len(compared)
    assert grown("adjudge_orders_total") == len(compared)
    orders = {order for a, b in compared for order in ((a, b), (b, a))}
    assert grown("adjudge_batch_items_sum") == sum(scored) + len(orders)
    assert grown("adjudge_forward_seconds_count") == grown("adjudge_batch_items_count")
    costs = [answer.provenance for answer in answers]
    assert grown("adjudge_input_tokens_total") == sum(cost.input_tokens for cost in costs)
    assert grown("adjudge_computed_tokens_total") == sum(cost.computed_tokens for cost in costs)
    for stage in ("decode", "prepare", "queue", "forward"):
        refused_later = refused if stage == "decode" else 0  # candidates are counted after it
        count = grown("adjudge_stage_seconds_count", stage=stage)
        assert count == len(answers) + refused_later


def test_the_reward_histogram_holds_the_rewards_that_were_given(launch: Launch) -> None:
    server = launch(critic="fake", metrics_listen=LOCAL)
    with stub(server) as service:
        response = service.ScoreCandidates(score_request(*map(str, range(40))))
    rewards = [outcome.reward.reward for outcome in response.outcomes]
    scraped = scrape(server)
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in scraped.items()
        if name == "adjudge_reward_bucket"
    }
    assert len(buckets) == histogram.STEPS + 2
    for bound, value in buckets.items():
        assert value == sum(reward <= bound for reward in rewards)
    seen = Scraped(scraped)
    assert seen("adjudge_window_items") == 40
    assert seen("adjudge_window_mean") == pytest.approx(sum(rewards) / 40)
    mean = sum(rewards) / 40
    spread = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / 40)
    assert seen("adjudge_window_sd") == pytest.approx(spread)
    valid = response.outcomes[0].reward.valid_mass
    assert seen("adjudge_window_valid_mass") == pytest.approx(valid)


def test_position_bias_shows_as_flipped_verdicts(launch: Launch) -> None:
    server = launch(critic="fake", metrics_listen=LOCAL)
    texts = [str(i) for i in range(30)]
    pairs = [(i, i + 1) for i in range(29)]
    with stub(server) as service:
        response = service.CompareCandidates(compare_request(*texts, pairs=pairs))
        service.CompareCandidates(compare_request("a", "b", order_policy=pb.ORDER_POLICY_AS_GIVEN))
    comparisons = [outcome.comparison for outcome in response.outcomes]
    flipped = sum(abs(c.position_bias) > abs(c.margin) for c in comparisons)
    seen = Scraped.of(server)
    assert flipped > 0
    assert seen("adjudge_orders_total", verdict="flip") == flipped
    assert seen("adjudge_orders_total", verdict="agree") == 29 - flipped
    assert seen("adjudge_position_bias_bucket", le="+Inf") == 29


def test_a_caller_cannot_make_a_series(server: Server) -> None:
    with stub(server) as service:
        refusal(service, score_request("a", template='made\nup="x"'))
        refusal(service, score_request("a", model="made up"))
        made_up = (("x-request-id", "made-up-id"),)
        service.ScoreCandidates(score_request("made up"), metadata=made_up)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary("/adjudge.v1.RewardService/MadeUp")
        with pytest.raises(grpc.RpcError):
            call(b"", timeout=20)
    labels = {value for _, found in scrape(server) for _, value in found}
    assert not any("made" in value.lower() for value in labels)


def test_an_item_that_fails_is_counted_by_its_reason(launch: Launch) -> None:
    server = launch(critic="fake", metrics_listen=LOCAL, max_input_tokens=2000)
    with stub(server) as service:
        outcomes = service.ScoreCandidates(score_request("a", "word " * 5000)).outcomes
    assert outcomes[1].HasField("error")
    seen = Scraped.of(server)
    assert seen("adjudge_items_total", outcome="OK") == 1
    assert seen("adjudge_items_total", outcome="INPUT_TOO_LONG") == 1
    assert seen("adjudge_requests_total", outcome="OK") == 1


def test_a_critique_is_a_judgement_too(launch: Launch) -> None:
    server = launch(critic="fake", metrics_listen=LOCAL)
    with stub(server) as service:
        events = list(service.CritiqueCandidates(critique_request("a", "b")))
    rewards = [event for event in events if event.HasField("reward")]
    seen = Scraped.of(server)
    assert seen("adjudge_reward_count") == len(rewards) == 2
    assert seen("adjudge_stage_seconds_count", stage="critique") == 2
    assert seen("adjudge_open_critiques") == 0


def test_a_call_that_its_caller_gave_up_is_cancelled(launch: Launch) -> None:
    server = launch(critic="fake", metrics_listen=LOCAL)
    with stub(server) as service:
        stream = service.CritiqueCandidates(critique_request(*map(str, range(200))))
        next(stream)
        stream.cancel()
    seen = scraped_when(server, "adjudge_requests_total", 1, outcome="CANCELLED")
    assert seen("adjudge_open_critiques") == 0


def test_caches_show_what_they_spared(embedded: Server) -> None:
    picture = encoded(noise(28, 28))
    request = score_request("seven", prompt=[turn("What is it?", picture)])
    with stub(embedded) as service:
        before = Scraped.of(embedded)
        service.ScoreCandidates(request)
        first = Scraped.of(embedded)
        service.ScoreCandidates(request)
        second = Scraped.of(embedded)
    hits, misses = "adjudge_cache_hits_total", "adjudge_cache_misses_total"
    assert first(misses, cache="features") == before(misses, cache="features") + 1
    for cache in ("features", "prefixes"):
        assert second(misses, cache=cache) == first(misses, cache=cache)
        assert second("adjudge_cache_bytes", cache=cache) > 0
    assert second(hits, cache="prefixes") > first(hits, cache="prefixes")
    reused = "adjudge_prefix_tokens_total"
    assert second(reused, source="reused") > first(reused, source="reused")
    spared = first(reused, source="computed") - before(reused, source="computed")
    again = second(reused, source="computed") - first(reused, source="computed")
    assert again < spared
    assert second("adjudge_cache_bytes", cache="pictures") == len(picture.encoded)
    assert second("adjudge_weights_epoch") == 0 and second("adjudge_serving") == 1
    assert second("process_resident_memory_bytes") > 1e7


def test_a_named_picture_is_a_hit_or_a_miss(embedded: Server) -> None:
    picture = encoded(noise(28, 28, seed=1))
    named = pb.Image(wire_digest=b"\1" * 32)
    with stub(embedded) as service:
        before = Scraped.of(embedded)
        refusal(service, score_request("a", prompt=[turn("What is it?", named)]))
        after = Scraped.of(embedded)
    assert picture.encoded
    misses = "adjudge_cache_misses_total"
    assert after(misses, cache="pictures") == before(misses, cache="pictures") + 1


@pytest.fixture(scope="module")
def embedded(launch: Launch) -> Server:
    return launch(metrics_listen=LOCAL)


def test_two_servers_in_a_process_count_apart(server: Server, launch: Launch) -> None:
    other = launch(critic="fake", metrics_listen=LOCAL)
    before = Scraped.of(server)("adjudge_requests_total")
    with stub(other) as service:
        service.ScoreCandidates(score_request("a"))
    assert Scraped.of(other)("adjudge_requests_total") == 1
    assert Scraped.of(server)("adjudge_requests_total") == before


def test_a_port_that_is_taken_is_named(server: Server) -> None:
    taken = f"127.0.0.1:{server.metrics_port}"
    config = Config(listen=LOCAL, critic="fake", metrics_listen=taken)
    with pytest.raises(RuntimeError, match=f"--metrics-listen {taken}"), running(config):
        pass


def test_metrics_beyond_this_machine_are_refused_unless_told() -> None:
    with pytest.raises(ValueError, match="anybody who reaches it"):
        Config(metrics_listen="0.0.0.0:1")
    assert Config(metrics_listen="0.0.0.0:1", allow_plaintext=True).metrics_listen
    with pytest.raises(ValueError, match="must be host:port"):
        Config(metrics_listen="127.0.0.1")


def test_a_stopped_server_is_scraped_no_more() -> None:
    config = Config(listen=LOCAL, critic="fake", metrics_listen=LOCAL)
    with running(config) as server:
        scrape(server)
    with pytest.raises(OSError):
        scrape(server)


def test_strangers_are_counted_by_why_they_were_turned_away(
    launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.touch(0o600)
    tokens.write_text("a-token-that-is-long-enough\n")
    server = launch(critic="fake", metrics_listen=LOCAL, tokens=tokens)
    with stub(server) as service:
        refusal(service, score_request("a"))
        with pytest.raises(grpc.RpcError):
            list(service.CritiqueCandidates(critique_request("a")))
    seen = scraped_when(server, "adjudge_requests_total", 2)
    for method in ("ScoreCandidates", "CritiqueCandidates"):
        assert seen("adjudge_requests_total", method=method, outcome="UNAUTHENTICATED") == 1
