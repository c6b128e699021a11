"""Arguments and options that commands share."""

from pathlib import Path
from typing import Annotated, Final

import typer

from adjudge_reranker.cli.judging import Format
from adjudge_reranker.evaluation.importers import Layout

SERVER: Final = "127.0.0.1:50051"

Candidates = Annotated[
    list[str] | None, typer.Argument(metavar="CANDIDATE", help="Responses to judge.")
]
Prompt = Annotated[str | None, typer.Option(help="What the candidates respond to.")]
Images = Annotated[
    list[Path] | None,
    typer.Option("--image", exists=True, dir_okay=False, help="Picture of the prompt; repeatable."),
]
CandidatesFile = Annotated[
    str | None,
    typer.Option(
        "--candidates", help="File with one candidate a line (an empty line is one); - for stdin."
    ),
]
InputFile = Annotated[
    str | None,
    typer.Option("--input", metavar="FILE", help="JSON lines, one prompt each; - for stdin."),
]
Server = Annotated[
    str, typer.Option(envvar="ADJUDGE_SERVER", help="Where the server listens, as host:port.")
]
TemplateName = Annotated[
    str | None, typer.Option("--template", help="Critic prompt; see info. Default: the model's.")
]
Reference = Annotated[str | None, typer.Option(help="The right answer, if the template takes it.")]
Rubric = Annotated[str | None, typer.Option(help="What to judge by, if the template takes it.")]
ModelName = Annotated[
    str | None, typer.Option("--model", help="Model to ask. Default: the server's.")
]
Timeout = Annotated[float, typer.Option(min=0.001, max=86_400, help="Seconds for each call.")]
OutputFormat = Annotated[
    Format | None,
    typer.Option("--format", help="Default: table on a terminal, jsonl otherwise."),
]

LabelsFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="Labelled items: JSON lines (- for stdin), .json or .parquet."
    ),
]
LabelsLayout = Annotated[
    Layout, typer.Option("--layout", help="What the fields of the records are called.")
]
ImagesFolder = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Where paths of pictures start. Default: FILE's folder."
    ),
]
ImagesAnywhere = Annotated[
    bool,
    typer.Option(
        "--images-anywhere",
        help="Send pictures outside that folder too. Whatever FILE names goes to the server.",
    ),
]
TemplateNames = Annotated[
    list[str] | None,
    typer.Option(
        "--template", help="Critic prompt; repeatable, one of each kind. Default: the model's."
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", dir_okay=False, help="Write all figures here, as JSON.")
]
RecordsFile = Annotated[
    Path | None,
    typer.Option(
        "--records", dir_okay=False, help="Write each item's reading here, as JSON lines."
    ),
]
PlotFile = Annotated[
    Path | None,
    typer.Option("--plot", dir_okay=False, help="Draw reliability and position bias here, as PNG."),
]

PromptsFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help='JSON lines, one prompt each: "prompt" and "candidates" (texts or messages), and if '
        'you like "images" (paths) and "id".',
    ),
]
QuestionsFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help='JSON lines, one prompt each: "prompt" (text or messages), and if you like "images" '
        '(paths) and "id".',
    ),
]
PairsFile = Annotated[
    Path, typer.Option("--out", dir_okay=False, help="JSON lines; its journal is kept beside it.")
]
