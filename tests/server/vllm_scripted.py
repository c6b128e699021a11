"""A server that speaks like `vllm serve` 0.32 with --enable-scale-out, around numbers of its own.

What it says was recorded from the real one. Its log-probabilities follow from the whole prompt,
pictures included, so that whoever asks another question gets another answer.
"""

import base64
import hashlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adjudge_server.tokenization import TextTokenizer

Body = dict[str, Any]
Change = Callable[[Body, Body], Any]
"""What is said instead, of a request and what would be said; None: nothing, and the line is cut."""
FLOOR = -9999.0
MOST_IDS = 128


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Scripted:
    """What it is, and what it was asked. Change it while it runs."""

    tokenizer: TextTokenizer
    image_token: int
    num_tokens: Callable[[tuple[int, int]], int]
    """Of a picture of some size."""
    num_rows: int
    root: str
    cut: Callable[[Image.Image], bytes] | None = None
    """What it feeds to the vision tower; None: it does not show it."""
    models: list[str] = field(default_factory=lambda: ["critic"])
    max_model_len: int = 8192
    max_logprobs: int = 512
    scale_out: bool = True
    key: str | None = None
    mode: str = "raw_logprobs"
    below: float = 3.0
    """By how much its logits are below 0."""
    weights: str = "default"
    """What it calls them."""
    favourite: Sequence[int] = ()
    """Tokens that are by far the most probable, one after the other from the first on."""
    wait_seconds: float = 0.0
    status: int | None = None
    """Of every answer, instead of an answer."""
    change: Change | None = None
    writes: Sequence[int] = ()
    """The critique, as far as there is room for it and no token ends it."""
    ending: str | None = "stop"
    """Why a critique ends that is over by itself; None: it breaks off."""
    between: Callable[[], None] = lambda: None
    """Called between its first event and the others."""
    examinations: int = 0
    """How often somebody asked which models it has, which comes first."""
    requests: list[Body] = field(default_factory=list)
    """Of the model, in the order in which they came."""
    known: dict[str, tuple[str, tuple[int, int]]] = field(default_factory=dict)
    """Pictures, by the name that they were sent under: digest and size."""
    most_at_a_time: int = 0
    _at_work: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def logits(self, tokens: Sequence[int], pictures: Sequence[str]) -> NDArray[np.float64]:
        """(num_rows,) after those tokens, every feature of a picture one of them."""
        seen = json.dumps([list(tokens), list(pictures)]).encode()
        seed = int.from_bytes(hashlib.sha256(seen).digest()[:8], "big")
        logits = np.random.default_rng(seed).normal(size=self.num_rows) * 2
        for n in range(len(self.favourite)):
            if list(tokens[len(tokens) - n :]) == list(self.favourite[:n]):
                logits[self.favourite[n]] = 20
        return logits

    def generate(self, body: Body) -> Body:
        sampling = body["sampling_params"]
        tokens, pictures = self._expanded(body)
        prompt = list(tokens)
        self._check(sampling, prompt)
        written: list[int] = []
        content = []
        for _ in range(sampling["max_tokens"]):
            logits = self.logits(tokens, pictures)
            allowed = sampling.get("allowed_token_ids") or range(self.num_rows)
            token = max(allowed, key=lambda each: logits[each])
            content.append(self._step(token, logits, sampling))
            tokens.append(token)
            written.append(token)
        return {
            "request_id": "generate-tokens-1",
            "model": body["model"],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": len(written),
                "prompt_tokens_details": {"cached_tokens": 16 * (len(prompt) // 32)},
            },
            "prompt_token_ids": prompt if body.get("return_token_ids") else None,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "length",
                    "token_ids": written,
                    "weight_versions": [self._span(len(written))],
                    "logprobs": {"content": content},
                }
            ],
        }

    def critique(self, sampling: Body) -> Iterator[Body]:
        """Its events, each with one token."""
        written: list[int] = []
        ending = self.ending
        for token in self.writes:
            written.append(token)
            if token in sampling["stop_token_ids"]:
                ending = "stop"
            elif len(written) == sampling["max_tokens"]:
                ending = "length"
            else:
                yield _event([token])
                continue
            yield _event([token], finish_reason=ending, weight_versions=[self._span(len(written))])
            return
        if ending is not None:
            yield _event([], finish_reason=ending, weight_versions=[self._span(len(written))])

    def _span(self, end: int) -> Body:
        return {"version": self.weights, "start": 0, "end": end}

    def _expanded(self, body: Body) -> tuple[list[int], list[str]]:
        tokens: list[int] = []
        digests: list[str] = []
        parts = iter(body.get("content_parts") or ())
        for token in body["token_ids"]:
            if token >= self.num_rows:
                raise Refused(400, f"Token id {token} is out of vocabulary")
            if token != self.image_token:
                tokens.append(token)
                continue
            digest, size = self._picture(next(parts))
            digests.append(digest)
            tokens += [token] * self.num_tokens(size)
        if next(parts, None) is not None:
            raise Refused(400, "more pictures than placeholders")
        return tokens, digests

    def _picture(self, part: Body) -> tuple[str, tuple[int, int]]:
        if (url := part.get("url")) is None:
            if part["uuid"] not in self.known:
                raise Refused(400, "Cache miss for image at index 0 but data is not provided.")
            return self.known[part["uuid"]]
        data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(data)) as image:
            found = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest(), image.size
        self.known[part["uuid"]] = found
        return found

    def _check(self, sampling: Body, prompt: Sequence[int]) -> None:
        ids = sampling.get("logprob_token_ids") or range(sampling["logprobs"])
        if len(prompt) + 1 > self.max_model_len:
            raise Refused(400, f"The decoder prompt (length {len(prompt)}) is longer than")
        if max(ids) >= self.num_rows:
            raise Refused(400, f"token_id(s) {ids} in logprob_token_ids contain out-of-vocab")
        if len(ids) > min(MOST_IDS, self.max_logprobs) or sampling["logprobs"] != len(ids):
            raise Refused(400, f"Requested sample logprobs of {len(ids)}, which is greater than")

    def _step(self, token: int, logits: NDArray[np.float64], sampling: Body) -> Body:
        if self.mode == "processed_logprobs" and (allowed := sampling.get("allowed_token_ids")):
            masked = np.full_like(logits, -np.inf)
            masked[allowed] = logits[allowed]
            logits = masked
        log_probs = logits - np.logaddexp.reduce(logits)
        if self.mode == "raw_logits":
            log_probs = (logits - logits.max()) / 4 - self.below
        ids = sampling.get("logprob_token_ids") or np.argsort(-logits).tolist()
        ids = [token, *(i for i in ids if i != token)]
        top = [
            {"token_id": i, "logprob": max(float(log_probs[i]), FLOOR), "rank": None}
            for i in ids[: sampling["logprobs"]]
        ]
        return {**top[0], "top_logprobs": top}

    @contextmanager
    def working(self) -> Iterator[None]:
        with self._lock:
            self._at_work += 1
            self.most_at_a_time = max(self.most_at_a_time, self._at_work)
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1


def _handler(scripted: Scripted) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            scripted.examinations += self.path == "/v1/models"
            root = {"id": None, "root": scripted.root, "max_model_len": scripted.max_model_len}
            self._answer(
                {
                    "/health": lambda: None,
                    "/version": lambda: {"version": "0.32.0"},
                    "/v1/models": lambda: {"data": [root | {"id": m} for m in scripted.models]},
                }[self.path]
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                text = body["prompt"]
                self._answer(lambda: {"tokens": scripted.tokenizer.encode(text, at_start=True)})
                return
            if self.path == "/v1/chat/completions/render":
                self._answer(lambda: self._rendered(body))
                return
            scripted.requests.append(body)
            with scripted.working():
                time.sleep(scripted.wait_seconds)
                self._answer(lambda: self._generated(body))

        def _rendered(self, body: Body) -> Any:
            if scripted.cut is None:
                raise Refused(400, "As of transformers v4.44, default chat template is no longer")
            (part,) = body["messages"][0]["content"]
            data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
            with Image.open(io.BytesIO(base64.b64decode(data))) as image:
                shown = b"pixel_values" + scripted.cut(image.convert("RGB"))
            return {"features": {"kwargs_data": {"image": [base64.b64encode(shown).decode()]}}}

        def _generated(self, body: Body) -> Any:
            if not scripted.scale_out:
                raise Refused(403, "Scale-out endpoints are disabled.")
            if body.get("stream"):
                scripted._expanded(body)
                return scripted.critique(body["sampling_params"])
            answer = scripted.generate(body)
            return answer if scripted.change is None else scripted.change(body, answer)

        def _answer(self, say: Callable[[], Any]) -> None:
            try:
                if scripted.status is not None:
                    raise Refused(scripted.status, "as told")
                given = self.headers.get("Authorization")
                if scripted.key is not None and given != f"Bearer {scripted.key}":
                    raise Refused(401, "Unauthorized")
                said = say()
            except Refused as error:
                message = {"error": {"message": str(error), "code": error.status}}
                self._send(error.status, json.dumps(message).encode())
                return
            if isinstance(said, Iterator):
                self._stream(said)
            elif said is None and self.command == "POST":
                self.close_connection = True
                self.connection.close()
            else:
                self._send(200, b"" if said is None else json.dumps(said).encode())

        def _stream(self, events: Iterator[Body]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for line in chain(map(json.dumps, events), ["[DONE]"]):
                self.wfile.write(f"data: {line}\n\n".encode())
                self.wfile.flush()
                scripted.between()

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _event(tokens: Sequence[int], **end: Any) -> Body:
    choice = {"index": 0, "token_ids": list(tokens), "finish_reason": None, "weight_versions": None}
    return {"request_id": "1", "choices": [choice | end]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self._lines: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        line, address = super().get_request()
        self._lines.append(line)
        return line, address

    def cut(self) -> None:
        """Every open line, as a process that ends does."""
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave."""


@contextmanager
def serving(scripted: Scripted, port: int = 0) -> Iterator[str]:
    """Its URL."""
    server = _Server(("127.0.0.1", port), _handler(scripted))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        server.cut()
        thread.join()
