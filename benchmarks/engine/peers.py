"""Other servers beside Adjudge, on the same weights and the same machine, by turns; each is left
out, with a line that says so, where its environment is missing."""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.engine import openrlhf, served, vllm
from benchmarks.engine.checkpoint import templates, write
from benchmarks.engine.questions import PROMPT, picture, responses
from benchmarks.engine.results import Results
from benchmarks.engine.sections import Section
from benchmarks.engine.settings import Settings
from benchmarks.engine.shapes import Shape
from benchmarks.engine.timing import Seconds
from benchmarks.engine.tokenizer import tokenizer_json
from benchmarks.engine.vllm import Asked

from adjudge_reranker import RewardClient
from adjudge_server.templates import Template
from adjudge_server.tokenization import TextTokenizer

EXPECTATION, SINGLE_TOKEN = "bench/pointwise", "bench/yes-no"
FIRST = "not reported"
LONGER = " Look at it closely, part by part, and think about what each of them may be."
"""Added to the prompt once more in every round. vLLM remembers whole blocks of 128 tokens: whether
a prompt ends just after one or just before would otherwise decide the figures."""
Way = Callable[[vllm.Peer, Asked], Seconds]
SCALARS = 16
"""Responses to a reward model with a scalar head."""


def sections(vllm_python: Path, openrlhf_python: Path) -> dict[str, Section]:
    return {
        "vllm": partial(_vllm, vllm_python),
        "openrlhf": partial(_openrlhf, openrlhf_python),
    }


def _vllm(python: Path, settings: Settings, results: Results) -> None:
    if not vllm.available(python):
        results.notes.append(f"vLLM was not measured: no {python} (see benchmarks/README.md)")
        return
    known = {template.name: template for template in templates()}
    tokens = read_tokens(settings.shape, list(known.values()))
    with (
        tempfile.TemporaryDirectory() as folder,
        served.serving_checkpoint(write(Path(folder), settings.shape)) as server,
        RewardClient(server.address) as client,
        vllm.serving(python, Path(folder), tokens) as peer,
    ):
        _against_vllm(settings, results, known, Servers(server, client, peer))


def read_tokens(shape: Shape, known: Sequence[Template]) -> dict[str, int]:
    """Everything that a template reads somewhere, by its text; first tokens of longer ones."""
    tokenizer = TextTokenizer(tokenizer_json(shape.vocabulary))
    texts = [
        form[-1:] if form.isdigit() else form for t in known for a in t.answers for form in a.forms
    ]
    texts += [terminator for t in known for terminator in t.terminators]
    return {text: tokenizer.encode(text)[0] for text in texts}


@dataclass(frozen=True, slots=True)
class Servers:
    """Both, with the same weights."""

    ours: served.Served
    client: RewardClient
    vllm: vllm.Peer


def _against_vllm(
    settings: Settings, results: Results, known: Mapping[str, Template], servers: Servers
) -> None:
    difference = agreement(servers, known[SINGLE_TOKEN], picture(settings.large, 0))
    found: dict[str, list[Seconds]] = {}
    for round_ in range(settings.served_rounds + 1):
        for name, measured in _one_round(servers, settings, known, round_).items():
            found.setdefault(name, []).append(measured)
    for name, seconds in found.items():
        del seconds[0]  # the first round of a process pays for what is set up once
        cpu = [s.cpu for s in seconds]
        results.add("vLLM, end to end", name, settings.large, settings.few, cpu)
        wall = [s.wall for s in seconds]
        results.add("vLLM, wall", name, settings.large, settings.few, wall)
    _add_vllm_bars(results, found)
    results.notes.append(
        f"log p(yes) - log p(no) of vLLM and Adjudge differ by {difference:.2g} nats"
    )
    each = vllm.requests_each(), vllm.requests_each(vllm.LIKELY)
    results.notes.append(
        f"vLLM: {each[0]} requests for one response's 0-100 expectation, {each[1]} pruned"
    )


def _one_round(
    servers: Servers, settings: Settings, known: Mapping[str, Template], round_: int
) -> dict[str, Seconds]:
    """With a picture and a prompt of its own, and responses of their own for every question."""
    score, verdict = known[EXPECTATION], known[SINGLE_TOKEN]
    image, prompt = picture(settings.large, 1 + round_), PROMPT + LONGER * round_
    texts = iter([responses(settings.few, 10 * round_ + k) for k in range(5)])
    found: dict[str, Seconds] = {}

    def both(what: str, way: Way, template: Template) -> None:
        of = next(texts)
        found[f"vLLM {what}"] = way(servers.vllm, Asked(template, image, of, prompt))
        found[what] = served.scored(servers.ours, servers.client, image, of, template.name, prompt)

    both("single token, cold", vllm.verdicts, verdict)
    both("single token, warm", vllm.verdicts, verdict)
    # The first question about a picture with another template is in part new to both.
    both(FIRST, vllm.verdicts, score)
    del found[FIRST], found[f"vLLM {FIRST}"]
    both("0-100, warm", vllm.expectation, score)
    pruned = Asked(score, image, next(texts), prompt)
    found["vLLM 0-100 pruned, warm"] = vllm.pruned_expectation(servers.vllm, pruned)
    return found


def agreement(servers: Servers, template: Template, image: bytes) -> float:
    """Nats between the two servers' log-odds, so that both were asked the same."""
    (text,) = responses(1, seed=0)
    yes, no = (answer.forms[0] for answer in template.answers)
    (reward,) = served.score(servers.client, image, [text], template.name).rewards
    filled = template.render({"prompt": PROMPT, "candidate": text}).text
    said = vllm.ask(servers.vllm, vllm.data_url(image), filled, "")
    assert reward is not None
    return abs(said[yes] - said[no] - reward)


def _add_vllm_bars(results: Results, found: dict[str, list[Seconds]]) -> None:
    for bar, theirs, ours in (
        ("vllm_expectation_warm_over_adjudge", "vLLM 0-100, warm", "0-100, warm"),
        ("vllm_pruned_warm_over_adjudge", "vLLM 0-100 pruned, warm", "0-100, warm"),
        ("vllm_single_token_warm_over_adjudge", "vLLM single token, warm", "single token, warm"),
        ("vllm_single_token_cold_over_adjudge", "vLLM single token, cold", "single token, cold"),
    ):
        pairs = zip(found[theirs], found[ours], strict=True)
        results.bars[bar] = statistics.median(t.cpu / o.cpu for t, o in pairs)


def _openrlhf(python: Path, settings: Settings, results: Results) -> None:
    if not openrlhf.available(python):
        results.notes.append(
            f"OpenRLHF was not measured: not in {python} (see benchmarks/README.md)"
        )
        return
    found: dict[str, list[Seconds]] = {"OpenRLHF serve_rm": [], "Adjudge": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        openrlhf.serving_ours(openrlhf.write(Path(folder), settings.shape)) as server,
        RewardClient(server.address) as client,
        openrlhf.serving_peer(python, Path(folder)) as peer,
    ):
        for round_ in range(settings.served_rounds + 1):
            texts = responses(SCALARS, round_)
            found["OpenRLHF serve_rm"].append(openrlhf.theirs(peer, texts))
            found["Adjudge"].append(openrlhf.ours(server, client, texts))
    for name, seconds in found.items():
        cpu = [s.cpu for s in seconds[1:]]  # the first pays for what is set up once
        results.add("scalar head, bf16, end to end", name, None, SCALARS, cpu)
