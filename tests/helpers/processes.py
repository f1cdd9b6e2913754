"""Functions in processes of their own, forked from the test: nothing has to be imported again."""

import os
import signal
import sys
import time
import traceback

import torch
import torch.distributed as dist


def run_process(function, log, **environment):
    """Run `function` in a forked process whose output goes to the file `log`; returns its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ.update(environment)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the test session runs here


def wait_for(processes, seconds=120.0, patience=None):
    """The exit codes of processes, negative for signals; all are killed when the time is over.

    With `patience` the failure of one ends the others, see `run_ranks`.
    """
    codes, deadline, told = {}, time.monotonic() + seconds, patience is None
    while len(codes) < len(processes):
        for process in processes:
            if process not in codes:
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    codes[process] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.kill(process, signal.SIGKILL)
        if any(codes.values()) and not told:
            told, deadline = True, time.monotonic() + patience
            for process in set(processes) - set(codes):
                os.kill(process, signal.SIGTERM)
        time.sleep(0.005)
    return [codes[process] for process in processes]


def run_ranks(function, log, ranks=2, patience=30.0):
    """Run `function` in each of some processes as torchrun does, with the environment and the store that it gives.

    Args:
        patience: when one fails the others get a SIGTERM, and after so many seconds a SIGKILL.

    Returns:
        Their exit codes, and what they wrote.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    processes = [run_process(function, log, RANK=str(i), LOCAL_RANK=str(i), **shared) for i in range(ranks)]
    codes = wait_for(processes, patience=patience)
    return codes, log.read_text()
