"""A client that is killed in the middle: `python -m tests.soak.victim ADDRESS`.

Says "asking" once it was answered, and asks on for ever.
"""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

from adjudge_reranker import RewardClient, RewardError
from tests.soak.questions import NUM_PICTURES, question

NUM_THREADS = 4


def main(address: str) -> None:
    client = RewardClient(address)
    choose = random.Random()

    def ask() -> None:
        asked = question(choose.randrange(NUM_PICTURES))
        try:
            if choose.random() < 0.3:
                list(client.critique(asked.prompt, asked.candidates))
            else:
                client.score(asked.prompt, asked.candidates)
        except RewardError:
            return  # whoever is killed complains to nobody

    def ask_for_ever() -> None:
        while True:
            ask()

    ask()
    print("asking", flush=True)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for _ in range(NUM_THREADS):
            threads.submit(ask_for_ever)


if __name__ == "__main__":
    main(sys.argv[1])
