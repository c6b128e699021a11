"""The critic that runs in vLLM."""

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from adjudge_server.answers import AnswerTree
from adjudge_server.caches import Memory
from adjudge_server.critic import CriticCard, Query, Reading, SomeFailed, Spare, Written
from adjudge_server.critics.preparing import PreparedPrompt, Preparer
from adjudge_server.critics.spelling import Spelling
from adjudge_server.critics.vllm.asking import Asker
from adjudge_server.critics.vllm.batch import BatchReader
from adjudge_server.critics.vllm.choices import check_finished
from adjudge_server.critics.vllm.engine import Away, Body, Engine
from adjudge_server.critics.vllm.pictures import Sent
from adjudge_server.critics.vllm.rows import TreeRows
from adjudge_server.critics.vllm.served import HEALTH_SECONDS, Served, examine
from adjudge_server.errors import CriticFailure, InputTooLong, NotReady, UnsupportedOperation
from adjudge_server.tokenization import TextTokenizer

KNOWN_TREES = 256
EXAMINE_SECONDS = 60.0
"""Between two examinations of an engine that always answered: another one may have come in its
place all the same."""


class VllmCritic:
    """See `critic.Critic` and `critic.Remote`. Built by `loading.load`."""

    def __init__(
        self,
        engine: Engine,
        served: Served,
        tokenizer: TextTokenizer,
        preparer: Preparer,
        card: CriticCard,
        *,
        padding: Sequence[int],
        image_token: int | None,
        end_tokens: frozenset[int],
        repetition_penalty: float,
        sent: Sent,
    ) -> None:
        """`padding`: rows of the head to be left out of the normalisation. `image_token`: what
        stands for a picture in token ids, to the engine."""
        self.card = card
        self._engine = engine
        self._served = served
        self._tokenizer = tokenizer
        self._preparer = preparer
        self._padding = padding
        self._end_tokens = end_tokens
        self._repetition_penalty = repetition_penalty
        self._sent = sent
        self._asker = Asker(engine, served, image_token, sent)
        self._trees: LRUCache[int, TreeRows] = LRUCache(KNOWN_TREES)
        """By identity: templates keep their trees, and to hash one takes long."""
        self._doubt = self._settled = object()
        """What last made it doubtful that this is still the same engine, and the last doubt that an
        examination has settled."""
        self._examined = time.monotonic()

    def prepare(self, queries: Sequence[Query]) -> list[PreparedPrompt | InputTooLong]:
        return self._preparer.prepare(queries)

    def after(
        self, item: PreparedPrompt, written: Sequence[Written], start: int, opening: str
    ) -> PreparedPrompt:
        return self._preparer.after(item, written, start, opening)

    def forward(self, batch: Sequence[PreparedPrompt]) -> list[Reading]:
        """See `critic.Critic`. From the first item for which the engine was away until it has been
        examined, nothing is asked: who knows who would answer?"""
        if self._is_in_doubt:
            raise SomeFailed([_unexamined() for _ in batch])
        reader = BatchReader(self._asker, self._rows_of)
        outcomes = self._engine.run(reader.read(batch))
        if any(isinstance(outcome, Away) for outcome in outcomes):
            self._doubt = object()
        readings = [outcome for outcome in outcomes if isinstance(outcome, Reading)]
        if len(readings) < len(outcomes):
            raise SomeFailed(outcomes)
        return readings

    def forget(self) -> None:
        self._asker.forget()

    def memory(self) -> Memory:
        return self._asker.memory()

    def read_weights(self, directory: Path) -> Spare:
        raise ValueError("the weights are the engine's: load them there")

    def exchange(self, spare: Spare) -> None:
        raise ValueError("the weights are the engine's: load them there")

    def beat(self) -> None:
        """See `critic.Remote`. An engine that was away may come back as another one."""
        try:
            self._engine.get("/health", HEALTH_SECONDS)
            if self._is_in_doubt or time.monotonic() - self._examined >= EXAMINE_SECONDS:
                self._examine()
        except BaseException:
            self._doubt = object()
            raise

    def _examine(self) -> None:
        doubt = self._doubt  # one that comes up meanwhile stays
        self._served.check_same(examine(self._engine, self._served))
        if doubt is not self._settled:
            self._sent.clear()
        self._settled, self._examined = doubt, time.monotonic()

    @property
    def _is_in_doubt(self) -> bool:
        return self._doubt is not self._settled

    def close(self) -> None:
        """Gives up what is still asked."""
        self._engine.close()

    def critique(self, item: PreparedPrompt, max_tokens: int) -> Generator[Written, None, None]:
        """Raises UnsupportedOperation where repetition is to be penalised: vLLM penalises the
        prompt's tokens too, so that it would write other critiques."""
        if self._repetition_penalty != 1:
            raise UnsupportedOperation(
                f"the checkpoint penalises repetition ({self._repetition_penalty}), which vLLM does"
                " not do alike: start the server with --repetition-penalty 1"
            )
        sampling = {
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stop_token_ids": sorted(self._end_tokens),
            "detokenize": False,
        }
        return self._write(item, {"sampling_params": sampling})

    def _write(self, item: PreparedPrompt, body: Body) -> Generator[Written, None, None]:
        """Only what the engine itself ends is a critique."""
        if self._is_in_doubt:
            raise _unexamined()
        spelling = Spelling(self._tokenizer)
        events = self._asker.stream(item, body)
        try:
            has_ended = False
            for choice in (choice for event in events for choice in _choices(event)):
                for token in _tokens(choice):
                    has_ended = has_ended or token in self._end_tokens
                    if has_ended:
                        break
                    if token >= self._tokenizer.size:
                        raise CriticFailure("the engine wrote a token that is none")
                    yield spelling.add(token)
                if choice.get("finish_reason") is not None:
                    check_finished(choice)
                    self._served.check_weights(choice)
                    return
            raise Away("the engine stopped in the middle of a critique")
        except Away:
            self._doubt = object()
            raise
        finally:
            events.close()

    def _rows_of(self, tree: AnswerTree) -> TreeRows:
        found = self._trees.get(id(tree))
        if found is None or found.tree is not tree:
            found = self._trees[id(tree)] = TreeRows(tree, self._padding)
        return found


def _unexamined() -> NotReady:
    return NotReady("the engine was away, and has not been examined since")


def _choices(event: Any) -> list[dict[str, Any]]:
    """Of an event of a stream: one, or none."""
    choices = event.get("choices") if isinstance(event, dict) else None
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        raise CriticFailure("the engine's answer has another form")
    return choices[:1]


def _tokens(choice: dict[str, Any]) -> list[int]:
    """That a choice of an event brings."""
    try:
        return [int(token) for token in choice["token_ids"] or ()]
    except (KeyError, TypeError, ValueError) as error:
        raise CriticFailure("the engine's answer has another form") from error
