"""The last layer computes only what somebody reads.

Its keys and values are needed of every row, because later batches attend to them. What it makes of
a row beyond that is read at the end of a prompt and in its answer tree, and nowhere else: for one
prompt of thousands of tokens that is a dozen rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

Inputs = tuple[torch.Tensor, ...]
Output = torch.Tensor | Inputs


class LastLayer:
    """Cuts the multilayer perceptron of a decoder's last layer down to the rows that are read.

    It goes through hooks, so that parameters keep their names. Decoders that are built otherwise
    than `layers` with an `mlp` each are left alone: then every row is computed.
    """

    def __init__(self, language: nn.Module) -> None:
        self._rows: torch.Tensor | None = None
        self._num_rows = 0
        layers = getattr(language, "layers", None)
        last = layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None
        mlp = getattr(last, "mlp", None)
        self.index: int | None = None
        """Of the layer; None where nothing is cut."""
        if isinstance(layers, nn.ModuleList) and isinstance(mlp, nn.Module):
            self.index = len(layers) - 1
            mlp.register_forward_pre_hook(self._cut)
            mlp.register_forward_hook(self._put_back)

    @contextmanager
    def reading(self, rows: torch.Tensor) -> Iterator[None]:
        """Of the pass within, only these rows (indices) of the hidden states are good."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def _cut(self, module: nn.Module, inputs: Inputs) -> Inputs | None:
        if self._rows is None:
            return None
        states, *others = inputs  # (1, N, hidden)
        self._num_rows = states.shape[1]
        return (states.index_select(1, self._rows), *others)

    def _put_back(self, module: nn.Module, inputs: Inputs, output: Output) -> Output | None:
        if self._rows is None:
            return None
        # Mixtures of experts may tell who was chosen, too; nobody asks.
        made, *others = output if isinstance(output, tuple) else (output,)
        whole = made.new_zeros(1, self._num_rows, made.shape[-1])
        whole.index_copy_(1, self._rows, made)
        return (whole, *others) if isinstance(output, tuple) else whole
