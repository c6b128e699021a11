"""The commands and their options."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from adjudge_reranker.admin import AdminClient
from adjudge_reranker.cli import records
from adjudge_reranker.cli.credentials import given, take
from adjudge_reranker.cli.health import health
from adjudge_reranker.cli.jobs import BadInput, Job, Source, read_jobs
from adjudge_reranker.cli.judging import (
    ExitCode,
    Format,
    Output,
    complain,
    connect,
    exit_code_of,
    judge_all,
    show_critique,
)
from adjudge_reranker.cli.mining_commands import generate, mine
from adjudge_reranker.cli.model_tables import model_tables
from adjudge_reranker.cli.options import (
    SERVER,
    Candidates,
    CandidatesFile,
    Images,
    ImagesAnywhere,
    ImagesFolder,
    InputFile,
    JsonFile,
    LabelsFile,
    LabelsLayout,
    ModelName,
    OutputFormat,
    PlotFile,
    Prompt,
    RecordsFile,
    Reference,
    Rubric,
    Server,
    TemplateName,
    TemplateNames,
    Timeout,
)
from adjudge_reranker.cli.verbs import (
    Critic,
    Options,
    R,
    Verb,
    compare_verb,
    rank_verb,
    score_verb,
)
from adjudge_reranker.client import RewardClient
from adjudge_reranker.errors import RequestRefused, RewardError
from adjudge_reranker.evaluation.extras import MissingExtra
from adjudge_reranker.evaluation.importers import Layout
from adjudge_reranker.model_info import ModelInfo, TemplateKind
from adjudge_reranker.types import OrderPolicy, Readout

_PARAGRAPHS = (
    "Judges candidate responses with the critic of an Adjudge server.",
    "Give one --prompt with its candidates, or many as JSON lines (--input), each an object with "
    '"prompt", "candidates", and if you like "images" (paths inside the folder of the file or '
    'of --images), "id" (anything; the output repeats it) and "pairs" (lists of two indices, for '
    "compare and critique --pairwise).",
    "Exit codes: 0 everything was judged; 1 some items failed and are in the output with their "
    "reason; 2 usage or bad input; 3 the server is unreachable or not ready; 4 the timeout passed.",
)

app = typer.Typer(
    help="\n\n".join(_PARAGRAPHS),
    no_args_is_help=True,
    add_completion=False,
    # Locals would show what is being judged.
    pretty_exceptions_enable=False,
)
app.callback()(take)

_EVAL_PARAGRAPHS = (
    "How well does the critic agree with labels? Judges labelled items and prints accuracy, "
    "correlation, calibration and position bias, each with its 95 % interval.",
    'A record of FILE is a pair ("candidates", two of them, and "preferred": first, second or '
    'tie), a score ("candidate" and "score", 0 to 100) or a group ("chosen" and "rejected", '
    'lists), each with "prompt", and if you like "images" (paths), "id", "subset" and "cluster" '
    "(equal for records that share a picture, say: intervals get as wide as that makes them). "
    "Published benchmarks are read as they are, with --layout, and get their own figures too.",
    "What failed is counted by its reason and is in no figure. Exit codes are those of adjudge.",
)


@app.command()
def score(
    candidates: Candidates = None,
    prompt: Prompt = None,
    image: Images = None,
    candidates_file: CandidatesFile = None,
    input_file: InputFile = None,
    images: ImagesFolder = None,
    images_anywhere: ImagesAnywhere = False,
    server: Server = SERVER,
    template: TemplateName = None,
    reference: Reference = None,
    rubric: Rubric = None,
    model: ModelName = None,
    timeout: Timeout = 60.0,
    output_format: OutputFormat = None,
) -> None:
    """How good is each candidate by itself?"""
    source = Source(prompt, image or (), candidates or (), candidates_file, input_file)
    jobs = _jobs(source, images, images_anywhere)
    verb = score_verb(Options(template, reference, rubric, model))
    _run(verb, jobs, connect(server, timeout, model)[0], Output(output_format))


@app.command()
def compare(
    candidates: Candidates = None,
    prompt: Prompt = None,
    image: Images = None,
    candidates_file: CandidatesFile = None,
    input_file: InputFile = None,
    images: ImagesFolder = None,
    images_anywhere: ImagesAnywhere = False,
    server: Server = SERVER,
    template: TemplateName = None,
    reference: Reference = None,
    rubric: Rubric = None,
    model: ModelName = None,
    order: Annotated[OrderPolicy, typer.Option(help="Orders to put a pair in.")] = OrderPolicy.BOTH,
    timeout: Timeout = 60.0,
    output_format: OutputFormat = None,
) -> None:
    """Which candidate of each pair is better, by how much? Positive margins favour the first."""
    source = Source(prompt, image or (), candidates or (), candidates_file, input_file)
    jobs = _jobs(source, images, images_anywhere)
    verb = compare_verb(Options(template, reference, rubric, model), order)
    _run(verb, _with_pairs(jobs), connect(server, timeout, model)[0], Output(output_format))


@app.command()
def rank(
    candidates: Candidates = None,
    prompt: Prompt = None,
    image: Images = None,
    candidates_file: CandidatesFile = None,
    input_file: InputFile = None,
    images: ImagesFolder = None,
    images_anywhere: ImagesAnywhere = False,
    server: Server = SERVER,
    template: TemplateName = None,
    reference: Reference = None,
    rubric: Rubric = None,
    model: ModelName = None,
    timeout: Timeout = 60.0,
    output_format: OutputFormat = None,
) -> None:
    """Which candidate is the best? Each is compared with it, if the critic can compare: positive
    margins contradict."""
    source = Source(prompt, image or (), candidates or (), candidates_file, input_file)
    jobs = _jobs(source, images, images_anywhere)
    client, described = connect(server, timeout, model)
    options = Options(template, reference, rubric, model)
    _run(rank_verb(options, compares=_compares(described)), jobs, client, Output(output_format))


@app.command()
def critique(
    candidates: Candidates = None,
    prompt: Prompt = None,
    image: Images = None,
    candidates_file: CandidatesFile = None,
    input_file: InputFile = None,
    images: ImagesFolder = None,
    images_anywhere: ImagesAnywhere = False,
    pairwise: Annotated[bool, typer.Option("--pairwise", help="Pairs, not candidates.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Length of one critique.")] = None,
    server: Server = SERVER,
    template: TemplateName = None,
    reference: Reference = None,
    rubric: Rubric = None,
    model: ModelName = None,
    timeout: Timeout = 60.0,
    output_format: OutputFormat = None,
) -> None:
    """What does the critic write about each candidate, or about each pair?"""
    source = Source(prompt, image or (), candidates or (), candidates_file, input_file)
    jobs = _jobs(source, images, images_anywhere)
    jobs = _with_pairs(jobs) if pairwise else jobs
    critic = Critic(Options(template, reference, rubric, model), pairwise, max_tokens)
    client, _ = connect(server, timeout, model)
    output = Output(output_format)
    if output.format is Format.JSONL or len(jobs) > 1:
        _run(critic.verb(), jobs, client, output)
    with client:
        show_critique(jobs[0], critic.events(client, jobs[0]), output)
    raise typer.Exit(output.exit_code)


@app.command("eval", help="\n\n".join(_EVAL_PARAGRAPHS))
def evaluate(
    file: LabelsFile,
    layout: LabelsLayout = Layout.ADJUDGE,
    images: ImagesFolder = None,
    images_anywhere: ImagesAnywhere = False,
    server: Server = SERVER,
    template: TemplateNames = None,
    rubric: Rubric = None,
    model: ModelName = None,
    timeout: Timeout = 60.0,
    json_file: JsonFile = None,
    records_file: RecordsFile = None,
    plot_file: PlotFile = None,
) -> None:
    """How well does the critic agree with labels?"""
    try:
        from adjudge_reranker.cli import evaluating

        code = evaluating.run(
            evaluating.Labels(file, layout, images, images_anywhere),
            evaluating.Critic(server, template or (), rubric, model, timeout),
            evaluating.Files(json_file, records_file, plot_file),
        )
    except MissingExtra as error:
        complain(str(error))
        raise typer.Exit(ExitCode.USAGE) from error
    raise typer.Exit(code)


app.command()(generate)
app.command()(mine)
app.command()(health)


@app.command("load-weights")
def load_weights(
    directory: Annotated[
        Path, typer.Argument(help="Checkpoint directory, on the server's machine.")
    ],
    expected_epoch: Annotated[
        int | None, typer.Option(min=0, help="Only if the weights epoch is this one.")
    ] = None,
    server: Server = SERVER,
    model: ModelName = None,
    timeout: Timeout = 600.0,
    output_format: OutputFormat = None,
) -> None:
    """Other weights for a server that runs with --enable-admin, without a restart. Exit code 2: the
    server refused, and serves what it did."""
    output = Output(output_format)
    try:
        with AdminClient(server, timeout=timeout, **given().arguments()) as admin:
            loaded = admin.load_weights(directory, model=model, expected_epoch=expected_epoch)
    except RequestRefused as error:
        complain(f"{server}: {error}")
        raise typer.Exit(ExitCode.USAGE) from error
    except RewardError as error:
        complain(f"{server}: {error}")
        raise typer.Exit(exit_code_of(error)) from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if output.format is Format.JSONL:
        output.write_record(asdict(loaded))
    else:
        for name, value in asdict(loaded).items():
            output.console.print(f"{name.replace('_', ' ')}: {value}")


@app.command()
def info(
    server: Server = SERVER,
    model: ModelName = None,
    timeout: Timeout = 60.0,
    output_format: OutputFormat = None,
) -> None:
    """Which critic does the server keep, with which templates and limits?"""
    output = Output(output_format)
    client, described = connect(server, timeout, model)
    client.close()
    if output.format is Format.JSONL:
        output.write_record(records.model_record(described))
    else:
        output.console.print(model_tables(described))


def _compares(described: ModelInfo) -> bool:
    """Whether a comparison that names no template is answered."""
    template = described.default_template(TemplateKind.PAIRWISE)
    return template is not None and Readout.DIRECT in template.readouts


def _jobs(source: Source, images_folder: Path | None, images_anywhere: bool) -> list[Job]:
    try:
        return read_jobs(
            replace(source, images_folder=images_folder, images_anywhere=images_anywhere)
        )
    except BadInput as error:
        raise typer.BadParameter(str(error)) from error


def _with_pairs(jobs: list[Job]) -> list[Job]:
    for job in jobs:
        if not job.compared_pairs():
            raise typer.BadParameter(f"a comparison takes two candidates: {job.prompt!r} has one")
    return jobs


def _run(verb: Verb[R], jobs: list[Job], client: RewardClient, output: Output) -> NoReturn:
    with client:
        judge_all(client, verb, jobs, output)
    raise typer.Exit(output.exit_code)
