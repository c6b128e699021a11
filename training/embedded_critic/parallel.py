"""Two processes with one thread each, averaging gradients.

At this size one thread per process wastes less than two threads in one: the matrices are too small
to split.
"""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn


def join(rank: int, world: int, port: int) -> None:
    """Joins the group; everything after it runs on one thread."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if dist.get_world_size() == 1:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    offset = 0
    for gradient in gradients:
        size = gradient.numel()
        gradient.copy_(flat[offset : offset + size].view_as(gradient))
        offset += size
