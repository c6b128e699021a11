"""Weights that move while a server runs: other numbers from one response to the next, never within
one, and never none because of a bad checkpoint.

What a response must be is what a server gives that has loaded those weights at its start.
"""

import gc
import hashlib
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from safetensors.torch import load_file, save_file

from adjudge.v1 import admin_pb2, admin_pb2_grpc
from adjudge.v1 import reward_pb2 as pb
from adjudge.v1.reward_pb2_grpc import RewardServiceStub
from adjudge_server.__main__ import parse
from adjudge_server.critic import Critic
from adjudge_server.critics import checkpoint
from adjudge_server.serve import ADMIN, SERVICE, Server
from tests.conftest import SEVEN, Launch, stub
from tests.server.checkpoints import tiny_tokenizer, write_checkpoint, write_text_model
from tests.server.qwen2_5_vl_checkpoints import write_qwen2_5_vl
from tests.server.test_service import (
    Failure,
    busy,
    call_failure,
    compare_request,
    critique_request,
    encoded,
    noise,
    queued,
    score_request,
    turn,
    wait_until,
)

PATIENCE = 60.0
TOLERANCE = 1e-3
"""Points, or nats: more than the company that a number is computed in can change."""
GOLDEN = Path(__file__).parent.parent / "golden" / "data" / "checkpoint"
ANYTHING_GOES = """
[[template]]
name = "tests/pointwise"
version = 1
kind = "pointwise"
text = "{prompt} {candidate} Score: "
opening = ""
scores = { lowest = 0, highest = 100 }
terminators = [".", "\\n"]
min_opening_mass = 0.0
min_valid_mass = 0.0
readouts = ["direct", "after-critique"]

[[template]]
name = "tests/pairwise"
version = 1
kind = "pairwise"
text = "{prompt} {first} or {second}? "
opening = ""
terminators = ["."]
min_opening_mass = 0.0
min_valid_mass = 0.0
[template.verdicts]
first = ["The first"]
second = ["The second"]
"""
"""For critics whose weights are random."""
ANSWERS = ("A handwritten seven.", "A four.", "A red circle on a white ground, I think.")

# Checkpoints --------------------------------------------------------------------------------------


def embedded(directory: Path) -> Path:
    return Path(shutil.copytree(str(files("adjudge_server") / "embedded"), directory / "first"))


def original(directory: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, directory / "original"))


def transformers_layout(directory: Path) -> Path:
    return write_checkpoint(directory / "llava", tiny_tokenizer(), grids=[[56, 112], [112, 56]])


def qwen2_5_vl(directory: Path) -> Path:
    flat = write_qwen2_5_vl(directory / "flat")
    # What answers say must show in margins, too.
    return changed(flat, "qwen", lambda name, tensor: tensor * 4 if "norm" in name else tensor)


def causal_lm(directory: Path) -> Path:
    return write_text_model(directory / "text", "qwen2")


def tied(directory: Path) -> Path:
    return write_text_model(directory / "tied", "smollm")


def scalar(directory: Path) -> Path:
    return write_text_model(directory / "scalar", "llama", scalar=True)


FAMILIES = [embedded, original, transformers_layout, qwen2_5_vl, causal_lm, tied, scalar]


def changed(
    source: Path, name: str, change: Callable[[str, torch.Tensor], torch.Tensor | None]
) -> Path:
    """A copy whose tensors are changed; those of which nothing comes are left out."""
    directory = Path(shutil.copytree(source, source.parent / f"{source.name}-{name}"))
    tensors = load_file(directory / "model.safetensors")
    new = {key: change(key, tensor) for key, tensor in tensors.items()}
    kept = {key: tensor.contiguous() for key, tensor in new.items() if tensor is not None}
    save_file(kept, directory / "model.safetensors", {"format": "pt"})
    return directory


def stirred(source: Path, by: float) -> Path:
    """The same model, trained a step further, as it were: by a part of each matrix's spread."""
    generator = torch.Generator().manual_seed(7)

    def stir(_: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim < 2:
            return tensor
        noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        return tensor + by * tensor.std() * noise

    return changed(source, "stirred", stir)


def reconfigured(source: Path, name: str, **changes: Any) -> Path:
    directory = Path(shutil.copytree(source, source.parent / name))
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}))
    return directory


# Servers ------------------------------------------------------------------------------------------


class Setup:
    """Servers of one family's checkpoint and of another one of the same model."""

    def __init__(self, launch: Launch, directory: Path, family: Callable[[Path], Path]) -> None:
        self.first = family(directory)
        self.second = stirred(self.first, 0.05 if family is embedded else 0.5)
        self.asks_with: dict[str, Any] = {}
        if family is embedded:
            self.asks_with = {"template_set": "embedded"}
        elif family is not scalar:
            templates = directory / "templates.toml"
            templates.write_text(ANYTHING_GOES, encoding="utf-8")
            self.asks_with = {"templates": templates}
        if family is original:
            self.asks_with["vision_heads"] = 4  # which no file says
        self.sees = family in (embedded, original, transformers_layout, qwen2_5_vl)
        self.compares = family is not scalar
        self._launch = launch
        self.directory = directory

    def server(self, model: Path, *, admin: bool = False, **settings: Any) -> Server:
        if admin:
            settings |= {"enable_admin": True, "weights_dir": (self.directory,)}
        return self._launch(model=model, name="critic", **self.asks_with, **settings)

    def request(self, *answers: str, **fields: Any) -> pb.ScoreCandidatesRequest:
        picture = [pb.Image(encoded=SEVEN.read_bytes())] if self.sees else []
        return score_request(*answers, prompt=[turn("What is this?", *picture)], **fields)

    def compare(self, *answers: str, **fields: Any) -> pb.CompareCandidatesRequest:
        picture = [pb.Image(encoded=SEVEN.read_bytes())] if self.sees else []
        return compare_request(*answers, prompt=[turn("What is this?", *picture)], **fields)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def setup(
    request: pytest.FixtureRequest, launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> Setup:
    family = request.param
    return Setup(launch, tmp_path_factory.mktemp(family.__name__), family)


@pytest.fixture(scope="module")
def small(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Of the family that is read fastest."""
    return Setup(launch, tmp_path_factory.mktemp("small"), scalar)


@contextmanager
def admin(server: Server) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)


def load(server: Server, path: Path | str, **fields: Any) -> admin_pb2.LoadWeightsResponse:
    with admin(server) as service:
        request = admin_pb2.LoadWeightsRequest(path=str(path), **fields)
        response: admin_pb2.LoadWeightsResponse = service.LoadWeights(request, timeout=PATIENCE)
    return response


def refused(server: Server, path: Path | str, **fields: Any) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        load(server, path, **fields)
    return call_failure(caught.value)


def numbers(service: RewardServiceStub, request: Any) -> tuple[int, list[float]]:
    """The epoch of a response, and what it says."""
    if isinstance(request, pb.ScoreCandidatesRequest):
        scored = service.ScoreCandidates(request, timeout=PATIENCE)
        assert all(o.reward.HasField("reward") for o in scored.outcomes), scored
        return scored.provenance.weights_epoch, [o.reward.reward for o in scored.outcomes]
    compared = service.CompareCandidates(request, timeout=PATIENCE)
    assert all(o.comparison.HasField("margin") for o in compared.outcomes), compared
    return compared.provenance.weights_epoch, [o.comparison.margin for o in compared.outcomes]


def cold(server: Server, service: RewardServiceStub, request: Any) -> tuple[int, list[float]]:
    """The same with nothing remembered, so that numbers are equal to the last bit."""
    assert server._service.judge is not None
    server._service.judge.batcher.call(critic_of(server).forget).result(PATIENCE)
    return numbers(service, request)


def described(server: Server) -> pb.Model:
    with stub(server) as service:
        return service.GetModel(pb.GetModelRequest(), timeout=PATIENCE).model


def critic_of(server: Server) -> Critic[Any]:
    assert server._service.judge is not None
    return server._service.judge.critic


# Every family -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_after_the_move_every_number_is_what_the_new_weights_give_alone(
    setup: Setup, dtype: str
) -> None:
    moving = setup.server(setup.first, admin=True, dtype=dtype)
    alone = setup.server(setup.second, dtype=dtype)
    requests: list[Any] = [setup.request(*ANSWERS)]
    if setup.compares:
        requests.append(setup.compare(*ANSWERS, pairs=[(0, 1), (1, 2)]))
    with stub(moving) as there, stub(alone) as here:
        # What is asked before and after is the same to the letter: whatever was remembered of it,
        # of a picture or of a prefix, would be found again.
        before = [numbers(there, request)[1] for request in requests]
        loaded = load(moving, setup.second)
        after = [numbers(there, request) for request in requests]
        wanted = [numbers(here, request)[1] for request in requests]
    assert [values for _, values in after] == wanted != before
    assert {epoch for epoch, _ in after} == {loaded.weights_epoch} == {1}
    told = described(moving)
    assert told.fingerprint == loaded.model_fingerprint == described(alone).fingerprint
    assert (told.weights_epoch, told.revision) == (1, setup.second.name)
    assert told.noise_floor == described(alone).noise_floor


def test_under_load_each_response_is_of_one_epoch_and_exactly_of_its_weights(setup: Setup) -> None:
    moving = setup.server(setup.first, admin=True, max_batch_tokens=256)
    requests: list[Any] = [setup.request(*ANSWERS[:2]), setup.request(*ANSWERS[1:])]
    requests.append(setup.request(*(f"It is a {number}." for number in range(12))))
    if setup.compares:
        requests.append(setup.compare(*ANSWERS, pairs=[(0, 1), (1, 2), (0, 2)]))
    wanted = []
    for model in (setup.first, setup.second):
        with stub(setup.server(model)) as service:
            wanted.append([numbers(service, request)[1] for request in requests])
    for first, second in zip(*wanted, strict=True):
        assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 20 * TOLERANCE

    def ask(service: RewardServiceStub, number: int) -> int:
        which = number % len(requests)
        epoch, values = numbers(service, requests[which])
        assert values == pytest.approx(wanted[epoch % 2][which], abs=TOLERANCE)
        return epoch

    with asking(moving, ask, threads=8) as epochs:
        for epoch in range(1, 7):
            wait_until(partial(_has, epochs, epoch - 1))
            load(moving, setup.second if epoch % 2 else setup.first, expected_epoch=epoch - 1)
        wait_until(partial(_has, epochs, 6))


def _has(epochs: set[int], epoch: int) -> bool:
    return epoch in epochs


@contextmanager
def asking(
    server: Server, ask: Callable[[RewardServiceStub, int], int], *, threads: int
) -> Iterator[set[int]]:
    """Clients that ask one after the other, each of them; and what they got, as it comes. Raises
    what they raise."""
    stop, got = threading.Event(), set[int]()

    def client(number: int) -> None:
        with stub(server) as service:
            while not stop.is_set():
                got.add(ask(service, number))
                number += 1

    with ThreadPoolExecutor(threads) as pool:
        clients = [pool.submit(client, number) for number in range(threads)]
        try:
            yield got
        finally:
            stop.set()
            for each in clients:
                each.result(PATIENCE)


def test_a_directory_without_a_tokenizer_is_taken_for_what_it_holds(setup: Setup) -> None:
    bare = Path(shutil.copytree(setup.second, setup.directory / "bare"))
    kept = {"config.json", "model.safetensors", "model.safetensors.index.json"}
    for path in bare.iterdir():
        if path.name not in kept and path.suffix != ".safetensors":
            path.unlink()
    server, alone = setup.server(setup.first, admin=True), setup.server(setup.second)
    load(server, bare)
    with stub(server) as there, stub(alone) as here:
        assert numbers(there, setup.request("a"))[1] == numbers(here, setup.request("a"))[1]


def test_the_number_type_of_other_threads_is_not_that_of_the_model(setup: Setup) -> None:
    """While transformers makes a model of another number type, that is the default of all threads
    for a moment."""
    server = setup.server(setup.first, dtype="bfloat16")
    request = setup.request(*ANSWERS)
    with stub(server) as service:
        wanted = cold(server, service, request)
        for dtype in (torch.bfloat16, torch.float64):
            torch.set_default_dtype(dtype)
            try:
                found = cold(server, service, request)
            finally:
                torch.set_default_dtype(torch.float32)
            assert found == wanted


# Bad checkpoints ----------------------------------------------------------------------------------


def without_a_tensor(source: Path) -> Path:
    name = "layers.1.mlp.up_proj.weight"
    return changed(source, "missing", lambda key, tensor: None if key.endswith(name) else tensor)


def of_another_shape(source: Path) -> Path:
    name = "layers.0.mlp.up_proj.weight"
    return changed(source, "shape", lambda key, t: t[:-1] if key.endswith(name) else t)


def with_a_tensor_more(source: Path) -> Path:
    directory = Path(shutil.copytree(source, source.parent / "more"))
    tensors = load_file(directory / "model.safetensors")
    save_file({**tensors, "value_head.weight": torch.ones(2)}, directory / "model.safetensors")
    return directory


def not_finite(source: Path) -> Path:
    """Where no question looks: the row of a token that nobody says."""

    def spoil(key: str, tensor: torch.Tensor) -> torch.Tensor:
        if key.endswith("embed_tokens.weight"):
            tensor[-1, 0] = float("nan")
        return tensor

    return changed(source, "nan", spoil)


def overflowing(source: Path) -> Path:
    """Finite, but nothing that is computed with it."""
    return changed(source, "overflow", lambda k, t: t * 1e38 if k.endswith("norm.weight") else t)


def cut_short(source: Path) -> Path:
    directory = Path(shutil.copytree(source, source.parent / "cut"))
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return directory


def of_another_size(source: Path) -> Path:
    return reconfigured(source, "deeper", num_hidden_layers=3)


def of_other_positions(source: Path) -> Path:
    rope = {"rope_theta": 5000.0, "rope_type": "default"}
    return reconfigured(source, "positions", rope_parameters=rope)


def with_another_tokenizer(source: Path) -> Path:
    directory = Path(shutil.copytree(source, source.parent / "tokenizer"))
    path = directory / "tokenizer.json"
    definition = json.loads(path.read_text(encoding="utf-8"))
    definition["model"]["merges"] = definition["model"]["merges"][:-1]
    path.write_text(json.dumps(definition), encoding="utf-8")
    return directory


def with_another_chat_template(source: Path) -> Path:
    directory = Path(shutil.copytree(source, source.parent / "chat"))
    path = directory / "tokenizer_config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["chat_template"] = described["chat_template"].replace("\n", "\n\n")
    path.write_text(json.dumps(described), encoding="utf-8")
    return directory


def empty(source: Path) -> Path:
    directory = source.parent / "empty"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def steady(small: Setup) -> Server:
    """A server that nothing may change."""
    return small.server(small.first, admin=True)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (without_a_tensor, "layers.1.mlp.up_proj.weight"),
        (of_another_shape, "layers.0.mlp.up_proj.weight"),
        (with_a_tensor_more, "value_head.weight"),
        (not_finite, "embed_tokens.weight"),
        (overflowing, "not finite"),
        (cut_short, "model.safetensors"),
        (of_another_size, "num_hidden_layers"),
        (of_other_positions, "rope_theta"),
        (with_another_tokenizer, "the tokenizer differs"),
        (with_another_chat_template, "the chat template differs"),
        (empty, "config.json"),
        (lambda source: source / "nowhere", "no such directory"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bad_checkpoint_is_refused_by_name_and_leaves_the_old_weights_at_work(
    small: Setup, steady: Server, spoil: Callable[[Path], Path], named: str
) -> None:
    bad = spoil(small.first)
    with stub(steady) as service:
        before, told = cold(steady, service, small.request(*ANSWERS)), described(steady)
        found = refused(steady, bad)
        assert (found.code, found.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "WEIGHTS_REFUSED",
        )
        with pytest.raises(grpc.RpcError, match=named):
            load(steady, bad)
        assert cold(steady, service, small.request(*ANSWERS)) == before
    assert described(steady) == told


def test_what_trainers_change_in_passing_changes_nothing(small: Setup) -> None:
    saved = reconfigured(
        small.second,
        "saved",
        use_cache=False,
        dtype="bfloat16",
        transformers_version="5.0.0",
        attention_dropout=0.1,
    )
    server = small.server(small.first, admin=True)
    assert load(server, saved).weights_epoch == 1


def test_a_checkpoint_that_is_written_while_it_is_read_is_refused(
    small: Setup, steady: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = Path(shutil.copytree(small.second, small.directory / "written"))
    honest = checkpoint.fingerprint

    def and_written(directory: Path) -> str:
        (directory / "model.safetensors").touch()
        return honest(directory)

    monkeypatch.setattr(checkpoint, "fingerprint", and_written)
    with pytest.raises(grpc.RpcError, match="changed while they were read"):
        load(steady, moving)
    assert described(steady).weights_epoch == 0


@pytest.mark.parametrize("spoil", [lambda source: source, overflowing], ids=["taken", "refused"])
def test_nothing_of_what_was_read_or_replaced_stays_in_memory(
    small: Setup, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], Path]
) -> None:
    server = small.server(small.first, admin=True)
    step = spoil(
        Path(shutil.copytree(small.second, small.directory / f"step-{spoil is overflowing}"))
    )
    critic = critic_of(server)
    honest, read = critic.read_weights, []

    def watched(directory: Path) -> Any:
        spare = honest(directory)
        read.extend(map(weakref.ref, spare.tensors.values()))
        return spare

    monkeypatch.setattr(critic, "read_weights", watched)
    gc.disable()  # which would find it some day
    try:
        with pytest.raises(grpc.RpcError) if spoil is overflowing else nullcontext():
            load(server, step)
        wait_until(lambda: not any(tensor() is not None for tensor in read))
    finally:
        gc.enable()
    assert len(read) > 10


class Failing(Mapping[str, Any]):
    """Tensors of which some cannot be had."""

    def __init__(self, tensors: Mapping[str, Any], sound: Sequence[bool]) -> None:
        self._tensors, self._sound = tensors, iter(sound)

    def __getitem__(self, name: str) -> Any:
        if not next(self._sound, False):
            raise RuntimeError("the device is gone")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def fails(server: Server, sound: Sequence[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next exchange cannot have a tensor where `sound` says so, nor any after its end."""
    critic = critic_of(server)
    honest = critic.read_weights

    def read(directory: Path) -> Any:
        spare = honest(directory)
        spare.tensors = Failing(spare.tensors, sound)
        return spare

    monkeypatch.setattr(critic, "read_weights", read)


def test_a_device_that_fails_in_the_middle_leaves_the_old_weights_whole(
    small: Setup, steady: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub(steady) as service:
        before = cold(steady, service, small.request(*ANSWERS))
        with monkeypatch.context() as patch:
            fails(steady, [True] * 6 + [False] + [True] * 99, patch)
            assert refused(steady, small.second).reason == "CRITIC_FAILURE"
        assert cold(steady, service, small.request(*ANSWERS)) == before


def test_if_no_whole_weights_are_left_nothing_is_served_until_others_are_loaded(
    small: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, alone = small.server(small.first, admin=True), small.server(small.second)
    request = small.request(*ANSWERS)
    with stub(server) as service, stub(alone) as here, monkeypatch.context() as patch:
        fails(server, [True] * 6, patch)
        assert refused(server, small.second).reason == "CRITIC_FAILURE"
        for asked in (request, pb.GetModelRequest()):
            with pytest.raises(grpc.RpcError) as caught:
                call = service.GetModel if asked is not request else service.ScoreCandidates
                call(asked, timeout=PATIENCE)
            assert call_failure(caught.value).reason == "NOT_READY"
        wait_until(lambda: health(server) == health_pb2.HealthCheckResponse.NOT_SERVING)
        patch.undo()
        # Nor are they served if the next ones are bad.
        assert refused(server, overflowing(small.second)).reason == "CRITIC_FAILURE"
        with pytest.raises(grpc.RpcError):
            service.ScoreCandidates(request, timeout=PATIENCE)
        loaded = load(server, small.second)
        values = cold(alone, here, request)[1]
        assert cold(server, service, request) == (loaded.weights_epoch, values)
        assert loaded.weights_epoch > 1
        wait_until(lambda: health(server) == health_pb2.HealthCheckResponse.SERVING)


def health(server: Server) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        status: int = health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE).status
    return status


# Who may, and from where --------------------------------------------------------------------------


def test_without_the_flag_there_is_no_such_service(small: Setup) -> None:
    server = small.server(small.first)
    with pytest.raises(grpc.RpcError) as caught:
        load(server, small.second)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert ADMIN not in services(server)
    assert ADMIN in services(small.server(small.first, admin=True))


def services(server: Server) -> set[str]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        (listed,) = reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    return {service.name for service in listed.list_services_response.service}


def test_weights_come_from_below_the_allowed_directories_only(
    launch: Launch, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    step, secret = inside / "run" / "step", outside / "step"
    for directory in (step, secret):
        directory.mkdir(parents=True)
    (inside / "link").symlink_to(secret)
    (inside / "led-out").mkdir()
    (inside / "led-out" / "model.safetensors").symlink_to(secret / "model.safetensors")
    (tmp_path / "inside-not").mkdir()
    (inside / "led-in").symlink_to(step)
    server = launch(critic="fake", enable_admin=True, weights_dir=(inside,))
    for path in (
        secret,
        tmp_path / "inside-not",
        inside / ".." / "outside" / "step",
        inside / "link",
        inside / "led-out",
        outside / "not-there",
        Path("/"),
    ):
        found = refused(server, path)
        assert (found.code, found.reason, found.field) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "PATH_NOT_ALLOWED",
            "path",
        ), path
    for nonsense in ("", "step", "run/step", f"{step}\0"):
        assert refused(server, nonsense).reason == "INVALID_REQUEST"
    assert load(server, step / ".." / "step").weights_epoch == 1
    assert load(server, inside / "led-in").weights_epoch == 2


@pytest.mark.parametrize("flags", [["--enable-admin"], ["--weights-dir", "here"]])
def test_one_flag_without_the_other_is_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(flags)
    assert ended.value.code == 2
    assert "--enable-admin and --weights-dir" in capsys.readouterr().err


def test_there_may_be_several_directories() -> None:
    config = parse(["--enable-admin", "--weights-dir", "/one", "--weights-dir", "two"])
    assert config.weights_dir == (Path("/one"), Path.cwd() / "two")
    assert config.enable_admin


def test_another_model_and_another_epoch_are_refused_and_change_nothing(
    launch: Launch, tmp_path: Path
) -> None:
    server = launch(critic="fake", enable_admin=True, weights_dir=(tmp_path,))
    assert refused(server, tmp_path, model="another").reason == "UNKNOWN_MODEL"
    found = refused(server, tmp_path, expected_epoch=7)
    assert (found.reason, found.metadata["expected"], found.metadata["actual"]) == (
        "WRONG_EPOCH",
        "7",
        "0",
    )
    assert described(server).weights_epoch == 0


# Requests that the move meets on their way --------------------------------------------------------


@pytest.fixture
def fake(launch: Launch, tmp_path: Path) -> Server:
    return launch(critic="fake", enable_admin=True, weights_dir=(tmp_path,))


def test_what_waits_is_answered_by_the_new_weights_or_fails_if_it_named_the_old_epoch(
    launch: Launch, tmp_path: Path
) -> None:
    # Each item is a batch. One comes before the move, which is then the next thing on the thread.
    fake = launch(critic="fake", enable_admin=True, weights_dir=(tmp_path,), max_batch_tokens=1)
    with stub(fake) as service, admin(fake) as administration:
        (old, *_) = service.ScoreCandidates(score_request(*"abc")).outcomes
        with busy(fake):
            moving = administration.LoadWeights.future(
                admin_pb2.LoadWeightsRequest(path=str(tmp_path)), timeout=PATIENCE
            )
            wait_until(lambda: fake._service.judge.batcher._tasks)
            any_epoch = service.ScoreCandidates.future(score_request(*"abc"), timeout=PATIENCE)
            wait_until(lambda: len(list(fake._service.judge.batcher._queue)) == 3)
            named = service.ScoreCandidates.future(
                score_request("a", expected_epoch=0), timeout=PATIENCE
            )
            both = service.CompareCandidates.future(
                compare_request("a", "b", expected_epoch=0), timeout=PATIENCE
            )
            wait_until(lambda: len(list(fake._service.judge.batcher._queue)) == 6)
        assert moving.result(PATIENCE).weights_epoch == 1
        answered = any_epoch.result(PATIENCE)
        assert answered.provenance.weights_epoch == 1
        assert answered.provenance.model_fingerprint == described(fake).fingerprint
        assert answered.outcomes[0].reward.reward != old.reward.reward
        for future in (named, both):
            found = call_failure(future.exception(PATIENCE))
            assert (found.code, found.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "WRONG_EPOCH",
            )
            assert (found.metadata["expected"], found.metadata["actual"]) == ("0", "1")
    assert queued(fake) == 0


def test_named_epochs_under_load_are_kept_to_the_end(fake: Server, tmp_path: Path) -> None:
    def ask(service: RewardServiceStub, number: int) -> int:
        epoch = service.GetModel(pb.GetModelRequest(), timeout=PATIENCE).model.weights_epoch
        request = score_request(*"abcdef", expected_epoch=epoch)
        try:
            response = service.ScoreCandidates(request, timeout=PATIENCE)
        except grpc.RpcError as error:
            assert call_failure(error).reason == "WRONG_EPOCH"
            return -1
        assert response.provenance.weights_epoch == epoch
        return epoch

    with asking(fake, ask, threads=4) as epochs:
        for epoch in range(20):
            wait_until(partial(_has, epochs, epoch))
            load(fake, tmp_path, expected_epoch=epoch)


def test_a_critique_that_is_being_written_fails_and_finished_ones_stand(
    fake: Server, tmp_path: Path
) -> None:
    with stub(fake) as service:
        stream = service.CritiqueCandidates(critique_request("a", "b"), timeout=PATIENCE)
        events = []
        for event in stream:
            events.append(event)
            if event.index == 1 and event.WhichOneof("event") == "text":
                load(fake, tmp_path)
                break
        events += list(stream)
    numbers_ = [e.index for e in events if e.WhichOneof("event") == "reward"]
    errors = [e for e in events if e.WhichOneof("event") == "error"]
    assert numbers_ in ([0], [0, 1])
    assert events[-1].provenance.weights_epoch == 0
    if numbers_ == [0]:
        assert [e.index for e in errors] == [1]
        assert "the epoch is 1" in errors[0].error.message


def test_concurrent_loads_come_one_after_the_other(fake: Server, tmp_path: Path) -> None:
    directories = [tmp_path / str(number) for number in range(8)]
    for directory in directories:
        directory.mkdir()
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda directory: load(fake, directory), directories))
    assert sorted(each.weights_epoch for each in loaded) == list(range(1, 9))
    last = max(loaded, key=lambda each: each.weights_epoch)
    assert described(fake).fingerprint == last.model_fingerprint
    assert len({each.model_fingerprint for each in loaded}) == 8


def test_a_caller_who_leaves_before_the_exchange_changes_nothing(
    fake: Server, tmp_path: Path
) -> None:
    with admin(fake) as service:
        with busy(fake):
            moving = service.LoadWeights.future(
                admin_pb2.LoadWeightsRequest(path=str(tmp_path)), timeout=PATIENCE
            )
            wait_until(lambda: fake._service.judge.batcher._tasks)
            moving.cancel()
            time.sleep(0.2)
        assert load(fake, tmp_path).weights_epoch == 1


def test_pictures_that_were_sent_before_the_move_are_known_after_it(
    launch: Launch, tmp_path: Path
) -> None:
    server = launch(critic="fake", enable_admin=True, weights_dir=(tmp_path,))
    picture = encoded(noise(20, 20))
    digest = pb.Image(wire_digest=hashlib.sha256(picture.encoded).digest())
    with stub(server) as service:
        service.ScoreCandidates(score_request("a", prompt=[turn("What?", picture)]))
        load(server, tmp_path)
        response = service.ScoreCandidates(score_request("a", prompt=[turn("What?", digest)]))
    assert response.outcomes[0].reward.HasField("reward")
