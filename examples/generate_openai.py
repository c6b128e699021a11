"""Chooses the best answer of a chat endpoint while it generates. Start `adjudge-server` first.

With POLICY_URL, such as http://127.0.0.1:8000/v1, and POLICY, a model there, its answers; without,
those of a tiny endpoint that this program starts, which guesses.
"""

import asyncio
import json
import os
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from adjudge_reranker import AsyncRewardClient
from adjudge_reranker.generation import OpenAIPolicy, async_generate_best_of_n

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class Guesses(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.3)  # as a model would take, or all answers are there before the first reward
        digit = random.Random(body["seed"]).choice(DIGITS)
        message = {"role": "assistant", "content": f"This is a handwritten number {digit}."}
        answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args: object) -> None:
        pass


def endpoint_that_guesses() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guesses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


async def main() -> None:
    policy = OpenAIPolicy(
        os.environ.get("POLICY", "guesses"),
        base_url=os.environ.get("POLICY_URL") or endpoint_that_guesses(),
        max_in_flight=2,
        temperature=1.0,
        seed=0,
    )
    picture = Path(__file__).parent / "images" / "seven.png"
    async with AsyncRewardClient(os.environ.get("ADJUDGE_SERVER", "127.0.0.1:50051")) as client:
        selection = await async_generate_best_of_n(
            client, policy, [picture, "What this image presents?"], 32, good_enough=80.0
        )
    for attempt in selection.attempts:
        print(attempt.index, attempt.reward, attempt.candidate or attempt.error or "cancelled")
    print(f"{selection.stop}: {selection.num_generated} of {selection.num_candidates} generated,")
    print(f"{selection.num_scored} scored, {selection.num_cancelled} cancelled")
    print("best:", selection.best.candidate)


asyncio.run(main())
