"""Which templates a model is asked with, and a user's own: read, refused, asked by a server."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_reranker import Comparison, CritiqueVerdict, RewardClient
from adjudge_server.config import Config
from adjudge_server.loading import load_critic
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.template_sets import (
    choose_templates,
    read_own_templates,
    set_for,
    set_names,
    templates_of,
)
from adjudge_server.templates import Kind
from tests.conftest import CROSS, SEVEN, Launch, stub
from tests.server import checkpoints
from tests.server.test_service import (
    call_failure,
    compare_request,
    critique_request,
    score_request,
)

OWN = """
[[template]]
name = "mine/pointwise"
version = 7
kind = "pointwise"
text = "Rate [{candidate}] as an answer to [{prompt}]; right is [{reference}].\\n"
opening = "Rating: "
other_openings = ["I rate it "]
scores = { lowest = 1, highest = 5 }
terminators = ["."]
verdict = "last"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    return path


# Which set ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["embedded"], "embedded"),
        (["llava-critic-7b"], "llava-critic"),
        (["LLaVA-Critic-R1-7B"], "llava-critic-r1"),
        (["0f5a", "llava-critic-r1-7b-plus"], "llava-critic-r1"),
        (["checkpoint-900", "UnifiedReward-7b-v1.5"], "unified-reward"),
        (["UnifiedReward-qwen-7b"], "unified-reward-qwen"),
        (["UnifiedReward-Think-7b"], "unified-reward-think"),
        (["unified-reward-2.0-think-qwen"], "unified-reward-think"),
        (["R1-Reward"], "r1-reward"),
        (["my-model"], "llava-critic"),
        (["my-embedded-model", ""], "llava-critic"),
        ([], "llava-critic"),
    ],
)
def test_the_set_goes_by_the_models_name_and_the_longest_pattern_wins(
    names: list[str], expected: str
) -> None:
    assert set_for(names) == expected


OTHERS = ["UnifiedReward-Edit-qwen-7b", "unified-reward-flex-8b", "UnifiedReward-Think-qwen3vl-8b"]


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_that_only_looks_like_one_of_a_set_gets_none(name: str, own: Path) -> None:
    assert set_for(["checkpoint-900", name]) is None
    with pytest.raises(ValueError, match=r"--templates.*--template-set"):
        choose_templates("auto", [name])
    mine = read_own_templates(own)
    assert choose_templates("auto", [name], mine) == mine
    assert choose_templates("unified-reward", [name]) == templates_of("unified-reward")


def test_a_model_that_no_set_is_for_is_not_loaded_without_templates(tmp_path: Path) -> None:
    model = tmp_path / OTHERS[0]
    checkpoints.write_checkpoint(model, checkpoints.tiny_tokenizer(), grids=[[56, 56]])
    with pytest.raises(ValueError, match="no templates ship") as error:
        load_critic(Config(model=model))
    assert str(model) in str(error.value)
    critic = load_critic(Config(model=model, template_set="unified-reward"))
    assert critic.card.templates == templates_of("unified-reward")


def test_the_name_in_the_configuration_counts_as_that_of_the_directory_does(
    tmp_path: Path,
) -> None:
    tokenizer = checkpoints.tiny_tokenizer()
    checkpoints.write_checkpoint(tmp_path / "epoch-3", tokenizer, grids=[[56, 56]])
    config = tmp_path / "epoch-3" / "config.json"
    for name, expected in (("lmms-lab/UnifiedReward-7b", "unified-reward"), ("x", "llava-critic")):
        text = config.read_text(encoding="utf-8").rstrip().removesuffix("}")
        config.write_text(f'{text}, "_name_or_path": "{name}"}}', encoding="utf-8")
        critic = load_critic(Config(model=tmp_path / "epoch-3"))
        assert critic.card.templates == templates_of(expected)


def test_the_embedded_critic_gets_its_own_set_and_any_other_on_demand() -> None:
    assert load_critic(Config()).card.templates == templates_of("embedded")
    critic = load_critic(Config(template_set="llava-critic"))
    assert critic.card.templates == templates_of("llava-critic")


def test_an_unknown_set_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="--template-set gpt") as error:
        Config(template_set="gpt")
    assert all(name in str(error.value) for name in ("auto", *set_names()))


# A user's own -------------------------------------------------------------------------------------


def test_own_templates_come_first_and_the_others_stay(own: Path) -> None:
    mine = read_own_templates(own)
    chosen = choose_templates("auto", ["embedded"], mine)
    assert chosen == (*mine, *templates_of("embedded"))
    critic = load_critic(Config(critic="fake", templates=own))
    assert critic.card.default_template(Kind.POINTWISE) == mine[0]
    assert critic.card.default_template(Kind.PAIRWISE) == templates_of("embedded")[1]


def test_two_templates_of_one_name_are_refused_by_it(own: Path) -> None:
    own.write_text(OWN.replace("mine/pointwise", "embedded/pointwise"), encoding="utf-8")
    with pytest.raises(ValueError, match="'embedded/pointwise'"):
        load_critic(Config(critic="fake", templates=own))
    own.write_text(OWN + OWN, encoding="utf-8")
    with pytest.raises(ValueError, match="'mine/pointwise'"):
        load_critic(Config(critic="fake", templates=own))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        (b"[[template", "Expected"),
        (b"\xff\xfe", "not UTF-8: line 1 has the byte 0xff"),
        (b"", "there are none"),
        (OWN.replace("version", "verison").encode(), "mine/pointwise"),
    ],
    ids=["missing", "no TOML", "no text", "empty", "a typo"],
)
def test_a_file_that_is_none_is_refused_by_flag_file_and_template(
    own: Path, content: bytes | None, complaint: str
) -> None:
    own.unlink() if content is None else own.write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_critic(Config(critic="fake", templates=own))
    assert f"--templates {own}: " in str(error.value)
    assert complaint in str(error.value)


def test_a_template_that_the_tokenizer_cannot_carry_is_refused_by_name(own: Path) -> None:
    ambiguous = OWN.replace('terminators = ["."]', 'terminators = ["0"]').replace(
        "highest = 5", "highest = 10"
    )
    own.write_text(ambiguous, encoding="utf-8")
    with pytest.raises(Misconfigured, match="'mine/pointwise'"):
        load_critic(Config(templates=own))


@pytest.fixture(scope="module")
def service(
    launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RewardServiceStub]:
    """The embedded critic with the user's template and those of LLaVA-Critic."""
    path = tmp_path_factory.mktemp("own") / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    with stub(launch(templates=path, template_set="llava-critic")) as service:
        yield service


def test_get_model_tells_all_of_an_own_template(service: RewardServiceStub) -> None:
    described = service.GetModel(pb.GetModelRequest()).model
    mine = described.templates[0]
    assert (mine.name, mine.version, mine.opening) == ("mine/pointwise", 7, "Rating: ")
    assert list(mine.other_openings) == ["I rate it "]
    assert (mine.min_reward, mine.max_reward) == (1, 5)
    assert mine.text == ("Rate [{candidate}] as an answer to [{prompt}]; right is [{reference}].\n")
    assert mine.accepts_prompt_text and mine.accepts_reference and not mine.accepts_rubric
    assert mine.verdict_place == pb.VERDICT_PLACE_LAST
    assert mine.reward_kind == pb.REWARD_KIND_EXPECTED_SCORE
    others = {t.name: t for t in described.templates[1:]}
    assert others["llava-critic/yes-no"].reward_kind == pb.REWARD_KIND_LOG_ODDS
    assert not others["llava-critic/yes-no"].HasField("min_reward")
    assert not others["llava-critic/caption"].accepts_prompt_text
    assert not others["llava-critic/pairwise"].HasField("reward_kind")


def test_an_own_template_is_the_default_and_is_asked(service: RewardServiceStub) -> None:
    response = service.ScoreCandidates(score_request("7", reference="7"))
    assert response.provenance.template == "mine/pointwise"
    (outcome,) = response.outcomes
    kind = outcome.WhichOneof("outcome")
    # The embedded critic was never taught this format: it may say so, but nothing else.
    assert kind == "error" or 1 <= outcome.reward.reward <= 5
    named = score_request("7", template="llava-critic/pointwise")
    assert service.ScoreCandidates(named).outcomes[0].reward.reward >= 0


def test_the_slots_of_an_own_template_are_asked_for(service: RewardServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as error:
        service.ScoreCandidates(score_request("7"))
    assert call_failure(error.value).field == "reference"


# Templates of other kinds, through a server -------------------------------------------------------


@pytest.fixture(scope="module")
def fake(launch: Launch) -> Iterator[RewardServiceStub]:
    with stub(launch(critic="fake", template_set="llava-critic")) as service:
        yield service


def caption_request(text: str) -> pb.ScoreCandidatesRequest:
    request = score_request("A seven.", template="llava-critic/caption")
    del request.prompt[0].parts[:]
    image = pb.Image(raw=pb.RawPixels(mode=pb.PIXEL_MODE_L, width=1, height=1, data=b"\0"))
    request.prompt[0].parts.add(image=image)
    request.prompt[0].parts.add(text=text)
    return request


def test_a_prompt_of_pictures_is_enough_where_its_text_has_no_place(
    fake: RewardServiceStub,
) -> None:
    (outcome,) = fake.ScoreCandidates(caption_request("")).outcomes
    assert 0 <= outcome.reward.reward <= 100


def test_a_prompts_text_without_a_place_is_refused_and_not_ignored(
    fake: RewardServiceStub,
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        fake.ScoreCandidates(caption_request("Describe it."))
    found = call_failure(error.value)
    assert (found.reason, found.field) == ("UNSUPPORTED_CONTENT", "prompt")


def test_log_odds_come_without_the_statistics_of_scores(fake: RewardServiceStub) -> None:
    request = caption_request("")
    request.template = "llava-critic/yes-no"
    request.include_distribution = True
    (outcome,) = fake.ScoreCandidates(request).outcomes
    assert outcome.reward.HasField("reward")
    assert not outcome.reward.HasField("mode")
    assert not outcome.reward.HasField("standard_deviation")
    assert [share.answer for share in outcome.reward.distribution] == ["yes", "no"]


def test_every_template_of_the_set_answers_directly_and_after_a_critique(
    fake: RewardServiceStub,
) -> None:
    described = fake.GetModel(pb.GetModelRequest()).model
    for template in described.templates:
        fields = {"template": template.name}
        if template.accepts_reference:
            fields["reference"] = "7"
        pairs = [(0, 1)] if template.kind == pb.TEMPLATE_KIND_PAIRWISE else []
        direct = compare_request("a", "b", **fields) if pairs else score_request("a", **fields)
        critique = critique_request("a", *(["b"] if pairs else []), pairs=pairs, **fields)
        if not template.accepts_prompt_text:
            del direct.prompt[0].parts[:], critique.prompt[0].parts[:]
            direct.prompt[0].parts.add(text="")
            critique.prompt[0].parts.add(text="")
        if pairs:
            (outcome,) = fake.CompareCandidates(direct).outcomes
        else:
            (outcome,) = fake.ScoreCandidates(direct).outcomes
        assert outcome.WhichOneof("outcome") in ("reward", "comparison"), template.name
        events = [event.WhichOneof("event") for event in fake.CritiqueCandidates(critique)]
        assert ("comparison" if pairs else "reward") in events, template.name


NESTED = """
[[template]]
name = "mine/nested"
version = 1
kind = "pairwise"
text = '''{text}'''
opening = ""
terminators = [".", "\\n"]
readouts = ["after-critique"]
verdict = "{place}"
[template.verdicts]
first = ["The first response is better"]
second = ["The second response is better"]
tie = ["first", "second", "response", "better. The"]
"""


@pytest.mark.parametrize("place", ["first", "start"])
def test_a_verdict_is_read_where_it_begins_although_a_part_of_it_is_one(
    launch: Launch, tmp_path: Path, place: str
) -> None:
    """The embedded critic writes "The first response is better.", one token at a time."""
    path = tmp_path / "nested.toml"
    path.write_text(NESTED.format(text=templates_of("embedded")[1].text, place=place))
    verdicts = []
    with RewardClient(f"127.0.0.1:{launch(templates=path).port}") as client:
        for template in ("mine/nested", "embedded/pairwise"):
            events = client.critique(
                [SEVEN, "What this image presents?"],
                ["This is a handwritten number seven.", CROSS],
                [(0, 1)],
                template=template,
                max_critique_tokens=24,
            )
            (verdict,) = (e.outcome for e in events if isinstance(e, CritiqueVerdict))
            assert isinstance(verdict, Comparison)
            verdicts.append(verdict)
    nested, plain = verdicts
    assert nested.margin == pytest.approx(plain.margin, abs=1e-3)
    assert nested.first_probability is not None and nested.first_probability > 0.9


@pytest.mark.parametrize("line", ["version = 5000000000", "min_valid_mass = nan"])
def test_a_server_does_not_start_with_a_template_that_makes_no_sense(line: str, own: Path) -> None:
    """Or GetModel would fail for good, and nothing would ever be off the format."""
    replaced = line if line.startswith("version") else f"version = 7\n{line}"
    own.write_text(OWN.replace("version = 7", replaced))
    with pytest.raises(ValueError, match="'mine/pointwise': " + line.split()[0]):
        load_critic(Config(critic="fake", templates=own))
