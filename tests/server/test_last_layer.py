"""The last layer makes nothing of rows that nobody reads."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adjudge_server.caches import CacheBytes
from adjudge_server.critics import llava_loading
from adjudge_server.critics.last_layer import LastLayer
from adjudge_server.critics.llava_onevision import LlavaOnevisionCritic
from adjudge_server.critics.packing import pack
from adjudge_server.critics.plan import make_plan
from tests.server import checkpoints, questions

WIDTH = 8


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.SiLU(), nn.Linear(16, WIDTH))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.mlp(states)
        return states + made


class Experts(Layer):
    """Whose perceptron also tells which expert was chosen for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Chosen(self.mlp)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        made, chosen = self.mlp(states)
        assert len(chosen) > 0
        return states + made


class Chosen(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inner(states), states.argmax(-1)[0]


class Layers(nn.Module):
    def __init__(self, name: str = "layers", layer: type[Layer] = Layer) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, nn.ModuleList([layer(), layer()]))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for layer in getattr(self, self.name):
            states = layer(states)
        return states


@settings(deadline=None)
@given(
    rows=st.lists(st.integers(0, 9), min_size=1, unique=True),
    layer=st.sampled_from([Layer, Experts]),
)
def test_rows_that_are_read_are_those_of_the_whole_pass(
    rows: list[int], layer: type[Layer]
) -> None:
    language = Layers(layer=layer).double()
    states = torch.randn(1, 10, WIDTH, dtype=torch.float64)
    whole = language(states)
    names = list(language.state_dict())
    last = LastLayer(language)
    with last.reading(torch.tensor(rows)):
        read = language(states)
    torch.testing.assert_close(read[:, rows], whole[:, rows], rtol=0, atol=1e-12)
    torch.testing.assert_close(language(states), whole, rtol=0, atol=1e-12)
    assert list(language.state_dict()) == names
    assert last.index == 1


def test_decoders_that_are_built_otherwise_are_left_alone() -> None:
    language = Layers("blocks")
    states = torch.randn(1, 10, WIDTH)
    whole = language(states)
    last = LastLayer(language)
    with last.reading(torch.tensor([3])):
        assert torch.equal(language(states), whole)
    assert last.index is None


def test_after_a_pass_that_failed_every_row_is_computed_again() -> None:
    language = Layers()
    last = LastLayer(language)
    states = torch.randn(1, 10, WIDTH)
    with pytest.raises(RuntimeError), last.reading(torch.tensor([10])):
        language(states)
    assert language(states).isfinite().all()
    assert not torch.equal(language(states)[0, 0], states[0, 0])


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> LlavaOnevisionCritic:
    directory: Path = tmp_path_factory.mktemp("tiny")
    checkpoints.write_checkpoint(directory, checkpoints.tiny_tokenizer(), grids=[[56, 56]])
    return llava_loading.load(
        directory,
        name="tiny",
        device="cpu",
        dtype="float32",
        max_input_tokens=4096,
        caches=CacheBytes(),
    )


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_a_batch_computes_the_ends_of_its_prompts_and_nothing_else(
    critic: LlavaOnevisionCritic, texts: list[str]
) -> None:
    items = critic.prepare([questions.score_query(critic.card, "What?", t) for t in texts])
    critic.forget()
    expected = {
        row
        for leaf in make_plan(items, critic.decoder.prefixes).leaves
        for row in range(leaf.last, leaf.start + leaf.num_rows)
    }
    assert set(pack(make_plan(items, critic.decoder.prefixes)).read) == expected
    computed: list[int] = []
    mlp = critic.decoder._language.layers[-1].mlp
    hook = mlp.gate_proj.register_forward_hook(lambda m, i, o: computed.append(o.shape[1]))
    try:
        critic.forward(items)
    finally:
        hook.remove()
    assert computed == [len(expected)]
