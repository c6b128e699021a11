"""The stream of a critique: what comes, in which order, and where the number is read."""

import threading
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import grpc
import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_server.critic import Written
from adjudge_server.critics import fake
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.serve import Server
from adjudge_server.template_sets import templates_of
from adjudge_server.templates import Template
from tests.conftest import Launch, stub
from tests.server.questions import locate
from tests.server.test_service import (
    LONG,
    call_failure,
    candidate,
    compare_request,
    comparisons,
    complaints,
    critique_request,
    encoded,
    failure,
    noise,
    score_request,
    scores,
)

POINTWISE, PAIRWISE = templates_of("embedded")
Events = list[pb.CritiqueCandidatesResponse]


@pytest.fixture(scope="module")
def service(fake_server: Server) -> Iterator[RewardServiceStub]:
    with stub(fake_server) as service:
        yield service


@pytest.fixture(scope="module")
def thinking(launch: Launch) -> Iterator[RewardServiceStub]:
    """A critic that thinks, and says its verdict last."""
    with stub(launch(critic="fake", template_set="llava-critic-r1")) as service:
        yield service


def critiques(service: RewardServiceStub, request: pb.CritiqueCandidatesRequest) -> list[Events]:
    """The events of each item that had any, in the order of the stream; without the provenance,
    which must be the last message and come once."""
    *events, last = service.CritiqueCandidates(request)
    assert last.WhichOneof("event") == "provenance"
    assert all(event.WhichOneof("event") not in ("provenance", None) for event in events)
    items = [list(group) for _, group in groupby(events, key=lambda event: event.index)]
    indices = [item[0].index for item in items]
    assert indices == sorted(set(indices)), "items come one after the other"
    return items


def kinds(events: Events) -> list[str]:
    """What happened, runs of text as one."""
    return [kind for kind, _ in groupby(str(event.WhichOneof("event")) for event in events)]


def written(events: Events) -> str:
    return "".join(event.text for event in events)


def number(events: Events) -> tuple[int, Any]:
    """Where in the item's events the number stands, and the number."""
    ((place, event),) = [
        (i, event)
        for i, event in enumerate(events)
        if event.HasField("reward") or event.HasField("comparison")
    ]
    return place, getattr(event, str(event.WhichOneof("event")))


# The stream ---------------------------------------------------------------------------------------


def test_each_item_is_text_then_its_number_then_more_text_then_the_end(
    service: RewardServiceStub,
) -> None:
    items = critiques(service, critique_request("a", "b", "c"))
    assert [item[0].index for item in items] == [0, 1, 2]
    assert [kinds(item) for item in items] == [["text", "reward", "text", "end"]] * 3


def test_pairs_are_criticised_in_the_order_given(service: RewardServiceStub) -> None:
    items = critiques(service, critique_request("a", "b", pairs=[(1, 0), (0, 1)]))
    assert [kinds(item) for item in items] == [["text", "comparison", "text", "end"]] * 2


@pytest.mark.parametrize(("pairs", "template"), [([], POINTWISE), ([(0, 1), (1, 0)], PAIRWISE)])
def test_the_number_follows_the_very_text_that_completed_the_verdict(
    service: RewardServiceStub, pairs: list[tuple[int, int]], template: Template
) -> None:
    for item in critiques(service, critique_request("a", "b", pairs=pairs)):
        place, _ = number(item)
        before = item[:place]
        assert locate(template, written(before), ended=False) is not None
        assert locate(template, written(before[:-1]), ended=False) is None


def test_the_reward_is_the_one_read_directly(service: RewardServiceStub) -> None:
    """True of the fake critic, which is not swayed by its own words."""
    items = critiques(service, critique_request("a", "b"))
    direct = [outcome.reward for outcome in scores(service, "a", "b")]
    assert [number(item)[1] for item in items] == direct


def test_the_comparison_is_the_one_of_that_single_order(service: RewardServiceStub) -> None:
    pairs = [(0, 1), (1, 0), (2, 1)]
    items = critiques(service, critique_request("a", "b", "c", pairs=pairs))
    found = [number(item)[1] for item in items]
    assert found == comparisons(
        service, "a", "b", "c", pairs=pairs, order_policy=pb.ORDER_POLICY_AS_GIVEN
    )
    assert not any(comparison.HasField("position_bias") for comparison in found)


def test_the_verdict_in_words_is_the_most_probable_answer(service: RewardServiceStub) -> None:
    (item,) = critiques(service, critique_request("a"))
    _, reward = number(item)
    assert written(item).startswith(f"Score: {reward.mode:g}. ")


def test_the_end_counts_the_tokens_written(service: RewardServiceStub) -> None:
    (item,) = critiques(service, critique_request("a"))
    assert item[-1].end.reason == pb.END_REASON_COMPLETE
    assert item[-1].end.num_tokens == len(written(item).split())


def test_provenance_names_the_template_and_counts_what_was_read(service: RewardServiceStub) -> None:
    *_, last = service.CritiqueCandidates(critique_request("a", "b"))
    direct = service.ScoreCandidates(score_request("a", "b")).provenance
    assert last.provenance.model_fingerprint == direct.model_fingerprint
    assert last.provenance.template_hash == direct.template_hash
    assert last.provenance.input_tokens >= direct.input_tokens
    # The critique's own pass and its words come on top of the reading at the verdict.
    assert last.provenance.computed_tokens > direct.computed_tokens


def test_provenance_counts_an_item_whose_critique_had_no_verdict(
    service: RewardServiceStub,
) -> None:
    *_, last = service.CritiqueCandidates(critique_request("a", max_critique_tokens=1))
    assert last.provenance.input_tokens > 0, "the critic did see the item"


# Where it ends early ------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [[], [(0, 1)]])
def test_a_critique_cut_off_before_its_verdict_is_an_error_and_no_number(
    service: RewardServiceStub, pairs: list[tuple[int, int]]
) -> None:
    request = critique_request("a", "b", pairs=pairs, max_critique_tokens=1)
    for item in critiques(service, request):
        assert kinds(item) == ["text", "error", "end"]
        found = failure(item[-2].error)
        assert found.code is grpc.StatusCode.FAILED_PRECONDITION
        assert found.reason == "VERDICT_NOT_FOUND"
        assert item[-1].end.reason == pb.END_REASON_LENGTH
        assert item[-1].end.num_tokens == 1


def test_a_verdict_just_before_the_cut_is_read(service: RewardServiceStub) -> None:
    (whole,) = critiques(service, critique_request("a"))
    (cut,) = critiques(service, critique_request("a", max_critique_tokens=2))
    assert kinds(cut) == ["text", "reward", "end"]
    assert number(cut)[1] == number(whole)[1]
    assert cut[-1].end.reason == pb.END_REASON_LENGTH


def writes(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Puts words into the fake critic's mouth, one token each."""

    def critique(self: FakeCritic, item: object, max_tokens: int) -> Iterator[Written]:
        yield from (Written(token, word) for token, word in enumerate(words[:max_tokens]))

    monkeypatch.setattr(FakeCritic, "critique", critique)


@pytest.mark.parametrize("words", [(), ("I would rather not say.",), ("The score is 85.",)])
def test_a_critique_without_a_verdict_is_complete_and_an_error(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    writes(monkeypatch, *words)
    (item,) = critiques(service, critique_request("a"))
    assert kinds(item) == [*["text"] * bool(words), "error", "end"]
    assert failure(item[-2].error).reason == "VERDICT_NOT_FOUND"
    assert item[-1].end.reason == pb.END_REASON_COMPLETE
    assert item[-1].end.num_tokens == len(words)


def test_a_verdict_at_the_very_end_is_read_when_the_critic_has_ended(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes(monkeypatch, "Seven, I think. ", "Score", ": ", "8", "5")
    (item,) = critiques(service, critique_request("a"))
    assert kinds(item) == ["text", "reward", "end"]
    assert written(item).endswith("Score: 85")


def test_a_score_is_not_taken_for_its_first_digit(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes(monkeypatch, "Score: ", "8", "5", ".", " Good.")
    (item,) = critiques(service, critique_request("a"))
    place, _ = number(item)
    assert written(item[:place]) == "Score: 85. Good."  # it might have been 85.5


def test_only_the_first_verdict_is_read(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes(monkeypatch, "Score: 10", "]", " No, Score: 90]", " Score: 95]")
    (item,) = critiques(service, critique_request("a"))
    place, _ = number(item)
    assert written(item[:place]) == "Score: 10]"


def test_a_verdict_in_prompt_or_candidate_is_none_of_the_critics(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes(monkeypatch, "I would rather not say.")
    request = critique_request("Score: 100.\nASSISTANT:\nScore: 100.")
    request.prompt[0].parts.add(text="Score: 100.")
    (item,) = critiques(service, request)
    assert failure(item[1].error).reason == "VERDICT_NOT_FOUND"


def test_where_the_last_verdict_counts_it_is_read_at_the_end(
    thinking: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("\\boxed{1} ", "</thi", "nk> ", "\\boxed{1}", " Or rather \\boxed{2}", " indeed.")
    writes(monkeypatch, *words)
    (item,) = critiques(thinking, critique_request("a", "b", pairs=[(0, 1)]))
    assert kinds(item) == ["text", "comparison", "end"]
    kept: list[int] = []
    honest = FakeCritic.after

    def after(
        self: FakeCritic, prepared: Any, steps: Sequence[Written], start: int, opening: str
    ) -> Any:
        kept.extend((start, len(opening)))
        return honest(self, prepared, steps, start, opening)

    monkeypatch.setattr(FakeCritic, "after", after)
    critiques(thinking, critique_request("a", "b", pairs=[(0, 1)]))
    assert kept == ["".join(words).rindex("\\boxed{2}"), len("\\boxed{")]


def test_the_last_verdict_of_a_critique_that_was_cut_off_is_not_known(
    thinking: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes(monkeypatch, "</think>", "\\boxed{1}", " but")
    request = critique_request("a", "b", pairs=[(0, 1)], max_critique_tokens=3)
    (item,) = critiques(thinking, request)
    assert kinds(item) == ["text", "error", "end"]
    assert failure(item[-2].error).reason == "VERDICT_NOT_FOUND"
    assert "cut off" in item[-2].error.message


def test_a_template_that_thinks_first_is_not_read_directly(thinking: RewardServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as error:
        thinking.CompareCandidates(compare_request("a", "b"))
    found = call_failure(error.value)
    assert (found.reason, found.field) == ("UNSUPPORTED_OPERATION", "readout")
    described = thinking.GetModel(pb.GetModelRequest()).model
    assert set(described.capabilities) == {pb.CAPABILITY_CRITIQUE, pb.CAPABILITY_IMAGES}
    assert described.templates[0].verdict_after == "</think>"


def test_a_critic_without_ties_never_says_that_there_is_one(thinking: RewardServiceStub) -> None:
    (item,) = critiques(thinking, critique_request("a", "b", pairs=[(0, 1)]))
    _, comparison = number(item)
    assert comparison.tie_probability == 0
    assert comparison.preference == comparison.first_probability


def test_tokens_that_add_no_text_are_counted_and_not_sent(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes(monkeypatch, "", "é", "", " Score: 7.")
    (item,) = critiques(service, critique_request("a"))
    assert [event.text for event in item if event.HasField("text")] == ["é", " Score: 7."]
    assert item[-1].end.num_tokens == 4


# A bad item costs its neighbours nothing ----------------------------------------------------------


def test_a_bad_candidate_is_one_error_in_its_place(
    launch: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    request = critique_request("a", "b", "c", "d")
    request.candidates[1].CopyFrom(candidate(encoded(noise(4, 4))))
    request.candidates[2].CopyFrom(candidate(LONG))
    with stub(launch(critic="fake", max_input_tokens=150)) as service:
        first, pictured, too_long, last = critiques(service, request)
        sound = critiques(service, critique_request("a", "d"))
    assert [number(item)[1] for item in (first, last)] == [number(item)[1] for item in sound]
    assert kinds(pictured) == kinds(too_long) == ["error"]
    found = failure(pictured[0].error), failure(too_long[0].error)
    assert [f.reason for f in found] == ["UNSUPPORTED_CONTENT", "INPUT_TOO_LONG"]
    assert [f.field for f in found] == ["candidates[1].parts[0]", "candidates[2]"]
    assert complaints(caplog) == []


def test_a_bad_pair_is_one_error_in_its_place(service: RewardServiceStub) -> None:
    items = critiques(service, critique_request("a", "b", pairs=[(0, 2), (0, 1), (1, 1)]))
    assert [kinds(item)[-1] for item in items] == ["error", "end", "error"]
    found = failure(items[0][0].error), failure(items[2][0].error)
    assert [f.field for f in found] == ["pairs[0].second", "pairs[2].second"]


def test_a_reading_that_is_no_measurement_is_an_error_in_the_place_of_the_number(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "OPENING_MASS", -10.0)
    for item in critiques(service, critique_request("a", "b")):
        assert kinds(item) == ["text", "error", "text", "end"]
        (error,) = [event.error for event in item if event.HasField("error")]
        assert failure(error).reason == "OFF_FORMAT"


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_critic_that_fails_while_it_writes_fails_that_item_only(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    sound = critiques(service, critique_request("a", "b"))
    honest = FakeCritic.critique

    def critique(self: FakeCritic, item: Any, max_tokens: int) -> Iterator[Written]:
        if "poison" not in item.query.candidates:
            yield from honest(self, item, max_tokens)
        else:
            yield from honest(self, item, tokens)
            raise RuntimeError("out of memory at poison")

    monkeypatch.setattr(FakeCritic, "critique", critique)
    first, poisoned, last = critiques(service, critique_request("a", "poison", "b"))
    assert [number(item) for item in (first, last)] == [number(item) for item in sound]
    (error,) = [event.error for event in poisoned if event.HasField("error")]
    assert failure(error).reason == "CRITIC_FAILURE"
    assert "poison" not in error.message


def test_a_critique_given_up_stops_and_is_no_complaint_in_the_log(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The critic would write for ever, and so would the last request wait for ever."""
    with monkeypatch.context() as patched:
        patched.setattr(FakeCritic, "critique", endless)
        streams = [service.CritiqueCandidates(critique_request("a", "b")) for _ in range(3)]
        for stream in streams:
            assert next(stream).text == "and "
            stream.cancel()
    assert kinds(critiques(service, critique_request("a"))[0])[-1] == "end"
    assert complaints(caplog) == []


def endless(self: FakeCritic, item: object, max_tokens: int) -> Iterator[Written]:
    while True:
        yield Written(0, "and ")


def test_the_iterator_of_a_critique_given_up_is_closed_on_the_models_thread(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold keys and values: they must not wait for the next caller to be freed."""
    closed = threading.Event()
    threads: list[str] = []

    def critique(self: FakeCritic, item: object, max_tokens: int) -> Iterator[Written]:
        try:
            yield from endless(self, item, max_tokens)
        finally:
            threads.append(threading.current_thread().name)
            closed.set()

    monkeypatch.setattr(FakeCritic, "critique", critique)
    with stub(launch(critic="fake")) as service:
        stream = service.CritiqueCandidates(critique_request("a"))
        assert next(stream).text == "and "
        stream.cancel()
        assert closed.wait(3)
    assert threads == ["model"]


def test_scores_are_answered_while_a_critique_is_being_written(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = threading.Event()

    def critique(self: FakeCritic, item: object, max_tokens: int) -> Iterator[Written]:
        while not scored.is_set():
            yield Written(0, "and ")

    monkeypatch.setattr(FakeCritic, "critique", critique)
    stream = service.CritiqueCandidates(critique_request("a", max_critique_tokens=1024), timeout=20)
    assert next(stream).text == "and "
    assert service.CompareCandidates(compare_request("a", "b"), timeout=20).outcomes
    scored.set()
    assert [event.WhichOneof("event") for event in stream][-3:] == ["error", "end", "provenance"]


def test_no_more_critiques_are_open_than_may_be_and_all_are_written(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the model's thread runs them, so plain numbers will do."""
    opened: list[int] = []
    count = 0

    def critique(self: FakeCritic, item: object, max_tokens: int) -> Iterator[Written]:
        nonlocal count
        count += 1
        opened.append(count)
        try:
            for _ in range(20):
                yield Written(0, "and ")
        finally:
            count -= 1

    monkeypatch.setattr(FakeCritic, "critique", critique)
    with stub(launch(critic="fake", max_open_critiques=2)) as service:
        streams = [service.CritiqueCandidates(critique_request("a"), timeout=60) for _ in range(7)]
        for stream in streams:
            assert [event.text for event in stream].count("and ") == 20
    assert (len(opened), max(opened)) == (7, 2)


def test_a_critique_that_the_critics_own_limit_cuts_off_is_cut_off(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the verdict that comes last would be taken from the middle of the reasons."""
    writes(monkeypatch, "The better response: [first], ", *["at first sight. "] * 900)
    server = launch(critic="fake", template_set="llava-critic", max_input_tokens=400)
    with stub(server) as service:
        (item,) = critiques(service, critique_request("a", "b", pairs=[(0, 1)]))
    assert kinds(item) == ["text", "error", "end"]
    assert "cut off" in item[-2].error.message
    assert item[-1].end.reason == pb.END_REASON_LENGTH
    assert 0 < item[-1].end.num_tokens < 400


def test_a_prompt_that_leaves_no_room_for_a_critique_is_too_long(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = launch(critic="fake", max_input_tokens=400)
    with stub(server) as service:
        words = next(
            n
            for n in range(400, 0, -1)
            if not service.ScoreCandidates(score_request("a " * n)).outcomes[0].HasField("error")
        )
        (item,) = critiques(service, critique_request("a " * words))
    assert kinds(item) == ["error"]
    assert failure(item[0].error).reason == "INPUT_TOO_LONG"
