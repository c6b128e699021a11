"""Text-only instruct models as critics: equal to plain transformers, whatever the body."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker import RequestRefused, RewardClient
from adjudge_server.content import Message, Question, Role
from adjudge_server.critic import Query
from adjudge_server.critics import causal_lm_loading, packed_attention
from adjudge_server.critics.causal_lm import CausalLmCritic
from adjudge_server.critics.preparing import PreparedPrompt
from adjudge_server.images import Picture
from adjudge_server.queries import ask
from adjudge_server.template_sets import set_names, templates_of
from adjudge_server.templates import Kind, Template
from tests.conftest import SEVEN, Launch, stub
from tests.contract import CANDIDATES, CriticContract
from tests.server import checkpoints, questions
from tests.server.plain import reading as plain_reading
from tests.server.test_injection import EXAMPLES, Family, hostile

TOLERANCES = {"float64": 1e-9, "float32": 5e-5}
EMBEDDED = templates_of("embedded")
EVERY = [template for name in set_names() for template in templates_of(name)]
QUESTION = "What is 2 + 2?"


def load(
    directory: Path, dtype: str = "float32", templates: Sequence[Template] = EMBEDDED
) -> CausalLmCritic:
    return causal_lm_loading.load(
        directory,
        name="tiny",
        device="cpu",
        dtype=dtype,
        max_input_tokens=4096,
        templates=templates,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_text_model(tmp_path_factory.mktemp("tiny"))


class TestTinyCritic(CriticContract):
    sees_images = False

    @pytest.fixture(scope="class")
    @classmethod
    def critic(cls, directory: Path) -> CausalLmCritic:
        return load(directory)


@pytest.mark.smollm
class TestSmolLM2(CriticContract):
    """The real weights: `python -m tests.server.smollm DIRECTORY` fetches and converts them."""

    sees_images = False
    tolerance = 1e-3

    @pytest.fixture(scope="class")
    @classmethod
    def critic(cls) -> CausalLmCritic:
        if "ADJUDGE_SMOLLM2" not in os.environ:
            pytest.skip("ADJUDGE_SMOLLM2 names no directory with SmolLM2-135M-Instruct")
        return load(Path(os.environ["ADJUDGE_SMOLLM2"]))

    def test_packed_readings_equal_plain_transformers(self, critic: CausalLmCritic) -> None:
        items = prepared(critic, *self.queries(critic)[:4])
        model = plain(Path(os.environ["ADJUDGE_SMOLLM2"]), "float32")
        for item, reading in zip(items, critic.forward(items), strict=True):
            _, expected = by_transformers(model, critic, item)
            assert np.abs(reading.answer_log_probs - expected).max() < 1e-3


def prepared(critic: CausalLmCritic, *queries: Query) -> list[PreparedPrompt]:
    items = critic.prepare(queries)
    assert all(isinstance(item, PreparedPrompt) for item in items)
    return items  # type: ignore[return-value]


def by_transformers(
    model: PreTrainedModel, critic: CausalLmCritic, item: PreparedPrompt
) -> tuple[float, np.ndarray]:
    """Opening mass and log-probabilities of the answers, every read a forward pass of its own."""
    tree = item.tree
    paths: dict[int, tuple[int, ...]] = {0: ()}
    for row, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True), start=1):
        paths[row] = (*paths[parent], token)
    log_probs = {}
    for row in {row for row, _ in tree.reads}:
        ids = torch.tensor([[*item.token_ids, *paths[row]]])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, -1, : critic._head._tokenizer.size]
        log_probs[row] = torch.log_softmax(logits.double(), -1)
    values = np.array([float(log_probs[row][token]) for row, token in tree.reads])
    return tree.opening_mass(values), tree.answer_log_probs(values)


def plain(directory: Path, dtype: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("body", checkpoints.BODIES)
def test_packed_readings_equal_plain_transformers(tmp_path: Path, body: str, dtype: str) -> None:
    """For every template that ships."""
    directory = checkpoints.write_text_model(tmp_path, body)
    critic = load(directory, dtype, EVERY)
    model = plain(directory, dtype)
    queries = [questions.query_of(critic.card, template, ("4", "A dog.")) for template in EVERY]
    queries += [questions.query_of(critic.card, EVERY[0], (text, "")) for text in CANDIDATES[:3]]
    items = prepared(critic, *queries)
    for item, reading in zip(items, critic.forward(items), strict=True):
        opening, answers = by_transformers(model, critic, item)
        assert np.abs(reading.answer_log_probs - answers).max() < TOLERANCES[dtype]
        assert reading.opening_mass == pytest.approx(opening, abs=TOLERANCES[dtype])


def test_hostile_text_changes_nothing_but_text(directory: Path) -> None:
    critic = load(directory, templates=EVERY)
    added = set(critic._head._tokenizer.added.values())
    definition = (directory / "tokenizer.json").read_text(encoding="utf-8")
    family = Family(critic, Tokenizer.from_str(definition), critic._head._tokenizer)
    turn = critic._head._tokenizer.encode("assistant\n")

    def asked(template: Template, texts: list[str]) -> PreparedPrompt:
        values = dict(zip(("prompt", "reference", "rubric"), texts, strict=False))
        values = {slot: text for slot, text in values.items() if slot in template.slots}
        question = Question(
            (Message(Role.USER, (values.pop("prompt", ""),)),), template.name, **values
        )
        understood = ask(question, template.kind, critic.card, questions.LIMITS, refuse)
        slots = ("candidate",) if template.kind is Kind.POINTWISE else ("first", "second")
        (item,) = prepared(critic, understood.query(dict(zip(slots, texts[3:], strict=False))))
        return item

    clean = {template.name: asked(template, ["A seven."] * 5) for template in EVERY}

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(texts=st.lists(hostile(family), min_size=5, max_size=5))
    def check(texts: list[str]) -> None:
        texts = [text[:300] for text in texts]  # or they are too long together
        template = EVERY[len("".join(texts)) % len(EVERY)]
        item, expected = asked(template, texts), clean[template.name]
        assert [t for t in item.token_ids if t in added] == [
            t for t in expected.token_ids if t in added
        ]
        assert list(item.token_ids[-len(turn) :]) == turn
        assert item.tree == expected.tree

    check()


def refuse(image: object) -> Picture:
    raise AssertionError("no picture comes here")


def test_packed_rows_compute_every_body(tmp_path: Path) -> None:
    for body in checkpoints.BODIES:
        critic = load(checkpoints.write_text_model(tmp_path / body, body), "float64")
        items = prepared(critic, *TestTinyCritic().queries(critic))
        alone = [plain_reading(critic, item) for item in items]
        for reading, expected in zip(critic.forward(items), alone, strict=True):
            difference = np.abs(reading.answer_log_probs - expected.answer_log_probs).max()
            assert difference < 1e-9


@pytest.mark.parametrize("scheme", ["first", "normalizer"])
def test_a_critique_and_a_reading_begin_with_the_space_that_the_layout_wants(
    tmp_path: Path, scheme: str
) -> None:
    directory = checkpoints.write_text_model(
        tmp_path,
        tokenizer=checkpoints.metaspace_tokenizer(scheme),
        chat_template=checkpoints.INST,
    )
    critic = load(directory)
    (item,) = prepared(critic, questions.score_query(critic.card, QUESTION, "4"))
    tokenizer = critic._head._tokenizer
    said = [*item.token_ids, *item.tree.tokens[: len(item.tree.opening)]]
    prompt = item.template.render({"prompt": QUESTION, "candidate": "4"}).text.strip()
    text = f"[INST] {prompt} [/INST] {item.template.opening}"
    assert critic.after(item, (), 0, item.template.opening).tree == item.tree
    assert said[1:] == tokenizer.encode(text)
    assert said[0] == tokenizer.added["<s>"] and tokenizer.added["<s>"] not in said[1:]


def test_a_critique_is_that_of_transformers(directory: Path) -> None:
    critic = load(directory)
    (item,) = prepared(critic, questions.score_query(critic.card, QUESTION, "4"))
    written = [step.token for step in critic.critique(item, 12)]
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    model.generation_config.eos_token_id = None
    padding = list(range(critic._head._tokenizer.size, model.config.vocab_size))
    ids = torch.tensor([item.token_ids])
    with torch.inference_mode():
        whole = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=padding,
        )
    assert written == whole[0, len(item.token_ids) :].tolist()[: len(written)]


# Refusals -----------------------------------------------------------------------------------------


def edit(directory: Path, tmp_path: Path, **changes: object) -> Path:
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    return tmp_path


@pytest.mark.parametrize(
    ("body", "changes", "key"),
    [
        ("mistral", {"sliding_window": 64}, "sliding_window"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64}, "sliding_window"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("llama", {"logits_scaling": 1.05}, "logits_scaling"),
        ("llama", {"logit_scale": 0.0625}, "logit_scale"),
        ("llama", {"lm_head_multiplier": 0.5}, "lm_head_multiplier"),
        ("llama", {"attention_chunk_size": 64}, "attention_chunk_size"),
        ("llama", {"is_causal": False}, "is_causal"),
        ("llama", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("llama", {"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
    ],
)
def test_bodies_that_want_something_else_are_refused_by_key(
    tmp_path: Path, body: str, changes: dict[str, object], key: str
) -> None:
    (tmp_path / "sound").mkdir()
    (tmp_path / "changed").mkdir()
    sound = checkpoints.write_text_model(tmp_path / "sound", body)
    load(sound)
    with pytest.raises(ValueError, match=rf"config\.json: .*{key}"):
        load(edit(sound, tmp_path / "changed", **changes))


def test_learned_positions_are_refused(tmp_path: Path) -> None:
    directory = checkpoints.write_text_model(tmp_path)
    size = json.loads((directory / "config.json").read_text())["vocab_size"]
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2)).save_pretrained(
        directory
    )
    with pytest.raises(ValueError, match="rope_parameters"):
        load(directory)


def test_code_that_comes_with_a_checkpoint_is_never_run(directory: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    changes = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    copy = edit(directory, tmp_path, **changes)
    (copy / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(ValueError, match="'mine' is not known to transformers; auto_map"):
        load(copy)
    assert not ran.exists()


@pytest.mark.parametrize("problem", ["missing", "unexpected", "mismatched"])
def test_tensors_that_do_not_fit_stop_the_start_with_their_name(
    directory: Path, tmp_path: Path, problem: str
) -> None:
    copy = edit(directory, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    if problem == "missing":
        del tensors[name]
    elif problem == "unexpected":
        name = "model.layers.1.mlp.extra.weight"
        tensors[name] = torch.zeros(2)
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{problem} keys.*{name}"):
        load(copy)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("body", checkpoints.BODIES)
def test_the_noise_of_halves_is_not_taken_for_another_model(
    tmp_path: Path, body: str, dtype: str
) -> None:
    load(checkpoints.write_text_model(tmp_path, body, num_hidden_layers=16), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("change", ["attention", "logits"])
def test_what_no_key_tells_shows_in_the_measurement(
    directory: Path, monkeypatch: pytest.MonkeyPatch, change: str, dtype: str
) -> None:
    """A body whose attention ignores who sees whom, and one that scales its logits."""
    if change == "attention":
        monkeypatch.setattr(packed_attention, "_attend_all", lambda query, *others: query)
    else:
        plain = AutoModelForCausalLM.from_pretrained

        def scaled(*args: object, **options: object) -> object:
            model, report = plain(*args, **options)
            forward = model.forward

            def scaling(**inputs: object) -> object:
                output = forward(**inputs)
                output.logits = output.logits / 1.05
                return output

            model.forward = scaling
            return model, report

        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", scaled)
    with pytest.raises(ValueError, match="model_type 'llama' is not computed here"):
        load(directory, dtype)


# Through a server ---------------------------------------------------------------------------------


def test_it_serves_text_and_refuses_pictures(directory: Path, launch: Launch) -> None:
    server = launch(model=directory, template_set="embedded")
    with stub(server) as service:
        model = service.GetModel(pb.GetModelRequest()).model
    assert model.family == "causal_lm"
    assert pb.CAPABILITY_IMAGES not in model.capabilities
    assert pb.CAPABILITY_CRITIQUE in model.capabilities
    with RewardClient(f"127.0.0.1:{server.port}") as client:
        with pytest.raises(RequestRefused) as refused:
            client.score([SEVEN, QUESTION], ["4"])
        assert refused.value.reason == "UNSUPPORTED_CONTENT"
        # Random weights are off every format; what matters is that this is said.
        (outcome,) = client.score(QUESTION, ["4"]).failures
        assert outcome.reason == "OFF_FORMAT"
