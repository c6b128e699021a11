"""The commands that make training data, and their options."""

from pathlib import Path
from typing import Annotated

import typer

from adjudge_reranker.cli.files import Files
from adjudge_reranker.cli.options import (
    SERVER,
    ImagesAnywhere,
    ImagesFolder,
    ModelName,
    PairsFile,
    PromptsFile,
    QuestionsFile,
    Rubric,
    Server,
    TemplateNames,
    Timeout,
)
from adjudge_reranker.mining.pairing import Pairing


def mine(
    file: PromptsFile,
    out: PairsFile,
    pairing: Annotated[Pairing, typer.Option(help="Pairs of a prompt.")] = Pairing.BEST_WORST,
    min_margin: Annotated[
        float, typer.Option(min=0.0, help="Smallest difference of rewards, in their unit.")
    ] = 0.0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only pairs that comparisons in both orders confirm.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of best-random.")] = 0,
    images: ImagesFolder = None,
    images_anywhere: ImagesAnywhere = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on with other options or another critic.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what --out holds, and begin anew.")
    ] = False,
    server: Server = SERVER,
    template: TemplateNames = None,
    rubric: Rubric = None,
    model: ModelName = None,
    timeout: Timeout = 60.0,
) -> None:
    """Which candidate should be preferred to which? Pairs for DPO, in TRL's format. The same
    command goes on where an interrupted one was, and asks again about what failed."""
    from adjudge_reranker.cli import mining
    from adjudge_reranker.mining import Options

    code = mining.run(
        Files(file, out, images, images_anywhere, accept_changes, restart),
        mining.Critic(server, template or (), rubric, model, timeout),
        Options(pairing, min_margin, verify, seed),
    )
    raise typer.Exit(code)


def generate(
    file: QuestionsFile,
    out: Annotated[
        Path, typer.Option("--out", dir_okay=False, help="JSON lines, as mine takes them.")
    ],
    policy_url: Annotated[
        str,
        typer.Option(
            envvar="OPENAI_BASE_URL", help="Of the endpoint, such as http://host:8000/v1."
        ),
    ],
    policy_model: Annotated[str, typer.Option(help="What the endpoint calls the policy.")],
    num_candidates: Annotated[int, typer.Option("-n", min=2, help="Answers to each prompt.")],
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Default: the endpoint's.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of an answer. Default: the endpoint's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of each prompt's first answer, the next for the second.")
    ] = None,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Keep answers cut off at --max-tokens.")
    ] = False,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 4,
    choices_per_request: Annotated[
        int,
        typer.Option(min=1, help="Answers of a request; not every endpoint takes more than 1."),
    ] = 1,
    max_retries: Annotated[int, typer.Option(min=0, help="Of a request that may yet succeed.")] = 4,
    images: ImagesFolder = None,
    images_anywhere: ImagesAnywhere = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on with other options.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what --out holds, and begin anew.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.001, max=86_400, help="Seconds for each try of a request.")
    ] = 120.0,
) -> None:
    """What does a policy answer? Candidates for mine, from an OpenAI-compatible endpoint; its key
    is OPENAI_API_KEY. The same command goes on where an interrupted one was, and asks again about
    what failed."""
    from adjudge_reranker.cli import generating
    from adjudge_reranker.mining import Wanted

    code = generating.run(
        Files(file, out, images, images_anywhere, accept_changes, restart),
        generating.Endpoint(policy_url, policy_model, choices_per_request, max_retries, timeout),
        generating.Sampling(temperature, max_tokens, seed),
        Wanted(num_candidates, allow_truncated, in_flight),
    )
    raise typer.Exit(code)
