"""Chooses the best answer of a transformers model while it generates. Start `adjudge-server` first.

With POLICY, the name or folder of a vision-language model, its answers; without, those of a tiny
model that sees nothing and learns ten sentences first, in a few seconds.
"""

import os
import time
from contextlib import closing
from pathlib import Path

import torch
import transformers

from adjudge_reranker import Message, RewardClient
from adjudge_reranker.generation import TransformersPolicy, generate_best_of_n

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = ["<pad>", "<eos>", "<go>", "This", "is", "a", "handwritten", "number"]


def policy_that_guesses():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [*WORDS, *(f"{digit}." for digit in DIGITS)]
    model = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<go>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="<eos>", unk_token="<go>"
    )
    tokenizer.chat_template = "<go>"  # whatever is asked
    config = transformers.Qwen2Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.set_num_threads(1)  # threads cost more than so small a model does
    torch.manual_seed(0)
    policy = transformers.Qwen2ForCausalLM(config)
    sentences = [f"<go> This is a handwritten number {digit}. <eos>" for digit in DIGITS]
    tokens = tokenizer(sentences, return_tensors="pt").input_ids
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for _ in range(60):
        policy(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy.eval(), tokenizer


name = os.environ.get("POLICY")
picture = Path(__file__).parent / "images" / "seven.png"
question = "What this image presents?"
if name:
    model = transformers.AutoModelForImageTextToText.from_pretrained(name, dtype="auto")
    processor = transformers.AutoProcessor.from_pretrained(name)
else:
    model, processor = policy_that_guesses()


class Blind(TransformersPolicy):
    """Is asked without the picture, and takes as long for four answers as a larger model would: the
    tiny one has all its answers before the critic has seen one."""

    def samples(self, prompt, order):
        with closing(super().samples([Message.user("What is it?")], order)) as batches:
            for batch in batches:
                time.sleep(0.5)
                yield batch


make = TransformersPolicy if name else Blind
policy = make(model, processor, chunk_size=4, max_new_tokens=128)
with RewardClient(os.environ.get("ADJUDGE_SERVER", "127.0.0.1:50051")) as client:
    selection = generate_best_of_n(client, policy, [picture, question], 32, good_enough=80.0)

for attempt in selection.attempts:
    print(attempt.index, attempt.reward, attempt.candidate or attempt.error or "cancelled")
print(f"{selection.stop}: {selection.num_generated} of {selection.num_candidates} generated,")
print(f"{selection.num_scored} scored, {selection.num_cancelled} cancelled")
print("best:", selection.best.candidate)
