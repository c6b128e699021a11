"""A client's results are those of one model: endpoints with different critics are an error, not
rewards of either by turns."""

import asyncio
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_reranker import AsyncRewardClient, RewardClient, ServerFault
from adjudge_reranker.one_model import OneModel
from adjudge_reranker.trainers.failures import OnFailure
from adjudge_reranker.trainers.trl import AdjudgeReward
from adjudge_reranker.types import Provenance
from tests.conftest import Launch

PROMPTS = [f"Question {number}?" for number in range(20)]
"""So many that each of two servers is asked about some."""


@pytest.fixture(scope="module")
def different(launch: Launch) -> list[str]:
    critics = {"one": "fake", "other": "auto"}
    return [f"127.0.0.1:{launch(critic=c, name=n).port}" for n, c in critics.items()]


def test_the_same_weights_under_two_names_are_one_model(launch: Launch) -> None:
    both = [f"127.0.0.1:{launch(critic='fake', name=name).port}" for name in ("here", "there")]
    with RewardClient(both) as client:
        found = {client.score(prompt, ["a"]).provenance.model for prompt in PROMPTS}
    assert found == {"here", "there"}


@pytest.mark.parametrize("on_failure", list(OnFailure))
def test_a_trainer_does_not_go_on_or_wait(different: list[str], on_failure: OnFailure) -> None:
    with RewardClient(different) as client:
        reward = AdjudgeReward(client, on_failure=on_failure, max_wait_seconds=60.0)
        with pytest.raises(ServerFault, match="different models"):
            for prompt in PROMPTS:
                reward([prompt], ["a"])


def score(client: RewardClient, prompt: str) -> None:
    client.score(prompt, ["a", "b"])


def compare(client: RewardClient, prompt: str) -> None:
    client.compare(prompt, ["a", "b"], [(0, 1)])


def critique(client: RewardClient, prompt: str) -> None:
    for _ in client.critique(prompt, ["a"]):
        pass


def mixes(ask: Callable[[RewardClient, str], None], client: RewardClient) -> bool:
    with pytest.raises(ServerFault) as mixed:
        for prompt in PROMPTS:
            ask(client, prompt)
    metadata = mixed.value.metadata
    return metadata["field"] == "model" and {metadata["expected"], metadata["actual"]} == {
        "one",
        "other",
    }


@pytest.mark.parametrize("ask", [score, compare, critique])
def test_endpoints_of_different_models_are_a_fault(
    ask: Callable[[RewardClient, str], None], different: list[str]
) -> None:
    with RewardClient(different) as client:
        assert mixes(ask, client)
        again = pickle.loads(pickle.dumps(client))
    with again:
        assert mixes(ask, again)


@pytest.mark.parametrize("kind", ["score", "compare", "critique"])
def test_the_asyncio_client_says_so_too(kind: str, different: list[str]) -> None:
    async def ask() -> None:
        async with AsyncRewardClient(different) as client:
            for prompt in PROMPTS:
                if kind == "score":
                    await client.score(prompt, ["a"])
                elif kind == "compare":
                    await client.compare(prompt, ["a", "b"], [(0, 1)])
                else:
                    _ = [event async for event in client.critique(prompt, ["a"])]

    with pytest.raises(ServerFault, match="different models"):
        asyncio.run(ask())


def test_several_models_by_their_names_are_no_mixture(launch: Launch, tmp_path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        "".join(f'[[critic]]\nname = "{name}"\nfamily = "fake"\n' for name in ("a", "b"))
    )
    with RewardClient(f"127.0.0.1:{launch(models=path).port}") as client:
        for _ in range(2):
            assert client.score("Why?", ["x"]).provenance.model == "a"
            for name in ("a", "b"):
                assert client.score("Why?", ["x"], model=name).provenance.model == name


def of(model: str, fingerprint: str = "f", epoch: int = 0) -> Provenance:
    return Provenance(model, fingerprint, epoch, "template", "hash")


RESULTS = st.lists(st.tuples(*(st.sampled_from(" ab"),) * 2, st.sampled_from("123")))


@given(RESULTS)
def test_weights_may_move_or_go_by_another_name_but_not_both(
    results: list[tuple[str, str, str]],
) -> None:
    one_model = OneModel()
    known: dict[str, dict[str, str]] = {}
    for asked, name, fingerprint in results:
        names = known.get(asked, {})
        if not names or name in names or fingerprint in names.values():
            one_model.check(asked, of(name, fingerprint))
            known[asked] = names | {name: fingerprint}
        else:
            with pytest.raises(ServerFault):
                one_model.check(asked, of(name, fingerprint))


def test_who_says_no_name_is_not_judged_by_it() -> None:
    one_model = OneModel()
    for name in ("a", "", "a"):
        one_model.check("", of(name, "f" + name))


def test_of_threads_that_ask_at_once_all_but_one_models_are_told() -> None:
    for _ in range(50):
        one_model, start = OneModel(), threading.Barrier(8)

        def ask(number: int, one_model: OneModel = one_model, start=start) -> str | None:
            start.wait(20)
            try:
                one_model.check("", of(f"model {number % 4}", f"f{number % 4}"))
            except ServerFault:
                return None
            return f"model {number % 4}"

        with ThreadPoolExecutor(8) as threads:
            taken = [name for name in threads.map(ask, range(8)) if name]
        assert len(taken) == 2 and len(set(taken)) == 1
