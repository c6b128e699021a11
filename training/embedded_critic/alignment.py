"""Stage two: image tokens start out as the embedding of the digit they show.

The words and the numeral of a digit share a direction in the embedding table, and the projector is
fitted so that every patch of a picture lands on it. "Does the response name the digit shown?" is
then a dot product away at step 0; without this the image is noise that the model first learns to
ignore.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedded_critic.phrases import WORDS
from embedded_critic.tokenizer import Encoder

EMBEDDING_STD = 0.04


def align_embeddings(table: nn.Embedding, encoder: Encoder) -> Tensor:
    """Gives every digit's tokens a shared part. Returns the (12, hidden) directions.

    Rows 10 and 11 stand for light on dark and dark on light.
    """
    hidden = table.embedding_dim
    directions = torch.randn(12, hidden) * EMBEDDING_STD
    with torch.no_grad():
        for digit, word in enumerate(WORDS):
            for text in (str(digit), word, f" {word}", word.capitalize(), f" {word.capitalize()}"):
                token = encoder.token_id(text)
                if token is not None:
                    own = torch.randn(hidden) * EMBEDDING_STD
                    table.weight[token] = 0.8 * directions[digit] + 0.6 * own
    return directions


def fit_projector(
    projector: nn.Module,
    features: Tensor,
    digits: Tensor,
    dark: Tensor,
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
    targets = 0.8 * directions[digits] + 0.5 * directions[10 + dark]  # (n, hidden)
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
