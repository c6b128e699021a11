"""The torch device that a critic computes on."""

import torch

from adjudge_server.misconfigured import Misconfigured


def pick_device(device: str) -> str:
    """ "auto" is the first GPU, or the CPU.

    Raises ValueError, naming the flag, for a device that does not answer: Misconfigured where it is
    none, or none of this PyTorch's; the driver of any other may be loaded later.
    """
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise Misconfigured(f"--device {device}: {error}") from error
    if found.type == "meta":
        raise Misconfigured(f"--device {device}: computes nothing")
    try:
        torch.zeros(1, device=found)
    except (AssertionError, ImportError, NotImplementedError) as error:  # each device in its way
        raise Misconfigured(
            f"--device {device}: this PyTorch, {torch.__version__}, is built without such devices"
        ) from error
    except RuntimeError as error:
        told = str(error).partition("\n")[0]
        raise ValueError(f"--device {device}: {told}") from error
    return str(found)
