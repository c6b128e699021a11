"""A critic that runs in vLLM, on this machine or another.

Tokens, templates and answer trees are made here, as for the engine in this process; a running
`vllm serve` is asked for the exact log-probabilities of the tokens of the answer tree. It takes
token ids and pictures (`/inference/v1/generate`), so no text is ever tokenised, or laid out, there.
"""
