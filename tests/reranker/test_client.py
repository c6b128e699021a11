"""The blocking client, through a real channel to a real server with the fake critic."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import (
    Comparison,
    CritiqueEnd,
    CritiqueText,
    CritiqueVerdict,
    Failure,
    Message,
    OrderPolicy,
    Provenance,
    Readout,
    RequestRefused,
    Reward,
    RewardClient,
    TemplateKind,
    to_image,
)
from tests.conftest import SEVEN
from tests.reranker.scripted import ScriptedService

PROMPT = [SEVEN, "What this image presents?"]
CANDIDATES = ["This is a handwritten number seven.", "A cross.", "7", ""]
TOO_LONG = "word " * 40_000


def test_there_is_one_reward_per_candidate_in_order(client: RewardClient) -> None:
    result = client.score(PROMPT, CANDIDATES)
    alone = [client.score(PROMPT, [candidate]).rewards[0] for candidate in CANDIDATES]
    assert result.rewards == pytest.approx(alone, abs=1e-9)
    assert len(set(result.rewards)) == len(CANDIDATES)


def test_permuting_candidates_permutes_rewards(client: RewardClient) -> None:
    forwards = client.score(PROMPT, CANDIDATES).rewards
    backwards = client.score(PROMPT, CANDIDATES[::-1]).rewards
    assert backwards[::-1] == pytest.approx(forwards, abs=1e-9)


def test_a_reward_carries_its_evidence(client: RewardClient) -> None:
    (outcome,) = client.score(PROMPT, ["7"], include_distribution=True).outcomes
    assert isinstance(outcome, Reward)
    distribution = dict(outcome.distribution)
    assert sum(distribution.values()) == pytest.approx(1.0)
    mean = sum(float(answer) * share for answer, share in distribution.items())
    assert outcome.reward == pytest.approx(mean)
    assert outcome.standard_deviation is not None and outcome.standard_deviation > 0
    assert outcome.valid_mass is not None and 0 < outcome.valid_mass <= 1
    assert outcome.opening_mass is not None and outcome.opening_mass <= 0


def test_the_distribution_is_empty_unless_asked_for(client: RewardClient) -> None:
    (outcome,) = client.score(PROMPT, ["7"]).outcomes
    assert isinstance(outcome, Reward) and outcome.distribution == ()


def test_a_failed_candidate_is_none_and_costs_its_neighbours_nothing(client: RewardClient) -> None:
    result = client.score("Why?", ["because", TOO_LONG, "so"])
    assert result.rewards[1] is None
    assert (result.rewards[0], result.rewards[2]) == client.score("Why?", ["because", "so"]).rewards
    failure = result.outcomes[1]
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, RequestRefused)
    assert failure.error.reason == "INPUT_TOO_LONG"
    assert failure.error.field == "candidates[1]"
    assert result.failures == (failure.error,)


def test_swapping_a_pair_negates_its_margin(client: RewardClient) -> None:
    result = client.compare(PROMPT, CANDIDATES, [(0, 1), (1, 0)])
    there, back = result.outcomes
    assert isinstance(there, Comparison) and isinstance(back, Comparison)
    assert there.margin == -back.margin
    assert there.preference == pytest.approx(1 - back.preference)
    assert there.position_bias == back.position_bias
    assert result.margins == (there.margin, back.margin)
    assert result.preferences == (there.preference, back.preference)


def test_one_order_has_no_position_bias_rather_than_none_at_all(client: RewardClient) -> None:
    result = client.compare(PROMPT, CANDIDATES, [(0, 1)], order_policy=OrderPolicy.AS_GIVEN)
    (outcome,) = result.outcomes
    assert isinstance(outcome, Comparison) and outcome.position_bias is None


def test_a_failed_pair_is_none(client: RewardClient) -> None:
    result = client.compare("Why?", ["because", TOO_LONG, "so"], [(0, 1), (0, 2)])
    assert result.margins[0] is None and result.preferences[0] is None
    assert result.margins[1] is not None


def test_a_critique_streams_text_then_the_verdict_then_the_end(client: RewardClient) -> None:
    *events, provenance = client.critique(PROMPT, CANDIDATES[:2])
    assert isinstance(provenance, Provenance)
    assert [event.index for event in events] == sorted(event.index for event in events)
    for index in (0, 1):
        own = [event for event in events if event.index == index]
        assert isinstance(own[0], CritiqueText)
        assert isinstance(own[-1], CritiqueEnd)
        (verdict,) = [event for event in own if isinstance(event, CritiqueVerdict)]
        assert isinstance(verdict.outcome, Reward)


def test_a_critique_of_pairs_ends_in_comparisons(client: RewardClient) -> None:
    events = list(client.critique(PROMPT, CANDIDATES, [(0, 1), (2, 0)]))
    verdicts = [event for event in events if isinstance(event, CritiqueVerdict)]
    assert [verdict.index for verdict in verdicts] == [0, 1]
    assert all(isinstance(verdict.outcome, Comparison) for verdict in verdicts)


def test_model_describes_what_may_be_asked(client: RewardClient) -> None:
    model = client.model()
    assert model.name == "fake"
    template = model.default_template(TemplateKind.POINTWISE)
    assert template is not None
    assert client.score(PROMPT, ["7"]).provenance.template_hash == template.hash
    assert client.score(PROMPT, ["7"], template=template.name, model="fake").failures == ()


def test_a_prompt_has_three_forms(client: RewardClient) -> None:
    text = client.score("Why?", ["so"]).rewards
    assert client.score(["Why?"], ["so"]).rewards == text
    assert client.score([Message.user("Why?")], ["so"]).rewards == text
    assert client.score("Why?", [["s", "o"]]).rewards == text


def test_a_file_and_its_bytes_are_the_same_picture(client: RewardClient) -> None:
    path = client.score(PROMPT, ["7"]).rewards
    assert client.score([SEVEN.read_bytes(), PROMPT[1]], ["7"]).rewards == path
    assert client.score([to_image(SEVEN), PROMPT[1]], ["7"]).rewards == path


def test_a_string_is_text_even_if_it_looks_like_a_path(client: RewardClient) -> None:
    assert client.score([str(SEVEN), "What?"], ["7"]).provenance.image_tokens == 0
    assert client.score([SEVEN, "What?"], ["7"]).provenance.image_tokens > 0


def test_an_undecodable_prompt_picture_fails_the_call_and_names_the_field(
    client: RewardClient,
) -> None:
    with pytest.raises(RequestRefused) as caught:
        client.score(["Look:", b"not a picture"], ["7"])
    assert caught.value.reason == "UNDECODABLE_IMAGE"
    assert caught.value.field is not None and caught.value.field.startswith("prompt[0].parts[1]")


def test_a_wrong_epoch_is_refused(client: RewardClient) -> None:
    assert client.score("Why?", ["so"], expected_epoch=0).provenance.weights_epoch == 0
    with pytest.raises(RequestRefused) as caught:
        client.score("Why?", ["so"], expected_epoch=7)
    assert caught.value.reason == "WRONG_EPOCH"
    assert caught.value.metadata["expected"] == "7"


@pytest.mark.parametrize("candidates", ["abc", b"abc", [1], [b"abc"], [None], [["a", 1]]], ids=repr)
def test_candidates_of_the_wrong_type_are_a_type_error(
    client: RewardClient, candidates: object
) -> None:
    with pytest.raises(TypeError):
        client.score("Why?", candidates)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [b"abc", 1, None, SEVEN, ["a", Message.user("b")]], ids=repr)
def test_prompts_of_the_wrong_type_are_a_type_error(client: RewardClient, prompt: object) -> None:
    with pytest.raises(TypeError):
        client.score(prompt, ["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_a_timeout_is_positive_and_finite_or_none(client: RewardClient, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        client.score("Why?", ["so"], timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        RewardClient(timeout=timeout)
    assert client.score("Why?", ["so"], timeout=None).failures == ()


def test_a_closed_client_says_so(address: str) -> None:
    with RewardClient(address) as client:
        client.score("Why?", ["so"])
    for call in (
        lambda: client.score("Why?", ["so"]),
        lambda: client.compare("Why?", ["so", "no"], [(0, 1)]),
        lambda: client.critique("Why?", ["so"]),
        client.model,
    ):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    client.close()  # a second time does no harm


def test_a_client_survives_pickling_after_a_call(client: RewardClient) -> None:
    before = client.score("Why?", ["so"])
    with pickle.loads(pickle.dumps(client)) as copy:
        assert copy.score("Why?", ["so"]).rewards == before.rewards


def test_results_survive_pickling(client: RewardClient) -> None:
    result = client.score("Why?", ["so"], include_distribution=True)
    assert pickle.loads(pickle.dumps(result)) == result
    model = client.model()
    assert pickle.loads(pickle.dumps(model)) == model
    picture = to_image(SEVEN)
    assert pickle.loads(pickle.dumps(picture)) == picture


def test_threads_may_share_a_client_from_the_first_call_on(address: str) -> None:
    barrier = threading.Barrier(8)

    def call(_: int) -> float | None:
        barrier.wait()
        return client.score("Why?", ["so"]).rewards[0]

    with RewardClient(address) as client, ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(call, range(8)))) == 1


def test_every_option_reaches_the_server(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    common = {
        "template": "t/1",
        "reference": "",
        "rubric": "be kind",
        "model": "m",
        "expected_epoch": 0,
    }
    scripted_client.score(
        "Why?", ["a"], readout=Readout.AFTER_CRITIQUE, include_distribution=True, **common
    )
    scripted_client.compare(
        "Why?",
        ["a", "b"],
        [(1, 0)],
        readout=Readout.AFTER_CRITIQUE,
        order_policy=OrderPolicy.AS_GIVEN,
        **common,
    )
    list(scripted_client.critique("Why?", ["a", "b"], [(1, 0)], max_critique_tokens=9, **common))
    score, compare, critique = script.requests
    for request in script.requests:
        assert {name: getattr(request, name) for name in common} == common
        assert request.HasField("reference") and request.HasField("expected_epoch")
    assert score.readout == compare.readout == pb.READOUT_AFTER_CRITIQUE
    assert score.include_distribution
    assert compare.order_policy == pb.ORDER_POLICY_AS_GIVEN
    assert list(compare.pairs) == list(critique.pairs) == [pb.Pair(first=1, second=0)]
    assert critique.max_critique_tokens == 9


def test_options_that_are_not_given_are_not_sent(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    scripted_client.score("Why?", ["a"])
    (request,) = script.requests
    unset = {"reference", "rubric", "expected_epoch", "template", "model", "include_distribution"}
    assert not unset & {field.name for field, _ in request.ListFields()}


def test_messages_keep_their_roles_parts_and_order(
    script: ScriptedService, scripted_client: RewardClient
) -> None:
    small = to_image(SEVEN)
    prompt = [
        Message.system("Be brief."),
        Message.user("Look: ", small, "?"),
        Message.assistant("7."),
        Message.user("Sure?"),
    ]
    scripted_client.score(prompt, [["a", small], ""])
    (request,) = script.requests
    assert [message.role for message in request.prompt] == [
        pb.ROLE_SYSTEM,
        pb.ROLE_USER,
        pb.ROLE_ASSISTANT,
        pb.ROLE_USER,
    ]
    look, picture, question = request.prompt[1].parts
    assert (look.text, question.text) == ("Look: ", "?")
    assert picture.image.encoded == SEVEN.read_bytes()
    assert [len(candidate.parts) for candidate in request.candidates] == [2, 1]
    assert request.candidates[1].parts[0].text == ""
