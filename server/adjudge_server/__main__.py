"""`adjudge-server`: flags → Config → serve, or verify."""

import argparse
import asyncio
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from adjudge_server import host_memory
from adjudge_server.config import OF_ONE_CRITIC, Config
from adjudge_server.hub import is_hub_id
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.models_file import read_models
from adjudge_server.observing import logs

HELP = {
    "listen": "host:port to bind; port 0 takes a free one; beyond this machine only with TLS; or"
    " unix:/path of a socket for this user alone",
    "allow_plaintext": "listen beyond this machine without TLS",
    "tls_cert": "PEM file with the server's certificate and those between it and its CA",
    "tls_key": "PEM file with its private key",
    "tls_client_ca": "PEM file; every client must show a certificate that one of these signed",
    "tokens": "file with a bearer token a line, one of which every call must carry",
    "admin_tokens": "file with those that open the admin RPCs, and nothing else",
    "closed_health": "health checks need a token too",
    "critic": 'family: "auto", "fake" (no model; numbers without meaning), "llava_onevision",'
    ' "qwen2_5_vl", "causal_lm", "sequence_classification"',
    "model": "checkpoint directory, or the id of a model on a hub (default: the embedded critic)",
    "name": "what requests call the model (default: after the checkpoint)",
    "models": "TOML file with several critics and ensembles of them, instead of one",
    "engine": 'what computes: "in-process", or a running "vllm" that serves the same checkpoint',
    "engine_url": "where that runs, such as http://127.0.0.1:8000",
    "engine_model": "what it calls the model (default: the only one it serves)",
    "engine_key": "file with the key that its --api-key demands",
    "engine_timeout_seconds": "time for one request to it",
    "engine_concurrency": "requests to it at a time",
    "engine_start_seconds": "time to wait for it at the start",
    "device": 'torch device; "auto" is the first GPU or the CPU',
    "dtype": 'torch number type; "auto" is the checkpoint\'s on a GPU, float32 on a CPU',
    "convert_rgb": 'pictures become RGB "first", as in training, or "last", as in the snippet',
    "exif": '"apply" turns pictures upright; "ignore" is what the original does',
    "several_pictures": 'each of several pictures in tiles ("anyres"), or padded to one ("pad")',
    "vision_heads": "attention heads of a vision tower that is none of the published ones",
    "template_set": 'which templates ship for the critic: "auto" (by its name), or the set\'s name',
    "templates": "TOML file with templates of your own, the defaults from then on",
    "repetition_penalty": "of critiques (default: what the checkpoint says)",
    "threads": "CPU threads of one forward pass",
    "workers": "threads that decode pictures and tokenise text",
    "drain_seconds": "time for accepted work after SIGTERM; a second signal ends it at once",
    "watchdog_seconds": "time for one pass of the model, or one token of a critique; 0: no limit",
    "on_stuck": 'after that time: "report" it in health and fail what waits, or "exit" with 70',
    "write_seconds": "time for a caller to receive one event of a critique",
    "metrics_listen": "host:port for Prometheus to scrape over plain HTTP (default: none)",
    "log_format": '"text", or "json": an object a line',
    "log_level": '"debug" (a line for every request), "info", "warning" or "error"',
    "traces": "spans for OpenTelemetry; needs adjudge[otel], and an SDK that says where they go",
    "audit": "directory for a record of every judgement, as digests (default: none is kept)",
    "max_audit_file_bytes": "bytes of one file of the audit; none is ever deleted",
    "enable_admin": "weights can be loaded while the server runs (adjudge load-weights), with an"
    " admin token, or without any tokens by anybody on this machine",
    "weights_dir": "where such weights may come from: this directory or below it; repeatable",
    "max_message_bytes": "bytes of one request",
    "max_open_bytes": "bytes of all requests at work, their decoded pictures included",
    "max_streams": "calls that one connection may have open",
    "image_formats": "formats of pictures that are read, with commas between",
    "max_image_pixels": "width times height of one picture",
    "max_image_side": "width or height of one picture",
    "max_images": "pictures in one prompt",
    "max_candidates": "candidates in one request",
    "max_pairs": "pairs in one request",
    "max_input_tokens": "tokens of one item, pictures included",
    "max_batch_tokens": "tokens of one pass of the model",
    "max_queue_tokens": "tokens that may wait for the model",
    "max_critique_tokens": "tokens of one critique",
    "max_prefix_bytes": "bytes of keys and values remembered of what prompts begin with",
    "max_feature_bytes": "bytes of remembered features of pictures",
    "max_open_critiques": "critiques that are being written at a time",
    "max_retained_bytes": "bytes of pictures kept for one caller to name by digest",
    "max_retained_total_bytes": "the same, for all callers together",
    "max_retained_seconds": "how long such a picture is kept after its last use",
}


def _model(text: str) -> Path:
    """What is written like a path stays one, also where `Path` would take its marks away."""
    is_path = text.startswith((".", "/", "~")) or text.endswith("/")
    return Path(text).expanduser().absolute() if is_path else Path(text)


def _directory(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _formats(text: str) -> tuple[str, ...]:
    return tuple(name.strip().upper() for name in text.split(","))


KINDS: dict[str, Callable[[str], Any]] = {
    "model": _model,
    "models": Path,
    "engine_key": Path,
    "templates": Path,
    "audit": _directory,
    "tls_cert": Path,
    "tls_key": Path,
    "tls_client_ca": Path,
    "tokens": Path,
    "admin_tokens": Path,
    "vision_heads": int,
    "repetition_penalty": float,
    "image_formats": _formats,
}
"""Of flags whose default does not tell."""


ACTIONS: dict[str, dict[str, Any]] = {
    "enable_admin": {"action": "store_true"},
    "allow_plaintext": {"action": "store_true"},
    "closed_health": {"action": "store_true"},
    "traces": {"action": "store_true"},
    "weights_dir": {"action": "append", "type": _directory},
}
"""Of flags that do not simply hold a value."""

SWITCH_SECONDS = 0.0005
"""After which a thread that computes in Python lets another go on. The model's thread asks for that
after each of its hundreds of calls, and with Python's 5 ms waits longer than it works."""


OF_VERIFY = (
    *OF_ONE_CRITIC,
    "engine_timeout_seconds",
    "engine_concurrency",
    "engine_start_seconds",
    "threads",
    "max_input_tokens",
    "max_critique_tokens",
    "max_prefix_bytes",
    "max_feature_bytes",
)
"""Flags that mean something to `verify`."""


class Parser(argparse.ArgumentParser):
    """Complains without its usage, which is longer than a screen."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse(arguments: list[str]) -> Config:
    """The configuration that command-line arguments mean. Exits with status 2 on nonsense."""
    parser = Parser(
        "adjudge-server",
        description="Serve a critic over gRPC.",
        epilog="adjudge-server verify [the same flags] [--json FILE] checks a critic instead;"
        " adjudge-server export writes a LLaVA-Critic as vLLM loads it.",
    )
    return _configured(parser, arguments)[0]


def _configured(
    parser: argparse.ArgumentParser, arguments: list[str], listed: Container[str] | None = None
) -> tuple[Config, argparse.Namespace]:
    """The configuration, and what else the parser knows. Fields that are not `listed` have flags
    too, of which its help says nothing."""
    for field in dataclasses.fields(Config):
        is_listed = listed is None or field.name in listed
        _add(parser, field, HELP[field.name] if is_listed else argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    flags = {field.name: getattr(options, field.name) for field in dataclasses.fields(Config)}
    flags["weights_dir"] = tuple(flags["weights_dir"] or ())
    try:
        return Config(**flags), options
    except ValueError as error:
        parser.error(str(error))


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], told: str) -> None:
    """The flag of a field, explained as `told`."""
    flag = f"--{field.name.replace('_', '-')}"
    if field.name in ACTIONS:
        parser.add_argument(flag, help=told, **ACTIONS[field.name])
        return
    kind = KINDS.get(field.name, type(field.default or ""))
    shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    if shown is not None and told != argparse.SUPPRESS:
        told += f" (default: {shown})"
    parser.add_argument(flag, type=kind, default=field.default, help=told)


def _prepare(config: Config) -> None:
    """What must be so before torch and transformers are imported."""
    # Idle OpenMP threads would otherwise spin on the cores that decode pictures; and a path given
    # as a model must never become a request to a hub.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    models = [critic.model for critic in read_models(config).critics]
    if not any(model is not None and is_hub_id(model) for model in models):
        os.environ["HF_HUB_OFFLINE"] = "1"
    # Its C library writes a line of its own kind for every handshake that a stranger fails.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    host_memory.keep()
    sys.setswitchinterval(SWITCH_SECONDS)
    # Strangers' pictures must not fill the log.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def main() -> None:
    if sys.argv[1:2] == ["verify"]:
        sys.exit(_verify(sys.argv[2:]))
    if sys.argv[1:2] == ["export"]:
        sys.exit(_export(sys.argv[2:]))
    config = parse(sys.argv[1:])
    try:
        _prepare(config)
        logs.configure(config.log_format, config.log_level)
        from adjudge_server.serve import serve

        asyncio.run(serve(config, partial(print, flush=True)))
    except (ValueError, RuntimeError) as error:
        sys.exit(_status("adjudge-server", error))


def _status(program: str, error: Exception) -> int:
    """To exit with, where it could not begin: 2 for what stays wrong, 1 for what may pass."""
    print(f"{program}: {error}", file=sys.stderr)
    return 2 if isinstance(error, Misconfigured) else 1


def _export(arguments: list[str]) -> int:
    parser = Parser(
        "adjudge-server export",
        description="Write a checkpoint in the original LLaVA-NeXT layout as vLLM loads it.",
    )
    parser.add_argument("--model", type=_directory, required=True, help="checkpoint directory")
    parser.add_argument("--to", type=_directory, required=True, help="directory to be made")
    parser.add_argument("--vision-heads", type=int, help=HELP["vision_heads"])
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from adjudge_server.export import export

    try:
        export(options.model, options.to, options.vision_heads)
    except (ValueError, OSError) as error:
        return _status(parser.prog, error)
    print(f"exported to {options.to}")
    return 0


def _verify(arguments: list[str]) -> int:
    parser = Parser(
        "adjudge-server verify",
        description="Check a critic: what was loaded, the well-known seven, verdict forms, both"
        " readouts, company, speed. Prints a page; exits with 1 if something is wrong.",
        epilog="The server's other flags are taken too, and mean nothing here.",
    )
    parser.add_argument("--json", type=Path, help="a file for the same as JSON")
    config, options = _configured(parser, arguments, OF_VERIFY)
    if config.models is not None:
        parser.error("--models: one critic is checked at a time; name it by its flags")
    if options.json and (problem := _why_not_writable(options.json)):
        parser.error(f"--json cannot be written: {options.json}: {problem}")
    _prepare(config)
    from adjudge_server.verification.run import verify

    try:
        report = verify(config)
    except ValueError as error:
        return _status(parser.prog, error)
    print(report.as_text())
    if options.json:
        options.json.write_text(report.as_json(), encoding="utf-8")
    return 0 if report.passed else 1


def _why_not_writable(path: Path) -> str | None:
    """Writes nothing, and leaves nothing behind that was not there."""
    is_new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        return error.strerror or str(error)
    if is_new:
        path.unlink()
    return None


if __name__ == "__main__":
    main()
