"""Candidates come from a real chat endpoint, over a real socket."""

import asyncio
import base64
import io
import pickle
import threading
from collections.abc import Iterator

import numpy as np
import PIL.Image
import pytest

from adjudge_reranker import AsyncRewardClient, Image, Message, NothingJudged
from adjudge_reranker.generation import (
    Finish,
    GenerationError,
    OpenAIPolicy,
    PolicyFault,
    PolicyRefused,
    PolicyTimeout,
    PolicyUnavailable,
    Selection,
    StopReason,
    async_generate_best_of_n,
)
from adjudge_server.serve import Server
from tests.conftest import SEVEN
from tests.reranker.generation.endpoint import Endpoint, chat_endpoint, completion
from tests.reranker.generation.policies import AsyncTable


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with chat_endpoint() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


class Length(AsyncTable):
    """The reward is the length of the text."""

    def _outcome(self, candidate):
        self.rewards[candidate] = float(len(candidate))
        return super()._outcome(candidate)


def choose(policy: OpenAIPolicy, num_candidates: int = 4, prompt="prompt", **options) -> Selection:
    async def run() -> Selection:
        return await async_generate_best_of_n(Length({}), policy, prompt, num_candidates, **options)

    return asyncio.run(asyncio.wait_for(run(), 120))


def policy_of(endpoint: Endpoint, **options) -> OpenAIPolicy:
    return OpenAIPolicy("policy", base_url=endpoint.url, **options)


def numbered(endpoint: Endpoint) -> None:
    """Each answer is longer than the one before."""
    endpoint.answer = lambda body: completion(
        *["x" * (10 * len(endpoint.requests) + i) for i in range(body.get("n", 1))]
    )


def test_the_best_answer_wins_and_options_are_passed_on(endpoint) -> None:
    numbered(endpoint)
    policy = policy_of(endpoint, temperature=0.7, max_tokens=9, extra_body={"top_k": 3})
    selection = choose(policy)
    assert selection.best.reward == max(selection.rewards) == 40.0
    assert selection.num_generated == len(endpoint.requests) == 4
    for request in endpoint.requests:
        assert request["model"] == "policy"
        assert request["messages"] == [{"role": "user", "content": "prompt"}]
        assert (request["temperature"], request["max_tokens"], request["top_k"]) == (0.7, 9, 3)
        assert "n" not in request


def test_no_more_requests_than_allowed_are_made_at_a_time(endpoint) -> None:
    def slowly(body):
        threading.Event().wait(0.05)
        return completion("seven")

    endpoint.answer = slowly
    choose(policy_of(endpoint, max_in_flight=3), 9)
    assert endpoint.max_in_flight <= 3
    assert endpoint.max_in_flight > 1
    assert len(endpoint.requests) == 9


def test_several_choices_may_be_asked_for_in_one_request(endpoint) -> None:
    numbered(endpoint)
    selection = choose(policy_of(endpoint, choices_per_request=4, max_in_flight=1), 6)
    assert [request["n"] for request in endpoint.requests] == [4, 2]
    assert selection.rewards == (10.0, 11.0, 12.0, 13.0, 20.0, 21.0)


def test_choices_that_are_missing_are_faults_and_those_too_many_are_ignored(endpoint) -> None:
    endpoint.answer = lambda body: completion("a", "bb")
    selection = choose(policy_of(endpoint, choices_per_request=3), 3)
    assert selection.rewards == (1.0, 2.0, None)
    assert isinstance(selection.generation_errors[0], PolicyFault)
    endpoint.answer = lambda body: completion("a", "bb", "ccc")
    assert choose(policy_of(endpoint), 1).rewards == (1.0,)


def test_each_request_has_a_seed_of_its_own(endpoint) -> None:
    choose(policy_of(endpoint, seed=100), 3)
    assert sorted(request["seed"] for request in endpoint.requests) == [100, 101, 102]


@pytest.mark.parametrize("allowed", [False, True])
def test_a_truncated_answer_is_marked_and_wins_only_if_allowed(endpoint, allowed) -> None:
    endpoint.answer = lambda body: (
        completion("a much longer answer that", finish="length")
        if len(endpoint.requests) == 1
        else completion("short")
    )
    selection = choose(policy_of(endpoint, max_in_flight=1), 2, allow_truncated=allowed)
    assert selection.attempts[0].finish is Finish.LENGTH
    assert selection.attempts[1].finish is Finish.COMPLETE
    assert selection.best.index == (0 if allowed else 1)
    assert (selection.attempts[0].reward is not None) == allowed


def test_a_filtered_answer_never_wins(endpoint) -> None:
    endpoint.answer = lambda body: completion("what is left", finish="content_filter")
    with pytest.raises(NothingJudged, match="finish: filtered"):
        choose(policy_of(endpoint), 1, allow_truncated=True)


def test_what_can_be_repeated_is_repeated(endpoint) -> None:
    statuses = [503, 429, 200]
    endpoint.answer = lambda body: (
        completion("seven")
        if (status := statuses.pop(0)) == 200
        else (status, {"error": {"message": "later"}})
    )
    selection = choose(policy_of(endpoint, max_in_flight=1), 1)
    assert selection.best.candidate == "seven"
    assert statuses == []


@pytest.mark.parametrize(
    ("status", "kind", "num_requests"),
    [
        (400, PolicyRefused, 1),
        (401, PolicyRefused, 1),
        (404, PolicyRefused, 1),
        (429, PolicyUnavailable, 3),
        (500, PolicyUnavailable, 3),
    ],
)
def test_failures_are_typed_and_a_refusal_ends_it(endpoint, status, kind, num_requests) -> None:
    endpoint.answer = lambda body: (status, {"error": {"message": "not like this"}})
    with pytest.raises(NothingJudged) as caught:
        choose(policy_of(endpoint, max_in_flight=1, max_retries=0), 3)
    error = caught.value.__cause__
    assert type(error) is kind
    assert error.status == status
    assert "not like this" in str(error)
    assert len(endpoint.requests) == num_requests
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.status, str(copy)) == (kind, status, str(error))


def test_one_failure_does_not_cost_the_others(endpoint) -> None:
    endpoint.answer = lambda body: (500, {}) if len(endpoint.requests) == 2 else completion("seven")
    selection = choose(policy_of(endpoint, max_in_flight=1, max_retries=0), 3)
    assert [attempt.error is not None for attempt in selection.attempts] == [False, True, False]
    assert selection.num_generated == 2


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>login</html>"),
        (200, b"{"),
        (200, b""),
        (200, b"null"),
        (200, b"[]"),
        (200, {"choices": None}),
        (200, {"choices": [None]}),
        (200, {"choices": [{"message": None}]}),
        (200, {"choices": [{"message": {"content": 7}, "finish_reason": 5}]}),
        completion(None),
        completion(),
    ],
    ids=str,
)
def test_an_answer_that_is_no_completion_is_a_fault_and_no_candidate(endpoint, answer) -> None:
    endpoint.answer = lambda body: answer
    with pytest.raises(NothingJudged) as caught:
        choose(policy_of(endpoint), 2)
    assert isinstance(caught.value.__cause__, PolicyFault)


def test_an_endpoint_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(NothingJudged) as caught:
        choose(OpenAIPolicy("policy", base_url="http://127.0.0.1:1/v1", max_retries=0), 1)
    assert isinstance(caught.value.__cause__, PolicyUnavailable)


def test_a_request_that_takes_too_long_is_a_timeout(endpoint) -> None:
    answered = threading.Event()

    def never(body):
        answered.wait(10)
        return completion("late")

    endpoint.answer = never
    try:
        with pytest.raises(NothingJudged) as caught:
            choose(policy_of(endpoint, timeout=0.1, max_retries=0), 1)
        assert isinstance(caught.value.__cause__, PolicyTimeout)
    finally:
        answered.set()


def test_requests_under_way_are_cancelled_once_the_choice_is_made(endpoint) -> None:
    may_answer = threading.Event()

    def slow_but_the_first(body):
        if len(endpoint.requests) > 1:
            may_answer.wait(20)
        return completion("good enough")

    endpoint.answer = slow_but_the_first
    try:
        selection = choose(policy_of(endpoint, max_in_flight=3), 8, good_enough=5.0)
    finally:
        may_answer.set()
    assert selection.stop is StopReason.GOOD_ENOUGH
    assert selection.num_generated == 1
    assert 1 <= selection.num_cancelled <= 3
    assert selection.num_begun < 8


def test_the_key_comes_from_the_environment_and_is_never_shown(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    choose(policy_of(endpoint), 1)
    policy = policy_of(endpoint, api_key="given")
    choose(policy, 1)
    assert endpoint.keys == ["Bearer from the environment", "Bearer given"]
    assert "given" not in repr(policy)


def test_a_server_of_ones_own_needs_no_key_but_openai_does(endpoint) -> None:
    import openai

    choose(policy_of(endpoint), 1)
    with pytest.raises(openai.OpenAIError, match="OPENAI_API_KEY"):
        choose(OpenAIPolicy("policy"), 1)


def test_a_policy_serves_several_event_loops_and_can_be_pickled(endpoint) -> None:
    policy = policy_of(endpoint)
    for one in (policy, policy, pickle.loads(pickle.dumps(policy))):
        assert choose(one, 1).best.candidate == "seven"


@pytest.mark.parametrize("options", [{"n": 2}, {"stream": True}, {"messages": []}])
def test_options_that_belong_to_the_policy_are_refused(options) -> None:
    with pytest.raises(ValueError, match="cannot be chosen"):
        OpenAIPolicy("policy", **options)


def picture_of(part: dict) -> tuple[str, PIL.Image.Image]:
    header, data = part["image_url"]["url"].split(",", 1)
    return header, PIL.Image.open(io.BytesIO(base64.b64decode(data)))


def lying() -> bytes:
    """A picture of 3 x 2 pixels that a camera stored on its side."""
    file = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (2, 3)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_pictures_travel_whole_upright_and_in_their_places(endpoint) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    bitmap = io.BytesIO()
    PIL.Image.fromarray(pixels).save(bitmap, "BMP")
    prompt = [
        Message.system("Be brief."),
        Message.user("A", SEVEN, "B", pixels, bitmap.getvalue(), lying()),
    ]
    choose(policy_of(endpoint), 1, prompt)
    system, user = endpoint.requests[0]["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url", "text", "image_url", "image_url", "image_url"]
    parts = user["content"]
    header, _ = picture_of(parts[1])
    assert header == "data:image/png;base64"
    assert base64.b64decode(parts[1]["image_url"]["url"].split(",")[1]) == SEVEN.read_bytes()
    for part in parts[3:5]:
        header, picture = picture_of(part)
        assert header == "data:image/png;base64"
        assert np.array_equal(np.asarray(picture), pixels)
    assert picture_of(parts[5])[1].size == (3, 2)


def test_a_picture_that_is_none_is_an_error_before_any_request(endpoint) -> None:
    with pytest.raises(OSError):
        choose(policy_of(endpoint), 1, [Image(b"no picture"), "What is this?"])
    assert endpoint.requests == []


def test_the_embedded_critic_chooses_among_answers_about_a_picture(
    endpoint, embedded_server: Server
) -> None:
    answers = ["a cat on a sofa", "This is a handwritten number seven.", "", "It is a one."]
    endpoint.answer = lambda body: completion(answers[len(endpoint.requests) - 1])

    async def run() -> Selection:
        async with AsyncRewardClient(f"127.0.0.1:{embedded_server.port}") as client:
            return await async_generate_best_of_n(
                client,
                policy_of(endpoint, max_in_flight=1),
                [SEVEN, "What this image presents?"],
                4,
            )

    selection = asyncio.run(run())
    assert selection.best.candidate == "This is a handwritten number seven."
    assert selection.provenances[0].model
    assert all(isinstance(error, GenerationError) for error in selection.generation_errors)
