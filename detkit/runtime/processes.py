"""Several processes as torchrun starts them; every function is a no-op in a single process.

Tensors on the CPU travel over gloo, also in GPU runs, so that counts can be exchanged without waiting for the GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from detkit.modeling.base import Model
from detkit.runtime.alive import Alive

_JOINED = itertools.count()  # how often this process has joined others: each time with names of its own in the store


def choose_device(name: str = "auto") -> torch.device:
    """The device of this process: "auto" (cuda where there is one, else cpu), "cpu", "cuda" or "cuda:1".

    Under torchrun "cuda" is the GPU of this process's local rank.

    Raises:
        ValueError: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:<number>") from error
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch sees no CUDA device")
    index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"device cuda:{index} was asked for, but there are {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", index)


@contextlib.contextmanager
def distributed(device: str = "auto") -> Iterator[torch.device]:
    """Choose the device, join the other processes that torchrun started, and leave them together at the end.

    Raises:
        ConnectionError: another process has died, does not answer or has not started; the message says which.
    """
    chosen = choose_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield chosen
        barrier()
        return
    alive = _join(chosen)
    try:
        yield chosen
        barrier()
        alive.leave("done")
    except BaseException as error:
        alive.explain(error)
        raise
    finally:
        alive.leave("stopped")
        dist.destroy_process_group()


def _join(device: torch.device) -> Alive:
    """Join the other processes, by the variables that torchrun has set, once all have started."""
    store, rank, size = next(rendezvous("env://"))
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"detkit {restart} {next(_JOINED)}", store)
    alive = Alive(dist.PrefixStore("alive", store), rank, size)
    alive.start()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    return alive


def replicate(model: Model, device: torch.device) -> nn.Module:
    """The model to call in training: `model`, or with several processes one that averages their gradients.

    On GPUs the batch norms of the model use the statistics of all processes, see `Model.synchronize_norms`.
    """
    if world_size() == 1:
        return model
    if device.type == "cuda":
        model.synchronize_norms()
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the buffers of the main one, such as the running means of batch norms.

    In training they are shared at the beginning of each step; an evaluation must not see what came after.
    """
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def rank() -> int:
    """The number of this process, from 0; 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes; 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and messages."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all processes, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_gather_object(value: Any) -> list[Any]:
    """The (picklable) values of all processes, by rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any) -> Any:
    """The value of the main process."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def on_main(function: Callable[[], Any]) -> Any:
    """What `function` returns in the main process, in every process; an error of the user's making is raised in all."""
    result: Any = None
    if is_main():
        try:
            result = function()
        except (ValueError, OSError) as error:
            result = error
    result = broadcast_object(result)
    if isinstance(result, (ValueError, OSError)):
        raise result
    return result
