"""Ensembles through the real channel: every reward is what its definition makes of what its members
say when they are asked alone, in one epoch, or a failure that names the member."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_reranker import Reward, RewardClient
from adjudge_reranker.trainers.trl import AdjudgeReward
from adjudge_server import queries
from adjudge_server.critic import Query
from adjudge_server.critics.fake import FakeCritic
from adjudge_server.serve import Server
from tests.conftest import Launch, stub
from tests.server.checkpoints import write_text_model
from tests.server.several import PATIENCE, described, move, resident, score, serve, values
from tests.server.test_service import (
    Failure,
    call_failure,
    compare_request,
    critique_request,
    encoded,
    failure,
    noise,
    refusal,
    score_request,
    turn,
    wait_until,
)

FILE = """
[[critic]]
name = "a"
family = "fake"

[[critic]]
name = "b"
family = "fake"

[[critic]]
name = "c"
family = "fake"

[[critic]]
name = "head"
model = "head"

[[ensemble]]
name = "weighted"
combine = "weighted"
[[ensemble.member]]
critic = "a"
weight = 3
[[ensemble.member]]
critic = "b"
scale = -0.5
offset = 50

[[ensemble]]
name = "minimum"
combine = "minimum"
[[ensemble.member]]
critic = "a"
[[ensemble.member]]
critic = "b"
offset = -10.0
[[ensemble.member]]
critic = "c"

[[ensemble]]
name = "penalised"
combine = "spread-penalised"
penalty = 0.5
[[ensemble.member]]
critic = "a"
[[ensemble.member]]
critic = "b"
weight = 2
[[ensemble.member]]
critic = "c"

[[ensemble]]
name = "uwo"
combine = "spread-penalised"
penalty = 0.01
spread = "variance"
[[ensemble.member]]
critic = "a"
[[ensemble.member]]
critic = "b"

[[ensemble]]
name = "safe"
combine = "minimum"
[[ensemble.member]]
critic = "a"
[[ensemble.member]]
critic = "head"
scale = 10
offset = 50
pictures = "leave out"

[[ensemble]]
name = "blind"
combine = "weighted"
[[ensemble.member]]
critic = "a"
[[ensemble.member]]
critic = "head"
"""
RANGES = {
    "weighted": (0.0, (3 * 100 + 50) / 4),
    "minimum": (-10.0, 90.0),
    "penalised": (0.0, 100.0),
    "uwo": (0.0, 100.0),
}
TOLERANCE = 1e-9
texts = st.lists(st.text(max_size=30), min_size=1, max_size=4, unique=True)
few = settings(deadline=None, max_examples=15)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensembles")
    write_text_model(folder / "head", scalar=True)
    return folder


@pytest.fixture(scope="module")
def server(launch: Launch, folder: Path) -> Server:
    """Whose fakes differ: b and c have other weights than a."""
    server = serve(launch, folder, FILE)
    move(server, "b", folder / "of b")
    move(server, "c", folder / "of c")
    move(server, "c", folder / "of c anew")
    return server


@pytest.fixture(scope="module")
def service(server: Server) -> Iterator[RewardServiceStub]:
    with stub(server) as service:
        yield service


def expected(name: str, a: float, b: float, c: float) -> float:
    """By hand."""
    match name:
        case "weighted":
            return (3 * a + (50 - 0.5 * b)) / 4
        case "minimum":
            return min(a, b - 10, c)
        case "penalised":
            mean = (a + 2 * b + c) / 4
            spread = ((a - mean) ** 2 + 2 * (b - mean) ** 2 + (c - mean) ** 2) / 4
            return mean - 0.5 * spread**0.5
    mean = (a + b) / 2
    return mean - 0.01 * ((a - mean) ** 2 + (b - mean) ** 2) / 2


# Rewards ------------------------------------------------------------------------------------------


@few
@given(candidates=texts)
def test_a_reward_is_what_the_definition_makes_of_the_members_own_rewards(
    service: RewardServiceStub, candidates: list[str]
) -> None:
    own = {critic: values(score(service, critic, *candidates)) for critic in "abc"}
    assert own["a"] != own["b"] != own["c"]
    for name in RANGES:
        found = values(score(service, name, *candidates))
        wanted = [expected(name, *three) for three in zip(*own.values(), strict=True)]
        assert found == pytest.approx(wanted, abs=TOLERANCE)


@few
@given(candidates=texts)
def test_rewards_lie_in_the_range_that_follows_from_the_members(
    service: RewardServiceStub, candidates: list[str]
) -> None:
    for name, (low, high) in RANGES.items():
        (template,) = described(service, name).templates
        assert template.max_reward == pytest.approx(high)
        assert template.min_reward <= low + TOLERANCE
        for reward in values(score(service, name, *candidates)):
            assert template.min_reward <= reward <= template.max_reward


def test_what_an_ensemble_has_not_measured_is_not_set(service: RewardServiceStub) -> None:
    (outcome,) = score(service, "penalised", "seven").outcomes
    unset = ("mode", "standard_deviation", "valid_mass", "opening_mass")
    assert not any(outcome.reward.HasField(name) for name in unset)
    assert not outcome.reward.distribution
    own = {critic: score(service, critic, "seven").outcomes[0].reward for critic in "abc"}
    assert {member.model: member.reward for member in outcome.reward.members} == own
    rewards = [own[critic].reward for critic in "abc"]
    mean = np.average(rewards, weights=[1, 2, 1])
    variance = np.average((np.array(rewards) - mean) ** 2, weights=[1, 2, 1])
    assert outcome.reward.member_spread == pytest.approx(variance**0.5)


def test_a_critic_has_no_spread_and_no_members(service: RewardServiceStub) -> None:
    (outcome,) = score(service, "a", "seven").outcomes
    assert not outcome.reward.HasField("member_spread")
    assert not outcome.reward.members


def test_the_distribution_asked_for_is_each_members(service: RewardServiceStub) -> None:
    (outcome,) = score(service, "minimum", "seven", include_distribution=True).outcomes
    for member in outcome.reward.members:
        alone = score(service, member.model, "seven", include_distribution=True).outcomes[0].reward
        assert member.reward.distribution
        assert member.reward == alone


def test_a_trainer_asks_for_it_as_one_model(server: Server, service: RewardServiceStub) -> None:
    answers = ["one", "two", "three"]
    wanted = values(score(service, "penalised", *answers, prompt=[turn("Why?")]))
    trained_with = AdjudgeReward(f"127.0.0.1:{server.port}", model="penalised")
    assert trained_with(["Why?"] * 3, answers) == wanted
    with RewardClient(f"127.0.0.1:{server.port}") as client:
        result = client.score("Why?", answers, model="penalised", expected_epoch=3)
        info = client.model("penalised")
    assert list(result.rewards) == wanted
    (first, *_) = result.outcomes
    assert isinstance(first, Reward)
    assert first.member_spread is not None and first.standard_deviation is None
    assert [member.model for member in first.members] == ["a", "b", "c"]
    assert [member.weights_epoch for member in result.provenance.members] == [0, 1, 2]
    assert info.name == "penalised"
    assert {"a", "b", "c", "head", "weighted", "penalised"} <= set(info.served_models)


# Who it is ----------------------------------------------------------------------------------------


def test_it_describes_itself_as_one_model(service: RewardServiceStub) -> None:
    found = described(service, "penalised")
    assert (found.name, found.family) == ("penalised", "ensemble")
    assert list(found.capabilities) == [pb.CAPABILITY_SCORE, pb.CAPABILITY_IMAGES]
    (template,) = found.templates
    assert template.reward_kind == pb.REWARD_KIND_ENSEMBLE
    assert template.accepts_prompt_text and not template.accepts_reference
    ensemble = found.ensemble
    assert ensemble.combination == pb.COMBINATION_SPREAD_PENALISED
    assert (ensemble.penalty, ensemble.spread) == (0.5, "standard-deviation")
    assert [member.model for member in ensemble.members] == ["a", "b", "c"]
    assert [member.weight for member in ensemble.members] == [1, 2, 1]
    assert {member.template for member in ensemble.members} == {"embedded/pointwise"}
    assert not found.HasField("noise_floor") and not found.HasField("self_check")
    assert found.limits.max_input_tokens == described(service, "a").limits.max_input_tokens
    minimum = described(service, "minimum").ensemble
    assert not any(member.HasField("weight") for member in minimum.members)
    assert not minimum.HasField("penalty")


def test_a_member_without_a_range_leaves_none(service: RewardServiceStub) -> None:
    (template,) = described(service, "safe").templates
    assert not template.HasField("min_reward")
    assert not template.HasField("max_reward")


def test_its_epoch_is_the_sum_and_its_provenance_names_the_members(
    service: RewardServiceStub,
) -> None:
    told = score(service, "penalised", "seven").provenance
    members = [described(service, critic) for critic in "abc"]
    assert [member.weights_epoch for member in members] == [0, 1, 2]
    assert (told.model, told.weights_epoch) == ("penalised", 3)
    assert told.model_fingerprint == described(service, "penalised").fingerprint
    assert told.template_hash == described(service, "penalised").templates[0].hash
    assert [m.model for m in told.members] == ["a", "b", "c"]
    for said, member in zip(told.members, members, strict=True):
        assert said.model_fingerprint == member.fingerprint
        assert said.weights_epoch == member.weights_epoch
        assert said.template_hash == member.templates[0].hash
    alone = [score(service, critic, "seven").provenance for critic in "abc"]
    assert told.input_tokens == sum(each.input_tokens for each in alone)
    assert told.computed_tokens == sum(each.computed_tokens for each in alone)


def test_ensembles_of_other_members_or_other_numbers_have_other_fingerprints(
    service: RewardServiceStub,
) -> None:
    names = ["weighted", "minimum", "penalised", "uwo", "safe", "blind"]
    models = [described(service, name) for name in names]
    assert len({model.fingerprint for model in models}) == len(names)
    assert len({model.templates[0].hash for model in models}) == len(names)


# Refusals and failures ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [compare_request("a", "b", model="weighted"), critique_request("a", model="weighted")],
    ids=["compare", "critique"],
)
def test_it_scores_and_does_nothing_else(service: RewardServiceStub, request_: Any) -> None:
    found = refusal(service, request_)
    assert (found.code, found.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "UNSUPPORTED_OPERATION",
    )
    assert found.field == "model"


def test_it_has_its_own_template_and_no_other(service: RewardServiceStub) -> None:
    (template,) = described(service, "weighted").templates
    plain = values(score(service, "weighted", "seven"))
    assert values(score(service, "weighted", "seven", template=template.name)) == plain
    found = refusal(service, score_request("a", model="weighted", template="embedded/pointwise"))
    assert found.reason == "UNKNOWN_TEMPLATE"


def test_pictures_are_for_those_who_are_to_see_them(service: RewardServiceStub) -> None:
    prompt = [turn("What is it?", encoded(noise(20, 20)))]
    response = score(service, "safe", "seven", prompt=prompt)
    (outcome,) = response.outcomes
    by_model = {member.model: member.reward.reward for member in outcome.reward.members}
    assert by_model["a"] == values(score(service, "a", "seven", prompt=prompt))[0]
    blind = values(score(service, "head", "seven", prompt=[turn("What is it?")]))[0]
    assert by_model["head"] == pytest.approx(blind, abs=1e-5)
    assert outcome.reward.reward == min(by_model["a"], 10 * by_model["head"] + 50)
    assert response.provenance.image_tokens == 16


def test_whoever_is_not_told_to_leave_pictures_out_refuses_them_by_name(
    service: RewardServiceStub,
) -> None:
    prompt = [turn("What is it?", encoded(noise(20, 20)))]
    found = refusal(service, score_request("seven", model="blind", prompt=prompt))
    assert found.reason == "UNSUPPORTED_CONTENT"
    assert (found.field, found.metadata["member"]) == ("prompt[0].parts[1]", "head")
    assert pb.CAPABILITY_IMAGES not in described(service, "blind").capabilities
    assert pb.CAPABILITY_IMAGES in described(service, "safe").capabilities
    assert values(score(service, "blind", "seven"))


def test_a_reference_that_one_member_has_no_place_for_is_refused(
    service: RewardServiceStub,
) -> None:
    found = refusal(service, score_request("a", model="weighted", reference="seven"))
    assert (found.reason, found.metadata["member"]) == ("UNSUPPORTED_CONTENT", "a")


def failing(name: str, text: str) -> Any:
    """A fake's answers, which fail for the critic of that name where a candidate is that text."""
    honest = FakeCritic._answers

    def answers(self: FakeCritic, query: Query) -> NDArray[np.float64]:
        if self.card.name == name and text in query.candidates:
            raise RuntimeError("poison")
        return honest(self, query)

    return answers


def item_failure(outcome: pb.ScoreOutcome) -> Failure:
    return failure(outcome.error)


@pytest.mark.parametrize("ensemble", ["weighted", "minimum", "penalised", "uwo"])
def test_a_member_that_fails_an_item_fails_that_item_and_no_other(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch, ensemble: str
) -> None:
    sound = values(score(service, ensemble, "one", "two"))
    monkeypatch.setattr(FakeCritic, "_answers", failing("b", "poison"))
    first, bad, last = score(service, ensemble, "one", "poison", "two").outcomes
    assert [first.reward.reward, last.reward.reward] == sound
    found = item_failure(bad)
    assert (found.reason, found.metadata["member"]) == ("CRITIC_FAILURE", "b")


def test_what_a_member_cannot_take_fails_its_item_by_place_and_member(
    launch: Launch, tmp_path: Path
) -> None:
    source = """
    [[critic]]
    name = "large"
    family = "fake"
    [[critic]]
    name = "small"
    family = "fake"
    max_input_tokens = 300
    [[ensemble]]
    name = "both"
    combine = "minimum"
    member = [{ critic = "large" }, { critic = "small" }]
    """
    with stub(serve(launch, tmp_path, source)) as service:
        short, long = score(service, "both", "a", "word " * 1000).outcomes
        assert short.reward.HasField("reward")
        found = item_failure(long)
        assert (found.reason, found.field, found.metadata["member"]) == (
            "INPUT_TOO_LONG",
            "candidates[1]",
            "small",
        )
        assert described(service, "both").limits.max_input_tokens == 300


def test_a_malformed_candidate_is_no_members_fault(service: RewardServiceStub) -> None:
    request = score_request("a", model="weighted")
    request.candidates.append(pb.Candidate(parts=[pb.Part()]))
    sound, bad = service.ScoreCandidates(request, timeout=PATIENCE).outcomes
    assert sound.reward.HasField("reward")
    found = item_failure(bad)
    assert (found.reason, found.field) == ("INVALID_REQUEST", "candidates[1].parts[0]")
    assert "member" not in found.metadata


# Threads, deadlines, cancellation -----------------------------------------------------------------


class Held:
    """Fakes that wait for the test where their name says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.release = threading.Event()
        self.waiting: set[str] = set()
        self.computed: list[str] = []
        """Candidates that were looked at."""
        honest = FakeCritic._answers

        def answers(critic: FakeCritic, query: Query) -> NDArray[np.float64]:
            if critic.card.name in names:
                self.waiting.add(critic.card.name)
                self.release.wait(PATIENCE)
            self.computed += query.candidates
            return honest(critic, query)

        monkeypatch.setattr(FakeCritic, "_answers", answers)


def test_members_are_asked_at_the_same_time(
    service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, "a", "b", "c")
    try:
        call = service.ScoreCandidates.future(
            score_request("x", model="penalised"), timeout=PATIENCE
        )
        wait_until(lambda: held.waiting == {"a", "b", "c"})
    finally:
        held.release.set()
    assert call.result(PATIENCE).outcomes[0].reward.HasField("reward")


@pytest.mark.parametrize("ends", ["deadline", "cancelled"])
def test_whoever_gives_up_takes_what_waits_out_of_every_members_queue(
    server: Server, service: RewardServiceStub, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    held = Held(monkeypatch, "a", "b")
    batchers = [resident(server, name).batcher for name in "ab"]
    try:
        first = [service.ScoreCandidates.future(score_request("x", model=n)) for n in "ab"]
        wait_until(lambda: held.waiting == {"a", "b"})
        timeout = 0.3 if ends == "deadline" else PATIENCE
        call = service.ScoreCandidates.future(
            score_request("given up", model="weighted"), timeout=timeout
        )
        wait_until(lambda: all(b is not None and b.queued_tokens for b in batchers))
        if ends == "cancelled":
            call.cancel()
            wait_until(lambda: all(b._queue.next.future.cancelled() for b in batchers if b))
        else:
            error = call.exception(PATIENCE)
            assert isinstance(error, grpc.RpcError)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        held.release.set()
    for other in first:
        other.result(PATIENCE)
    wait_until(lambda: not any(b and b.queued_tokens for b in batchers))
    assert "given up" not in held.computed


def test_a_full_queue_of_one_member_refuses_the_call_and_says_whose(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
    [[critic]]
    name = "wide"
    family = "fake"
    [[critic]]
    name = "narrow"
    family = "fake"
    max_queue_tokens = 1
    [[ensemble]]
    name = "both"
    combine = "minimum"
    member = [{ critic = "wide" }, { critic = "narrow" }]
    """
    server = serve(launch, tmp_path, source)
    held = Held(monkeypatch, "narrow")
    with stub(server) as service:
        try:
            waiting = [service.ScoreCandidates.future(score_request("x", model="narrow"))]
            wait_until(lambda: "narrow" in held.waiting)
            waiting.append(service.ScoreCandidates.future(score_request("y", model="narrow")))
            narrow = resident(server, "narrow").batcher
            wait_until(lambda: narrow and narrow.queued_tokens)
            found = refusal(service, score_request("z", model="both"))
            assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL")
            assert found.metadata["member"] == "narrow"
            prepared: list[Any] = []
            monkeypatch.setattr(queries, "ask", lambda *given: prepared.append(given))
            again = refusal(service, score_request("z", model="both"))
            assert (again.reason, again.metadata["member"]) == ("QUEUE_FULL", "narrow")
            assert prepared == [], "who is refused again is not even read"
            monkeypatch.undo()
            wide = score(service, "wide", "z")
            assert values(wide), "who is asked alone has room"
        finally:
            held.release.set()
        for call in waiting:
            assert values(call.result(PATIENCE))


# Epochs -------------------------------------------------------------------------------------------

TWO = """
[[critic]]
name = "a"
family = "fake"
max_batch_tokens = 1
[[critic]]
name = "b"
family = "fake"
max_batch_tokens = 1
[[ensemble]]
name = "both"
combine = "weighted"
member = [{ critic = "a" }, { critic = "b", scale = 0.37 }]
"""
"""Whose items are a batch each, so that weights move in the middle of requests."""


def test_an_expected_epoch_is_the_ensembles_own(launch: Launch, tmp_path: Path) -> None:
    server = serve(launch, tmp_path, TWO)
    with stub(server) as service:
        before = described(service, "both")
        assert before.weights_epoch == 0
        assert values(score(service, "both", "x", expected_epoch=0))
        for number, (critic, weights) in enumerate([("b", "x"), ("a", "y"), ("b", "z")], 1):
            move(server, critic, tmp_path / weights)
            after = described(service, "both")
            assert after.weights_epoch == number
            assert after.fingerprint != before.fingerprint
            assert after.templates == before.templates
            found = refusal(service, score_request("x", model="both", expected_epoch=number - 1))
            assert (found.reason, found.metadata["expected"], found.metadata["actual"]) == (
                "WRONG_EPOCH",
                str(number - 1),
                str(number),
            )
            response = score(service, "both", "x", expected_epoch=number)
            assert response.provenance.weights_epoch == number
            assert response.provenance.model_fingerprint == after.fingerprint
            before = after
        assert found.field == "expected_epoch"


def test_while_weights_move_each_response_is_of_one_epoch_of_all_its_members(
    launch: Launch, tmp_path: Path
) -> None:
    server = serve(launch, tmp_path, TWO)
    moves = [("a", "u"), ("b", "v"), ("b", "u"), ("a", "w"), ("b", "w"), ("a", "v")] * 4
    candidates = [f"It is a {number}." for number in range(12)]
    states: list[list[float]] = []
    """The rewards of each epoch, made of the members' own."""
    answers: list[pb.ScoreCandidatesResponse] = []
    wrong: list[Failure] = []
    stopping = threading.Event()

    def keep_asking(number: int) -> None:
        with stub(server) as service:
            while not stopping.is_set():
                fields = {"expected_epoch": described(service, "both").weights_epoch}
                try:
                    named = fields if number % 2 else {}
                    answers.append(score(service, "both", *candidates, **named))
                except grpc.RpcError as error:
                    wrong.append(call_failure(error))

    def state(service: RewardServiceStub) -> list[float]:
        a, b = (np.array(values(score(service, critic, *candidates))) for critic in "ab")
        return list((a + 0.37 * b) / 2)

    with stub(server) as service, ThreadPoolExecutor() as pool:
        asking = [pool.submit(keep_asking, number) for number in range(4)]
        try:
            states.append(state(service))
            for critic, weights in moves:
                seen = len(answers)
                move(server, critic, tmp_path / weights)
                states.append(state(service))
                wait_until(lambda seen=seen: len(answers) > seen)
        finally:
            stopping.set()
        for future in asking:
            future.result(PATIENCE)
    assert {failure_.reason for failure_ in wrong} <= {"WRONG_EPOCH"}
    assert len({tuple(rewards) for rewards in states}) > 6, "the moves can be told apart"
    epochs = {answer.provenance.weights_epoch for answer in answers}
    assert len(epochs) > len(moves) / 2
    for answer in answers:
        told = answer.provenance
        assert values(answer) == pytest.approx(states[told.weights_epoch], abs=TOLERANCE)
        assert told.weights_epoch == sum(member.weights_epoch for member in told.members)


def test_weights_that_move_between_two_members_make_the_whole_be_asked_anew(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a answers in epoch 0 and moves; of b one item comes before its own move and one after it. An
    answer of a's old and b's new weights would be one that the ensemble never had."""
    server = serve(launch, tmp_path, TWO)
    a, b = (resident(server, name) for name in "ab")
    with stub(server) as service:
        release, taken = threading.Event(), threading.Event()
        assert b.batcher is not None and a.batcher is not None
        b.batcher.call(lambda: (taken.set(), release.wait(PATIENCE)))
        assert taken.wait(PATIENCE)
        try:
            with ThreadPoolExecutor() as pool:
                moving = pool.submit(move, server, "b", tmp_path / "new b")
                wait_until(lambda: b.batcher._tasks)
                call = service.ScoreCandidates.future(
                    score_request("x", "y", model="both"), timeout=PATIENCE
                )
                wait_until(lambda: b.batcher.queued_tokens and not a.batcher.queued_tokens)
                move(server, "a", tmp_path / "new a")
                release.set()
                moving.result(PATIENCE)
                answer = call.result(PATIENCE)
        finally:
            release.set()
        assert answer.provenance.weights_epoch == 2
        assert [member.weights_epoch for member in answer.provenance.members] == [1, 1]
        one, other = (np.array(values(score(service, critic, "x", "y"))) for critic in "ab")
    assert values(answer) == pytest.approx(list((one + 0.37 * other) / 2))


def test_the_weights_of_an_ensemble_are_moved_by_its_critics_names(
    server: Server, folder: Path
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        move(server, "weighted", folder / "elsewhere")
    found = call_failure(caught.value)
    assert (found.reason, found.field) == ("UNSUPPORTED_OPERATION", "model")
