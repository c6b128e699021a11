"""A decoder-only language model without its head: the part that all families share.

The modules are those of transformers; how they are put together is ours, because what prompts have
in common runs once, and is remembered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from adjudge_server.answers import NO_ANSWERS
from adjudge_server.critics import packed_attention
from adjudge_server.critics.keys_values import Growing, KeysValues, joined
from adjudge_server.critics.last_layer import LastLayer
from adjudge_server.critics.packed_attention import Above, Attendance, known_above
from adjudge_server.critics.packing import PackedRows, pack
from adjudge_server.critics.plan import Leaf, Plan, Run, make_plan
from adjudge_server.critics.prefix_tree import Node, PrefixTree
from adjudge_server.critics.preparing import PreparedPrompt

Array = NDArray[Any]
Features = Callable[[str], torch.Tensor]
"""(n, hidden) of a picture of the batch, by its digest."""
JOINED_TOKENS = 512
"""Known runs no longer than this that are seen by the same rows are put together for a pass: each
by itself costs a call in every layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """What came of a batch."""

    hidden: torch.Tensor
    """(N, hidden) of the pass's rows; good for the last of each prompt and for its answer tree."""
    leaves: list[Leaf[KeysValues]]
    """Where the prompts of the batch stand among the rows."""
    computed: dict[int, int]
    """See `plan.Plan`."""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What stands before the next token of a text that is being written."""

    prompt: tuple[KeysValues, ...]
    position: int
    """Of the first token after the prompt; not everywhere its number of tokens."""
    written: Growing = field(default_factory=Growing)


class Decoder:
    """A language model without its head, run over prompts that share their beginnings."""

    def __init__(self, language: PreTrainedModel, max_prefix_bytes: int) -> None:
        """`max_prefix_bytes` bounds the keys and values that are remembered between batches."""
        self._language = language
        self._embedding = language.get_input_embeddings()
        weight: torch.Tensor = self._embedding.weight
        self.device = weight.device
        self.dtype = weight.dtype
        self.prefixes = PrefixTree[KeysValues](max_prefix_bytes)
        self.num_known = self.num_new = 0
        """Different prompts of all batches, by whether a beginning was remembered."""
        self.reused_tokens = self.computed_tokens = 0
        """Of prompts, that were remembered; and rows that were computed."""
        language.set_attn_implementation(packed_attention.NAME)
        self._last_layer = LastLayer(language)

    def run(self, batch: Sequence[PreparedPrompt], features: Features) -> Passed:
        """Every prompt of the batch, in one pass."""
        plan = self._planned(batch)
        kept = [run for run in plan.runs if run.is_kept]
        hidden, keys_values = self._pass(plan, kept, features)
        self._remember(kept, keys_values)
        return Passed(hidden, plan.leaves, plan.computed)

    def begin(self, item: PreparedPrompt, features: Features) -> tuple[Context, torch.Tensor]:
        """The context after a whole prompt, and (hidden,) of its last token."""
        plan = self._planned([replace(item, tree=NO_ANSWERS)])
        (leaf,) = plan.leaves
        hidden, keys_values = self._pass(plan, [*plan.runs, leaf], features)
        kept = [pair for pair in zip(plan.runs, keys_values, strict=False) if pair[0].is_kept]
        self._remember([run for run, _ in kept], [held for _, held in kept])
        prompt = _short_ones_joined([*(node.kept for node, _, _ in plan.known), *keys_values])
        return Context(tuple(prompt), leaf.position + len(leaf.own)), hidden[leaf.last]

    def step(self, token: int, context: Context) -> torch.Tensor:
        """(hidden,) after one more token, which the context keeps."""
        written = context.written.held
        before = (*context.prompt, *([written] if written else []))
        position = context.position + (written.num_tokens if written else 0)
        leaf = Leaf[KeysValues]((token,), NO_ANSWERS, (), [0], {}, own=(token,), position=position)
        rows = pack(Plan(leaves=[leaf], num_rows=1))
        attendance = Attendance.of(
            rows,
            [known_above(part, 0, 1) for part in before],
            [(0, 1)],
            self.device,
            self.dtype,
            self._last_layer.index,
        )
        hidden = self._hidden(rows, attendance, no_pictures)[0]
        context.written.append(attendance.keys_values()[0])
        return hidden

    def _planned(self, batch: Sequence[PreparedPrompt]) -> Plan[KeysValues]:
        plan = make_plan(batch, self.prefixes)
        self.num_known += plan.num_known
        self.num_new += len(plan.leaves) - plan.num_known
        self.reused_tokens += plan.known_tokens
        self.computed_tokens += plan.num_rows
        return plan

    def _pass(
        self,
        plan: Plan[KeysValues],
        kept: Sequence[Run[KeysValues] | Leaf[KeysValues]],
        features: Features,
    ) -> tuple[torch.Tensor, list[KeysValues]]:
        """(N, hidden), and keys and values of each of `kept`."""
        rows = pack(plan)
        attendance = Attendance.of(
            rows,
            _known(plan),
            [_rows(each) for each in kept],
            self.device,
            self.dtype,
            self._last_layer.index,
        )
        return self._hidden(rows, attendance, features), attendance.keys_values()

    def _hidden(self, rows: PackedRows, attendance: Attendance, features: Features) -> torch.Tensor:
        embedded: torch.Tensor = self._embedding(self.tensor(rows.token_ids))
        for digest, start in rows.pictures:
            picture = features(digest)
            embedded[start : start + len(picture)] = picture
        # A mask of four dimensions, never looked at, stops transformers from making its own.
        unused = torch.empty(1, 1, 1, 1, dtype=self.dtype, device=self.device)
        with self._last_layer.reading(attendance.read):
            hidden: torch.Tensor = self._language(
                inputs_embeds=embedded[None],
                position_ids=self.tensor(rows.positions)[..., None, :],  # ([3,] 1, N)
                attention_mask=unused,
                use_cache=False,
                attendance=attendance,
            ).last_hidden_state[0]
        return hidden

    def _remember(self, runs: Sequence[Run[KeysValues]], held: Sequence[KeysValues]) -> None:
        nodes: dict[Run[KeysValues], Node[KeysValues]] = {}
        for run, keys_values in zip(runs, held, strict=True):
            above = nodes[run.above] if isinstance(run.above, Run) else run.above
            nodes[run] = self.prefixes.insert(above, run.symbols, keys_values)
        self.prefixes.trim()

    def tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def no_pictures(digest: str) -> torch.Tensor:
    """See Features; of critics that see none."""
    raise KeyError(digest)


def _rows(each: Run[KeysValues] | Leaf[KeysValues]) -> tuple[int, int]:
    return each.start, each.start + (each.num_tokens if isinstance(each, Run) else each.num_rows)


def _known(plan: Plan[KeysValues]) -> list[Above]:
    """What is known already, by who sees it."""
    return [
        known_above(part, start, end)
        for (start, end), known in groupby(plan.known, key=lambda known: known[1:])
        for part in _short_ones_joined([node.kept for node, _, _ in known])
    ]


def _short_ones_joined(parts: Sequence[KeysValues]) -> list[KeysValues]:
    """In any order: where a key stands is in the key."""
    short = [part for part in parts if part.num_tokens <= JOINED_TOKENS]
    long = [part for part in parts if part.num_tokens > JOINED_TOKENS]
    return ([joined(short)] if short else []) + long
