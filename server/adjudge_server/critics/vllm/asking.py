"""Requests about prepared prompts, and what the answers must be to count."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adjudge_server.caches import CacheUse, Memory
from adjudge_server.critics.preparing import IMAGE_SLOT, PreparedPrompt
from adjudge_server.critics.vllm import rows
from adjudge_server.critics.vllm.engine import Body, Engine, EngineRefusal
from adjudge_server.critics.vllm.pictures import Sent, SentPicture
from adjudge_server.critics.vllm.rows import LogProbs, Walk
from adjudge_server.critics.vllm.served import GENERATE
from adjudge_server.errors import CriticFailure


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine said to one request."""

    steps: list[tuple[int, LogProbs]]
    """The tokens written, and at each the log-probabilities asked for."""
    computed_tokens: int
    """Of the prompt; all of it where the engine does not tell what it remembered."""


class Asker:
    """Asks an engine about one model. In the engine's loop, but for `body`, `forget`, `memory`."""

    def __init__(self, engine: Engine, model: str, image_token: int | None, sent: Sent) -> None:
        """`image_token`: what stands for a picture in token ids, to the engine."""
        self._engine = engine
        self._model = model
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
        body: Body = {"model": self._model, "token_ids": [*self._collapsed(item), *path]}
        if item.pictures:
            body["content_parts"] = [p.part(by_name=by_name) for p in _pictures(item)]
        if self._salt:
            body["cache_salt"] = self._salt
        return body

    async def ask(
        self,
        item: PreparedPrompt,
        path: Sequence[int],
        walk: Walk,
        check_wanted: Callable[[], None],
    ) -> Answer:
        """Raises NotReady, EngineRefusal, CriticFailure for an answer to another question, and
        whatever `check_wanted` raises when its turn comes."""
        more = {"sampling_params": rows.sampling(walk), "return_token_ids": not path}
        value = await self._post(item, path, more, check_wanted)
        try:
            self._check_prompt(item, path, value)
            steps = rows.steps_of(value["choices"][0])
            usage = value["usage"]
            told = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            computed = usage["prompt_tokens"] - (told or 0)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CriticFailure("the engine's answer has another form") from error
        if not steps or any(set(walk.ids) - log_probs.keys() for _, log_probs in steps):
            raise CriticFailure("the engine left out a log-probability")
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
        names = [picture.digest for picture in item.pictures]
        if names and all(name in self._sent for name in names):
            try:
                body = self.body(item, path, by_name=True)
                return await self._engine.post(GENERATE, body | more, check_wanted)
            except EngineRefusal as refusal:
                if refusal.status != 400:  # of those, most likely it has forgotten one
                    raise
        body = self.body(item, path, by_name=False)
        value = await self._engine.post(GENERATE, body | more, check_wanted)
        for name in names:
            self._sent.add(name)
        return value

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
