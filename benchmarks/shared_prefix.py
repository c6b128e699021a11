"""What sharing the prefix saves: N candidates of one picture, packed against one at a time.

    python benchmarks/shared_prefix.py [--candidates 16] [--rounds 20]

Both ways run the same critic on the same queries in the same process, by turns. Figures are CPU
seconds of this process (user and system): wall time on shared cores means little. The floor is the
number of tokens that no method can avoid, P + N S against N (P + S); the vision tower runs once per
call in both ways and is not counted in tokens.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from adjudge_server.config import Config
from adjudge_server.content import EncodedImage, Message, Question, Role
from adjudge_server.critic import Critic
from adjudge_server.images import decode
from adjudge_server.loading import load_critic
from adjudge_server.queries import Limits, ask
from adjudge_server.templates import Kind

SEVEN = Path(__file__).parent.parent / "examples" / "images" / "seven.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--model", type=Path, default=None, help="default: the embedded critic")
    options = parser.parse_args()

    critic = load_critic(Config(model=options.model))
    question = Question(
        (Message(Role.USER, ("What is this?", EncodedImage(SEVEN.read_bytes()))),), ""
    )
    limits = Limits(max_images=1, max_candidates=options.candidates, max_pairs=1)
    asked = ask(
        question, Kind.POINTWISE, critic.card, limits, lambda i: decode(i, max_pixels=10**6)
    )
    texts = [f"This is the digit {i}, as far as I can tell." for i in range(options.candidates)]
    items = critic.prepare([asked.query({"candidate": text}) for text in texts])

    packed, alone = [], []
    for _ in range(options.rounds):
        packed.append(cpu_seconds(lambda: afresh(critic, items)))
        alone.append(cpu_seconds(lambda: [afresh(critic, [item]) for item in items]))
    prefix = items[0].shared_tokens
    own = sum(item.own_tokens for item in items)
    count = options.candidates
    print(f"{count} candidates, prefix {prefix} tokens, {own / count:.1f} own tokens each")
    print(f"  packed         {1e3 * statistics.median(packed) / count:7.2f} CPU ms a candidate")
    print(f"  one at a time  {1e3 * statistics.median(alone) / count:7.2f} CPU ms a candidate")
    measured = statistics.median(a / p for a, p in zip(alone, packed, strict=True))
    print(f"  ratio          {measured:7.2f} (median of {options.rounds} paired rounds)")
    floor = (count * prefix + own) / (prefix + own)
    print(f"  token floor    {floor:7.2f} (N (P + S)) / (P + N S)")


def afresh(critic: Critic[Any], items: list[Any]) -> None:
    """With nothing remembered of earlier calls."""
    critic.forget()
    critic.forward(items)


def cpu_seconds(function: object) -> float:
    before = time.process_time()
    function()  # type: ignore[operator]
    return time.process_time() - before


if __name__ == "__main__":
    main()
