"""`reward_func` for OpenRLHF, written against OpenRLHF 0.11.

# my_reward.py, for --reward.remote_url my_reward.py
from adjudge_reranker.trainers.openrlhf import OpenRLHFReward
reward_func = OpenRLHFReward("127.0.0.1:50051")

OpenRLHF hands such a function the prompt after its chat template, and never the pictures. A label
that is a mapping (or the JSON of one) can carry what is to be judged instead: `prompt`, a text or
chat messages, `images`, and `reference`.

Failures: OpenRLHF logs whatever is raised and goes on without that reward, to stop later with an
error of its own, or, with a local reward model loaded, to use that one; NaN spoils the advantages
of the group. So the policy is `wait` unless given.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adjudge_reranker.client import RewardClient
from adjudge_reranker.trainers.failures import OnFailure
from adjudge_reranker.trainers.one import float_settings, judge_one
from adjudge_reranker.trainers.samples import Sample, read_sample
from adjudge_reranker.types import Failure

END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "</s>",
)
"""What policies end their answers with; OpenRLHF decodes it into the text."""

_TAIL = 64
"""Characters of a prompt's end by which the beginning of the answer is found."""


class OpenRLHFReward:
    """The reward of each query's answer. Picklable."""

    def __init__(
        self,
        client: RewardClient | str = "127.0.0.1:50051",
        *,
        end_tokens: Sequence[str] = END_TOKENS,
        on_failure: OnFailure | str = OnFailure.WAIT,
        **options: Any,
    ) -> None:
        """`end_tokens` are taken off the ends of answers. `options` are those of `float_settings`:
        template, rubric, model, strip_thinking, max_wait_seconds."""
        self._client = RewardClient(client) if isinstance(client, str) else client
        self._end_tokens = tuple(end_tokens)
        self._settings = float_settings(on_failure=on_failure, **options)

    def __call__(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any
    ) -> dict[str, Any]:
        """`rewards`, `scores` and each of `extra_logs`: tensors of shape (len(queries),).

        OpenRLHF passes one query at a time and takes a number from each tensor of one.

        Raises RewardError as `on_failure` says, and ValueError if a query does not hold its prompt.
        """
        import torch  # here, so that a file that only names this class loads without it

        judgements = [
            judge_one(self._client, self._sample(query, prompt, label), self._settings)
            for query, prompt, label in zip(queries, prompts, labels, strict=True)
        ]
        rewards = torch.tensor([judgement.value for judgement in judgements])
        masses = [float("nan") if one.valid_mass is None else one.valid_mass for one in judgements]
        logs = {"valid_mass": torch.tensor(masses)}
        return {"rewards": rewards, "scores": rewards, "extra_logs": logs}

    def _sample(self, query: str, prompt: str, label: Any) -> Sample | Failure:
        answer = answer_of(query, prompt, self._end_tokens)
        carried = carried_by(label)
        return read_sample(
            carried.get("prompt", prompt),
            answer,
            pictures=carried.get("images"),
            reference=carried.get("reference"),
            strip_thinking=self._settings.strip_thinking,
        )


def answer_of(query: str, prompt: str, end_tokens: Sequence[str] = END_TOKENS) -> str:
    """What `query`, decoded from tokens, holds after `prompt`, without its end.

    A prompt may have changed on its way through the tokenizer: cut at its beginning, or its picture
    repeated. Its end is the same, and found as many times in the query before the answer as in the
    prompt, whatever the answer says. Raises ValueError if it is not.
    """
    if query.startswith(prompt):
        answer = query[len(prompt) :]
    else:
        tail = prompt[-_TAIL:]
        pieces = query.split(tail, prompt.count(tail))
        if len(pieces) <= prompt.count(tail):
            raise ValueError("the query does not hold the end of its prompt")
        answer = pieces[-1]
    while (shorter := _without_end(answer, end_tokens)) != answer:
        answer = shorter
    return answer


def carried_by(label: Any) -> Mapping[str, Any]:
    """The mapping that a label is or spells in JSON; empty for any other label."""
    if isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            label = json.loads(label)
        except ValueError:
            return {}
    return label if isinstance(label, Mapping) else {}


def _without_end(answer: str, end_tokens: Sequence[str]) -> str:
    answer = answer.rstrip()
    for token in end_tokens:
        answer = answer.removesuffix(token)
    return answer
