"""Text of tokens that come one by one."""

from adjudge_server.critic import Written
from adjudge_server.tokenization import TextTokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What the decoder shows for a character whose bytes have not all been generated yet."""


class Spelling:
    """Of one critique."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens: list[int] = []
        """All that were written."""
        self._shown = ""

    def add(self, token: int) -> Written:
        """What one more token adds: whole characters."""
        self.tokens.append(token)
        text = self._tokenizer.decode(self.tokens)
        shown, self._shown = self._shown, text if not text.endswith(REPLACEMENT) else self._shown
        return Written(token, self._shown[len(shown) :])
