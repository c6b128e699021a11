"""Requests about prepared prompts, and what the answers must be to count."""

import secrets
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from adjudge_server.caches import CacheUse, Memory
from adjudge_server.critics.preparing import IMAGE_SLOT, PreparedPrompt
from adjudge_server.critics.vllm import rows
from adjudge_server.critics.vllm.choices import check_finished
from adjudge_server.critics.vllm.engine import Body, Engine, EngineRefusal
from adjudge_server.critics.vllm.pictures import Sent, SentPicture
from adjudge_server.critics.vllm.rows import LogProbs, Walk
from adjudge_server.critics.vllm.served import GENERATE, Served
from adjudge_server.errors import CriticFailure

FORGOTTEN = 400
"""Status of a request that names a picture without it: most likely the engine has forgotten it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine said to one request."""

    steps: list[tuple[int, LogProbs]]
    """The tokens written, and at each the log-probabilities asked for."""
    computed_tokens: int
    """Of the prompt; all of it where the engine does not tell what it remembered."""


class Asker:
    """Asks an engine about one model. In the engine's loop, but for what is no coroutine."""

    def __init__(self, engine: Engine, served: Served, image_token: int | None, sent: Sent) -> None:
        """`image_token`: what stands for a picture in token ids, to the engine."""
        self._engine = engine
        self._served = served
        self._image_token = image_token
        self._sent = sent
        self._salt = ""
        self._prefixes = CacheUse()
        self._reused_tokens = self._computed_tokens = 0

    def forget(self) -> None:
        """The engine's memory is not ours to clear; under another salt, nothing of it is found."""
        self._salt = secrets.token_hex(8)

    def memory(self) -> Memory:
        return Memory(
            prefixes=self._prefixes,
            reused_tokens=self._reused_tokens,
            computed_tokens=self._computed_tokens,
        )

    def body(self, item: PreparedPrompt, path: Sequence[int] = (), *, by_name: bool) -> Body:
        """A request about a prompt with some tokens after it. `by_name`: without the pictures."""
        body: Body = {"model": self._served.model, "token_ids": [*self._collapsed(item), *path]}
        if item.pictures:
            body["content_parts"] = [p.part(by_name=by_name) for p in _pictures(item)]
        if self._salt:
            body["cache_salt"] = self._salt
        return body

    def may_name(self, item: PreparedPrompt) -> bool:
        """Whether the engine has seen all its pictures, which it may have forgotten."""
        return bool(item.pictures) and all(p.digest in self._sent for p in item.pictures)

    def stream(self, item: PreparedPrompt, more: Body) -> Generator[Any, None, None]:
        """The events of an answer that comes bit by bit; see `Engine.stream`. On the model's
        thread."""
        more = more | {"stream": True}
        if self.may_name(item):
            try:
                yield from self._engine.stream(GENERATE, self.body(item, by_name=True) | more)
                return
            except EngineRefusal as refusal:
                if refusal.status != FORGOTTEN:
                    raise
        body = self.body(item, by_name=False) | more
        with closing(self._engine.stream(GENERATE, body)) as events:
            for event in events:
                self._note_sent(item)
                yield event

    async def ask(
        self,
        item: PreparedPrompt,
        path: Sequence[int],
        walk: Walk,
        check_wanted: Callable[[], None],
    ) -> Answer:
        """Raises NotReady, also where the answer is of other weights; EngineRefusal; CriticFailure
        for an answer to another question; and whatever `check_wanted` raises when its turn comes.
        """
        more = {"sampling_params": rows.sampling(walk), "return_token_ids": not path}
        value = await self._post(item, path, more, check_wanted)
        try:
            choice = value["choices"][0]
            check_finished(choice)
            self._served.check_weights(choice)
            self._check_prompt(item, path, value)
            steps = rows.steps_of(choice)
            usage = value["usage"]
            told = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            computed = usage["prompt_tokens"] - (told or 0)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CriticFailure("the engine's answer has another form") from error
        if not steps or any(set(walk.ids) - log_probs.keys() for _, log_probs in steps):
            raise CriticFailure("the engine left out a log-probability")
        if not all(rows.may_be_log_probs(log_probs.values()) for _, log_probs in steps):
            raise CriticFailure("the engine's numbers are no log-probabilities")
        self._count(computed, told or 0)
        return Answer(steps, computed)

    async def _post(
        self,
        item: PreparedPrompt,
        path: Sequence[int],
        more: Body,
        check_wanted: Callable[[], None],
    ) -> Any:
        """With the pictures themselves only where the engine does not know their names."""
        if self.may_name(item):
            try:
                body = self.body(item, path, by_name=True)
                return await self._engine.post(GENERATE, body | more, check_wanted)
            except EngineRefusal as refusal:
                if refusal.status != FORGOTTEN:
                    raise
        body = self.body(item, path, by_name=False)
        value = await self._engine.post(GENERATE, body | more, check_wanted)
        self._note_sent(item)
        return value

    def _note_sent(self, item: PreparedPrompt) -> None:
        for picture in item.pictures:
            self._sent.add(picture.digest)

    def _check_prompt(self, item: PreparedPrompt, path: Sequence[int], value: Any) -> None:
        """Raises CriticFailure where the engine read another prompt than ours: another model, or
        one that cuts pictures in another way."""
        expected = len(item.token_ids) + len(path)
        found = value["usage"]["prompt_tokens"]
        if found != expected:
            raise CriticFailure(f"the engine read {found} tokens, not {expected}")
        if not path and value["prompt_token_ids"] != self._expanded(item):
            raise CriticFailure("the engine read other tokens than the prompt's")

    def _collapsed(self, item: PreparedPrompt) -> list[int]:
        """The prompt with one token for each picture, as the engine takes it."""
        token_ids: list[int] = []
        start = 0
        for picture, slot in zip(item.pictures, item.picture_starts, strict=True):
            token_ids += [*item.token_ids[start:slot], self._image]
            start = slot + picture.layout.num_tokens
        return [*token_ids, *item.token_ids[start:]]

    def _expanded(self, item: PreparedPrompt) -> list[int]:
        """The prompt as the engine must have read it."""
        return [self._image if token == IMAGE_SLOT else token for token in item.token_ids]

    @property
    def _image(self) -> int:
        assert self._image_token is not None  # pictures are refused before they come here
        return self._image_token

    def _count(self, computed: int, reused: int) -> None:
        use = self._prefixes
        self._prefixes = CacheUse(use.hits + (reused > 0), use.misses + (reused == 0))
        self._reused_tokens += reused
        self._computed_tokens += computed


def _pictures(item: PreparedPrompt) -> list[SentPicture]:
    return [picture for picture in item.pictures if isinstance(picture, SentPicture)]
