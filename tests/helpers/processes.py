"""Functions in processes of their own, forked from the test: nothing has to be imported again."""

import os
import signal
import socket
import sys
import time
import traceback

import torch


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


def wait_for(processes, seconds=120.0):
    """The exit codes of processes, negative for signals; all are killed when the time is over."""
    codes, deadline = {}, time.monotonic() + seconds
    while len(codes) < len(processes):
        for process in processes:
            if process not in codes:
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    codes[process] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[process] for process in processes]


def run_ranks(function, log, ranks=2):
    """Run `function` in each of some processes with the environment that torchrun gives.

    Returns:
        Their exit codes, and what they wrote.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [run_process(function, log, RANK=str(i), LOCAL_RANK=str(i), **shared) for i in range(ranks)]
    codes = wait_for(processes)
    return codes, log.read_text()
