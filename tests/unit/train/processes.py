"""Runs of several processes that talk by gloo, on this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed.fsdp", "climp_bench.run.experiment"])


def spread(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``function(*args)`` returns in each of ``size`` processes, by rank.

    Raises:
        AssertionError: one failed; with its traceback.
    """
    running = start(size, function, *args)
    outcomes = [pickle.loads(receiver.recv_bytes()) for _, receiver in running]
    for process, _ in running:
        process.join(60)
    faults = [text for good, text in outcomes if not good]
    assert not faults, faults[0]
    return [value for _, value in outcomes]


def start(size: int, function: Callable[..., Any], *args: Any) -> list[tuple[Any, Any]]:
    """The processes, by rank, and the end of a pipe that its pickled outcome comes from."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for rank in range(size):
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_member, args=(sender, rank, size, port, function, args))
        process.start()
        sender.close()
        running.append((process, receiver))
    return running


def _member(sender: Any, rank: int, size: int, port: int, function: Callable[..., Any], args: Any) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        sender.send_bytes(pickle.dumps((True, function(*args))))
    except BaseException:
        sender.send_bytes(pickle.dumps((False, traceback.format_exc())))
