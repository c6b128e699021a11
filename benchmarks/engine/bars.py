"""What Adjudge promises, a number each."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """A number that is at most, or at least, some other."""

    name: str
    limit: float
    is_upper: bool
    meaning: str

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.is_upper else value >= self.limit


def at_most(name: str, limit: float, meaning: str) -> Bar:
    return Bar(name, limit, True, meaning)


def at_least(name: str, limit: float, meaning: str) -> Bar:
    return Bar(name, limit, False, meaning)


BARS = (
    at_most("cold_8_over_floor", 1.15, "1024x768, new picture, 8 responses, against the floor"),
    at_least("one_forward_each_over_cold_8", 6, "one forward per response against that"),
    at_least("padded_batch_over_cold_8", 10, "a padded batch against that"),
    at_least("generate_over_cold_8", 7, "the snippet's generate against that"),
    at_most("warm_8_over_suffix_floor", 1.3, "1024x768, known picture, 8 responses"),
    at_most("warm_64_over_suffix_floor", 1.2, "1024x768, known picture, 64 responses"),
    at_most("round_robin_8_over_floor", 1.25, "8 responses, 56 comparisons, new picture"),
    at_least("vllm_expectation_warm_over_adjudge", 6, "0-100 expectation of 8, known picture"),
    at_least("vllm_pruned_warm_over_adjudge", 2, "the same, unlikely first digits left out"),
    at_least("vllm_single_token_warm_over_adjudge", 1.1, "single-token verdicts, known picture"),
    at_least("vllm_single_token_cold_over_adjudge", 0.95, "single-token verdicts, new picture"),
    at_least("grpc_throughput_over_in_process", 0.9, "8 responses, new picture, end to end"),
    at_most(
        "extra_memory_between_prefix_lengths",
        1.2,
        "peak bytes of 64 responses over those of 1: larger over smaller of the two sizes",
    ),
    at_least("embedded_warm_rewards_per_second", 600, "16 responses a request, 8 clients, gRPC"),
    at_most("invariance_reward_points", 0.01, "largest change of a reward by its batch, fp32"),
    at_most("invariance_margin_nats", 1e-4, "largest change of a margin by its batch, fp32"),
)
