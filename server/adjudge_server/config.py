"""Everything that can be set, in one frozen place. Built from flags by `__main__`, passed down."""

from dataclasses import dataclass, fields
from pathlib import Path

from adjudge_server.access import rules
from adjudge_server.access.unix_socket import is_unix, path_of
from adjudge_server.caches import DEFAULT
from adjudge_server.families import FAMILIES
from adjudge_server.preprocessing import FORMATS, MAX_SIDE, ConvertRgb, Exif, SeveralPictures
from adjudge_server.template_sets import AUTO, set_names

MIB = 1 << 20
MAY_BE_ZERO = (
    "drain_seconds",
    "watchdog_seconds",
    "max_retained_bytes",
    "max_retained_total_bytes",
    "max_prefix_bytes",
    "max_feature_bytes",
)
CRITICS = ("auto", "fake", *FAMILIES)
OF_ONE_CRITIC = (
    "critic",
    "model",
    "name",
    "engine",
    "engine_url",
    "engine_model",
    "engine_key",
    "device",
    "dtype",
    "convert_rgb",
    "exif",
    "several_pictures",
    "vision_heads",
    "template_set",
    "templates",
    "repetition_penalty",
)
"""What a file of several critics says of each of them; beside it, a flag would say it of none."""
CHOICES = {
    "critic": CRITICS,
    "engine": ("in-process", "vllm"),
    "dtype": ("auto", "float16", "bfloat16", "float32", "float64"),
    "convert_rgb": ("first", "last"),
    "exif": ("apply", "ignore"),
    "several_pictures": ("anyres", "pad"),
    "log_format": ("text", "json"),
    "on_stuck": ("report", "exit"),
    "log_level": ("debug", "info", "warning", "error"),
}


@dataclass(frozen=True, slots=True)
class Config:
    """See each field. Raises ValueError, naming flag and value, for what makes no sense."""

    listen: str = "127.0.0.1:50051"
    """Address to bind: host:port, where port 0 takes a free one, or unix:/path of a socket that
    only this process's user may open. Elsewhere than on this machine only with TLS, or with
    `allow_plaintext`."""
    allow_plaintext: bool = False
    """Whether to listen beyond this machine without TLS."""
    tls_cert: Path | None = None
    """PEM file with the server's certificate and those between it and its CA. Read again when it
    changes, as are the other files of access."""
    tls_key: Path | None = None
    """PEM file with its private key."""
    tls_client_ca: Path | None = None
    """PEM file; every client must show a certificate that one of these signed."""
    tokens: Path | None = None
    """File with a bearer token a line, one of which every call must carry."""
    admin_tokens: Path | None = None
    """File with those that open the admin RPCs, and nothing else."""
    closed_health: bool = False
    """Whether health checks need a token too."""
    critic: str = "auto"
    """"auto", "fake", or a family such as "llava_onevision"."""
    model: Path | None = None
    """Checkpoint directory; if there is none of that name, the id of a model on a hub. None: the
    embedded critic."""
    name: str | None = None
    """What requests call the model. None: "embedded", "fake", or the directory's name."""
    models: Path | None = None
    """A TOML file with several critics, and ensembles of them, instead of the one that other fields
    describe; see `models_file`. None: that one."""
    engine: str = "in-process"
    """What computes: this process, or a running "vllm" that serves the checkpoint `model`, or the
    export of it."""
    engine_url: str | None = None
    """Where that runs, such as http://127.0.0.1:8000."""
    engine_model: str | None = None
    """What it calls the model. None: it serves only one, whose name is the checkpoint's."""
    engine_key: Path | None = None
    """File with the key that its `--api-key` demands."""
    engine_timeout_seconds: float = 60.0
    """Of one request to it. After that it counts as away."""
    engine_concurrency: int = 64
    """Requests to it at a time."""
    engine_start_seconds: float = 600.0
    """How long to wait for it at the start; until then health says NOT_SERVING."""
    device: str = "auto"
    """A torch device. "auto": the first GPU, or the CPU."""
    dtype: str = "auto"
    """A torch number type. "auto": the checkpoint's on a GPU, float32 on a CPU."""
    convert_rgb: ConvertRgb = "first"
    """When pictures become RGB: before they are resized, as the critic's training did it, or after,
    as the published snippet does."""
    exif: Exif = "apply"
    """Whether pictures are turned upright. The original ignores EXIF."""
    several_pictures: SeveralPictures = "anyres"
    """How each of several pictures in one prompt is cut: into tiles like a single one, as the
    published configuration says, or padded to one square, as training did it."""
    vision_heads: int | None = None
    """Attention heads of the vision tower, for original checkpoints whose tower is none of the
    published ones: no file says it."""
    template_set: str = AUTO
    """The templates that the critic is asked with. "auto": the set that fits the model's name."""
    templates: Path | None = None
    """A TOML file with more of them, which become the defaults of their kinds."""
    repetition_penalty: float | None = None
    """Of critiques. None: the checkpoint's generation_config.json, or 1, which is none."""
    threads: int = 1
    """CPU threads of one forward pass. Small critics are fastest, and cheapest, with one."""
    workers: int = 2
    """Threads that decode pictures and tokenise text, beside the model's."""
    drain_seconds: float = 30.0
    """How long accepted work may take after SIGTERM."""
    watchdog_seconds: float = 600.0
    """How long one pass of the model, or one token of a critique, may take before the model's
    thread counts as stuck. 0: for ever."""
    on_stuck: str = "report"
    """Then, and where that thread has died: "report" it as NOT_SERVING and fail what waits, or
    "exit" at once, with status 70, to be started anew."""
    write_seconds: float = 60.0
    """How long a caller may take to receive one event of a critique before the call is ended."""

    metrics_listen: str | None = None
    """Address for Prometheus to scrape, over plain HTTP: elsewhere than on loopback only with
    `allow_plaintext`. None: nothing is scraped."""
    log_format: str = "text"
    """"text" or "json"."""
    log_level: str = "info"
    """Of Adjudge's own words; "debug" has a line for every request."""
    traces: bool = False
    """Whether spans are made for OpenTelemetry, whose SDK says where they go."""
    audit: Path | None = None
    """Directory for a record of every judgement. None: none is kept."""
    max_audit_file_bytes: int = 256 * MIB
    """After which the next file of the audit begins. None is ever deleted."""

    enable_admin: bool = False
    """Whether weights can be loaded while the server runs: by whoever has an admin token, or where
    there are none of any kind, by anybody on this machine."""
    weights_dir: tuple[Path, ...] = ()
    """Directories that such weights may come from, at any depth."""

    max_message_bytes: int = 64 * MIB
    max_open_bytes: int = 4096 * MIB
    """Of all requests at work and the pixels of their pictures; one host may hold half of it, less
    where others are at work too. A request that is alone may have it all."""
    max_streams: int = 1024
    """Calls that one connection may have open. gRPC has others wait at the client, but refuses some
    with UNAVAILABLE, to be called again."""
    image_formats: tuple[str, ...] = FORMATS
    """Of encoded pictures; no other decoder is ever run."""
    max_image_pixels: int = 50_000_000
    max_image_side: int = MAX_SIDE
    max_images: int = 8
    max_candidates: int = 256
    max_pairs: int = 1024
    max_input_tokens: int = 32_768
    """Of one item. The critic's own limit counts where it is smaller."""
    max_batch_tokens: int = 16_384
    """Of one pass of the model, a shared prefix counted once. On a GPU, start-up computes such a
    batch, and fails where it does not fit."""
    max_queue_tokens: int = 1_000_000
    max_critique_tokens: int = 1024
    max_open_critiques: int = 16
    """That are being written at a time; others wait. Each takes one step between two batches."""
    max_prefix_bytes: int = DEFAULT.prefixes
    """Of keys and values remembered of what prompts begin with, on the model's device."""
    max_feature_bytes: int = DEFAULT.features
    """Of remembered features of pictures, on the model's device."""
    max_retained_bytes: int = 256 * MIB
    """Of pictures kept to be named by wire digest, for one caller."""
    max_retained_total_bytes: int = 2048 * MIB
    """The same for all callers together."""
    max_retained_seconds: float = 600.0

    def __post_init__(self) -> None:
        for field in self.__slots__:
            value = getattr(self, field)
            at_least = 0 if field in MAY_BE_ZERO else 1
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and not value >= at_least:  # so that NaN is refused
                flag = field.replace("_", "-")
                raise ValueError(f"--{flag} {value}: must be at least {at_least}")
        if not self.image_formats or not set(self.image_formats) <= set(FORMATS):
            raise ValueError(
                f"--image-formats {','.join(self.image_formats)}: must be some of"
                f" {','.join(FORMATS)}"
            )
        if self.max_streams >= 2**31:
            raise ValueError(f"--max-streams {self.max_streams}: gRPC counts to 2**31 - 1")
        if self.max_message_bytes >= 2**31:
            raise ValueError(
                f"--max-message-bytes {self.max_message_bytes}: gRPC takes 2 GiB at most"
            )
        if is_unix(self.listen):
            path_of(self.listen)
        else:
            _host("--listen", self.listen)
        if self.metrics_listen is not None:
            host = _host("--metrics-listen", self.metrics_listen)
            if not (rules.is_loopback(host) or self.allow_plaintext):
                raise ValueError(
                    f"--metrics-listen {self.metrics_listen}: anybody who reaches it could read"
                    " along, and metrics know no TLS; give --allow-plaintext if the network is safe"
                )
        for field, choices in {**CHOICES, "template_set": (AUTO, *set_names())}.items():
            if (chosen := getattr(self, field)) not in choices:
                flag = field.replace("_", "-")
                raise ValueError(f"--{flag} {chosen}: must be one of {', '.join(choices)}")
        rules.check(self)
        if self.enable_admin != bool(self.weights_dir):
            raise ValueError("--enable-admin and --weights-dir: one is of no use without the other")
        self._check_models()
        self._check_engine()
        if self.critic == "fake" and self.model is not None:
            raise ValueError(f"--model {self.model}: the fake critic loads nothing")

    def _check_engine(self) -> None:
        if self.engine == "in-process":
            if self.engine_url or self.engine_model or self.engine_key:
                raise ValueError(
                    "--engine-url, --engine-model and --engine-key go with --engine vllm"
                )
            return
        rules.check_engine_url(self.engine_url, self.allow_plaintext)
        if self.critic == "fake" or self.model is None:
            raise ValueError(
                f"--engine {self.engine}: name the checkpoint that it serves (--model)"
            )
        wanted = {"convert_rgb": "first", "several_pictures": "anyres"}
        for field, value in wanted.items():
            if (found := getattr(self, field)) != value:
                flag = field.replace("_", "-")
                raise ValueError(f"--{flag} {found}: with --engine {self.engine} only {value}")

    def _check_models(self) -> None:
        if self.models is None:
            return
        standard = {field.name: field.default for field in fields(self)}
        stray = [name for name in OF_ONE_CRITIC if getattr(self, name) != standard[name]]
        if stray:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in stray)
            raise ValueError(f"--models {self.models}: the file says what {flags} would say")


def _host(flag: str, address: str) -> str:
    """Of host:port. Raises ValueError for what is not."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ValueError(f"{flag} {address}: must be host:port, port 0 to 65535")
    return host
