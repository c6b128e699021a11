"""Before the language model learns: image tokens start out as the embedding of what they show.

The words and the numeral of a digit share a direction in the embedding table, so do those of a
shape and a colour, and the projector is fitted so that every patch of a picture lands on them. A
digit's direction holds a part for its parity, which "odd" and "even" share, and one that grows with
its size. "Does the response name the digit shown?", or call it odd, is then a dot product away at
step 0; without this the image is noise that the model first learns to ignore.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedded_critic.tokenizer import Encoder
from embedded_critic.views import HOW, WHAT

EMBEDDING_STD = 0.04


def align_embeddings(table: nn.Embedding, encoder: Encoder) -> Tensor:
    """Gives the tokens of every digit, shape and colour a shared part, and those of a parity.

    Returns the directions, (len(WHAT) + len(HOW), hidden).
    """
    hidden = table.embedding_dim
    directions = torch.randn(len(WHAT) + len(HOW), hidden) * EMBEDDING_STD
    odd, large = torch.randn(2, hidden) * EMBEDDING_STD
    for digit in range(10):
        sign = 1 if digit % 2 else -1
        directions[digit] += 0.5 * sign * odd + 0.5 * (digit - 4.5) / 2.9 * large
    for row, name in enumerate((*WHAT, *HOW)):
        numeral = (str(row),) if row < 10 else ()
        _share(table, encoder, directions[row], (*numeral, *_forms(name)))
    _share(table, encoder, odd, _forms("odd"))
    _share(table, encoder, -odd, _forms("even"))
    return directions


def _forms(word: str) -> tuple[str, ...]:
    capital = word.capitalize()
    return word, f" {word}", capital, f" {capital}"


def _share(
    table: nn.Embedding, encoder: Encoder, direction: Tensor, texts: tuple[str, ...]
) -> None:
    """Every text that is one token gets the direction, and something of its own."""
    for text in texts:
        token = encoder.token_id(text)
        if token is not None:
            own = torch.randn(table.embedding_dim) * EMBEDDING_STD
            with torch.no_grad():
                table.weight[token] = 0.8 * direction + 0.6 * own


def fit_projector(
    projector: nn.Module,
    features: Tensor,
    what: Tensor,
    how: Tensor,
    directions: Tensor,
    *,
    steps: int,
    log: Callable[[str], None],
) -> None:
    """Fits the projector to (n, tokens, hidden) features, whitening them in its first layer."""
    first, second = projector.linear_1, projector.linear_2
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    flat = features.flatten(0, 1)
    mean, std = flat.mean(0), flat.std(0) + 1e-3
    with torch.no_grad():
        first.weight.normal_(0, features.shape[-1] ** -0.5)
        first.weight /= std
        first.bias.copy_(-first.weight @ mean)
        second.weight.normal_(0, 0.02)
        second.bias.zero_()
    targets = 0.8 * directions[what] + 0.7 * directions[len(WHAT) + how]  # (n, hidden)
    optimizer = torch.optim.Adam(projector.parameters(), lr=3e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        chosen = torch.randint(0, len(features), (96,))
        fitted = projector(features[chosen])
        loss = F.mse_loss(fitted, targets[chosen, None].expand_as(fitted)) / EMBEDDING_STD**2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            log(f"projector step {step} loss {loss.item():.3f}")
