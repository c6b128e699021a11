"""Candidates from an endpoint that speaks OpenAI's chat completions: OpenAI's, vLLM's, and others.

Needs the `openai` extra. That library makes the requests, repeats those that can be repeated
(connection lost, 408, 409, 429, 5xx, as Retry-After says) and reads the key from the environment.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, Final

from adjudge_reranker.content import Message
from adjudge_reranker.generation.chat import openai_messages
from adjudge_reranker.generation.errors import (
    GenerationError,
    PolicyFault,
    PolicyRefused,
    PolicyTimeout,
    PolicyUnavailable,
)
from adjudge_reranker.generation.samples import Finish, Order, Sample
from adjudge_reranker.retry import checked_timeout

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_FINISH: Final = {
    "stop": Finish.COMPLETE,
    "length": Finish.LENGTH,
    "content_filter": Finish.FILTERED,
}
_TRY_LATER: Final = {408, 409, 425, 429}
_OWN_OPTIONS: Final = {"n", "messages", "stream"}
_NO_KEY: Final = "none"
"""What servers without keys are sent: the library insists on one."""


class OpenAIPolicy:
    """Asks an endpoint for answers, several at a time.

    policy = OpenAIPolicy("my-model", base_url="http://127.0.0.1:8000/v1", temperature=0.8)

    May be used from one event loop after another, and pickled. When the choice is made, requests
    under way are cancelled, which ends generation on servers that notice. A refused request ends
    it: the others would be refused as well. No URL of a picture is fetched: pictures are sent.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        max_in_flight: int = 4,
        choices_per_request: int = 1,
        timeout: float | None = 120.0,
        max_retries: int = 2,
        **options: Any,
    ) -> None:
        """Left out, `base_url` and `api_key` are OPENAI_BASE_URL and OPENAI_API_KEY of the
        environment where they are used; a server that is given by `base_url` may need no key.

        `max_in_flight` requests are made at a time, for `choices_per_request` answers each (`n`;
        not every endpoint takes more than 1). `timeout` is in seconds, for each try of a request;
        None waits without limit. `options` go into the request as they are, such as `temperature`,
        `max_tokens`, `extra_body` or `extra_headers`; to a `seed` the index of the answer is added,
        because requests with equal seeds get equal answers.
        """
        if max_in_flight < 1 or choices_per_request < 1:
            raise ValueError("max_in_flight and choices_per_request must be at least 1")
        if timeout is not None:
            checked_timeout(timeout)
        if wrong := sorted(_OWN_OPTIONS & options.keys()):
            raise ValueError(f"{', '.join(wrong)} cannot be chosen: the policy sets or reads it")
        self._model = model
        self._base_url = base_url
        self._api_key = api_key
        self._max_in_flight = max_in_flight
        self._choices_per_request = choices_per_request
        self._timeout = timeout
        self._max_retries = max_retries
        self._options = options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r}, base_url={self._base_url!r})"

    async def samples(
        self, prompt: Sequence[Message], order: Order
    ) -> AsyncGenerator[list[Sample[str]], None]:
        """Yields the answers of a request, or why there are none, as they come.

        Raises ImportError without the `openai` extra, OpenAIError if there is no key, and OSError
        for a picture that is none.
        """
        messages = openai_messages(prompt)
        is_refused = False
        async with self._client() as client:
            running: set[asyncio.Task[list[Sample[str]]]] = set()
            try:
                while True:
                    while len(running) < self._max_in_flight and not is_refused:
                        count = min(self._choices_per_request, order.num_wanted)
                        if not count:
                            break
                        request = self._ask(client, messages, order.begin(count))
                        running.add(asyncio.create_task(request))
                    if not running:
                        return
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    answers = [sample for task in done for sample in task.result()]
                    is_refused = is_refused or any(
                        isinstance(sample.content, PolicyRefused) for sample in answers
                    )
                    yield answers
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    def _client(self) -> "AsyncOpenAI":
        # One for each use: its connections belong to an event loop, and cannot be pickled.
        from openai import AsyncOpenAI

        api_key = self._api_key
        if api_key is None and self._base_url and not os.environ.get("OPENAI_API_KEY"):
            api_key = _NO_KEY
        return AsyncOpenAI(
            api_key=api_key,
            base_url=self._base_url,
            timeout=self._timeout,
            max_retries=self._max_retries,
        )

    async def _ask(
        self, client: "AsyncOpenAI", messages: list[dict[str, Any]], indices: range
    ) -> list[Sample[str]]:
        import openai

        options = dict(self._options)
        if options.get("seed") is not None:
            options["seed"] += indices.start
        if self._choices_per_request > 1:
            options["n"] = len(indices)
        create: Any = client.chat.completions.create
        try:
            completion = await create(model=self._model, messages=messages, **options)
            return _read(completion, indices)
        except openai.OpenAIError as error:
            failure = _error(error)
            failure.__cause__ = error
        except ValueError as error:  # an answer that is not JSON
            failure = PolicyFault(f"the answer is no chat completion: {error}")
            failure.__cause__ = error
        return [Sample(index, failure, Finish.UNKNOWN) for index in indices]


def _read(completion: Any, indices: range) -> list[Sample[str]]:
    # The library does not check what it reads: endpoints may answer anything.
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        raise ValueError("it has no choices")
    samples: list[Sample[str]] = []
    for place, index in enumerate(indices):
        choice = choices[place] if place < len(choices) else None
        text = getattr(getattr(choice, "message", None), "content", None)
        finish = _FINISH.get(getattr(choice, "finish_reason", None) or "", Finish.UNKNOWN)
        if isinstance(text, str):
            samples.append(Sample(index, text, finish))
        else:
            samples.append(Sample(index, PolicyFault(_why_no_text(choice, indices)), finish))
    return samples


def _why_no_text(choice: Any, indices: range) -> str:
    if choice is None:
        return f"the endpoint gave fewer than the {len(indices)} choices that it was asked for"
    return f"a choice without text, finished by {getattr(choice, 'finish_reason', None)!r}"


def _error(error: Exception) -> GenerationError:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return PolicyTimeout(str(error))
    if isinstance(error, openai.APIConnectionError):
        return PolicyUnavailable(f"{error} {error.__cause__ or ''}".strip())
    if not isinstance(error, openai.APIStatusError):
        return PolicyFault(str(error))
    status = error.status_code
    kind = PolicyUnavailable if status in _TRY_LATER or status >= 500 else PolicyRefused
    return kind(str(error), status=status)
