"""The critic that runs in vLLM."""

from collections.abc import Generator, Sequence
from pathlib import Path

from cachetools import LRUCache

from adjudge_server.answers import AnswerTree
from adjudge_server.caches import Memory
from adjudge_server.critic import CriticCard, Query, Reading, SomeFailed, Spare, Written
from adjudge_server.critics.preparing import PreparedPrompt, Preparer
from adjudge_server.critics.vllm.asking import Asker
from adjudge_server.critics.vllm.batch import BatchReader
from adjudge_server.critics.vllm.engine import Body, Engine
from adjudge_server.critics.vllm.pictures import Sent
from adjudge_server.critics.vllm.rows import TreeRows
from adjudge_server.critics.vllm.served import GENERATE, HEALTH_SECONDS, Served, examine
from adjudge_server.errors import CriticFailure, InputTooLong, UnsupportedOperation
from adjudge_server.tokenization import TextTokenizer

KNOWN_TREES = 256
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What the decoder shows for a character whose bytes have not all been generated yet."""


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
        self._asker = Asker(engine, served.model, image_token, sent)
        self._trees: LRUCache[int, TreeRows] = LRUCache(KNOWN_TREES)
        """By identity: templates keep their trees, and to hash one takes long."""
        self._was_away = False

    def prepare(self, queries: Sequence[Query]) -> list[PreparedPrompt | InputTooLong]:
        return self._preparer.prepare(queries)

    def after(
        self, item: PreparedPrompt, written: Sequence[Written], start: int, opening: str
    ) -> PreparedPrompt:
        return self._preparer.after(item, written, start, opening)

    def forward(self, batch: Sequence[PreparedPrompt]) -> list[Reading]:
        reader = BatchReader(self._asker, self._rows_of)
        outcomes = self._engine.run(reader.read(batch))
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
            if self._was_away:
                self._sent.clear()
                self._served.check_same(examine(self._engine))
        except BaseException:
            self._was_away = True
            raise
        self._was_away = False

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
        body = self._asker.body(item, by_name=False)
        return self._write(body | {"stream": True, "sampling_params": sampling})

    def _write(self, body: Body) -> Generator[Written, None, None]:
        written: list[int] = []
        shown = ""
        events = self._engine.stream(GENERATE, body)
        try:
            for token in (token for event in events for token in _tokens(event)):
                if token in self._end_tokens:
                    return
                if token >= self._tokenizer.size:
                    raise CriticFailure("the engine wrote a token that is none")
                written.append(token)
                text = self._tokenizer.decode(written)
                complete = text if not text.endswith(REPLACEMENT) else shown
                yield Written(token, complete[len(shown) :])
                shown = complete
        finally:
            events.close()

    def _rows_of(self, tree: AnswerTree) -> TreeRows:
        found = self._trees.get(id(tree))
        if found is None or found.tree is not tree:
            found = self._trees[id(tree)] = TreeRows(tree, self._padding)
        return found


def _tokens(event: object) -> list[int]:
    """That an event of a stream brings."""
    try:
        choices = event["choices"]  # type: ignore[index]
        return [int(token) for choice in choices[:1] for token in choice["token_ids"] or ()]
    except (KeyError, TypeError, ValueError) as error:
        raise CriticFailure("the engine's answer has another form") from error
