"""Lost ranks: `python tools/faults.py ranks [--number 8] [--seed 0] [--silent 120]`, on Linux.

Trains with torchrun on two CPU ranks, once undisturbed. Then NUMBER times, in turn: kills rank 0, kills rank 1, stops
rank 0, stops rank 1 (SIGSTOP), at a moment drawn uniformly over its whole life (in CPU time), and when all is over
repeats the same command. Wanted: the other rank ends within the stated time with one line that tells why, torchrun
ends, no process is left, and the repetition gives bit-equal weights and equal rows. Prints how long each end took
and what the other rank said; exit code 1 if anything is not as wanted.

    --silent    DETKIT_SILENT_SECONDS: after how long a rank without a sign of life is given up
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(Path(__file__).parent)]

from kills import cpu_seconds, differences, results, state_of, vidt  # noqa: E402
from processes import run_process, wait_for  # noqa: E402

from detkit.config import format_config  # noqa: E402

KILLED_SECONDS = 20  # within which the other rank ends when one was killed; when it was stopped, `--silent` more
TORCHRUN_SECONDS = 40  # more, until torchrun has ended the stopped process
FAULTS = [(number, rank) for number in (signal.SIGKILL, signal.SIGSTOP) for rank in (0, 1)]


def config(workers: int) -> dict[str, Any]:
    """The config of a training of three epochs of three steps on each of two ranks."""
    made = vidt(workers=workers, ema=0.9)
    made["data"]["train"]["length"], made["data"]["val"]["length"] = 12, 8
    return made


def start(file: Path, out: Path) -> int:
    """Start torchrun in a process of its own; the command is the same the first time and every other."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "detkit"]
    words += ["train", str(file), "--out", str(out), "--resume"]
    return run_process(lambda: os.execv(words[0], words), out.with_suffix(".log"), PYTHONPATH=str(ROOT))


def ranks_of(launcher: int, seconds: float = 60) -> list[int]:
    """The processes that torchrun has started, by rank: it starts them in this order."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and is_running(launcher):
        threads = Path(f"/proc/{launcher}/task").glob("*/children")
        if len(found := sorted(int(child) for path in threads for child in path.read_text().split())) == 2:
            return found
        time.sleep(0.01)
    raise RuntimeError("torchrun has not started two ranks")


def is_running(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_of(out: Path) -> list[int]:
    """The processes, data workers included, whose command names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(out).encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until_over(processes: Sequence[int], seconds: float) -> float | None:
    """How long it takes until none of them runs; None if it takes longer."""
    begin = time.monotonic()
    while any(map(is_running, processes)):
        if time.monotonic() - begin > seconds:
            return None
        time.sleep(0.05)
    return time.monotonic() - begin


def use(process: int, limit: float = math.inf) -> float:
    """Wait until a process has used `limit` seconds of CPU time, or has ended; returns what it has used."""
    used = 0.0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while used < limit and (now := cpu_seconds(process)) is not None:
            used = now
            time.sleep(0.005)
    return used


class Outcome(NamedTuple):
    """What came of a fault: when the other rank and torchrun had ended, what was said, what is not as wanted."""

    hit: str
    rank_seconds: float | None
    all_seconds: float | None
    said: list[str]
    wrong: list[str]


class Ranks:
    """A training on two ranks, and what it gives when nothing disturbs it."""

    def __init__(self, folder: Path, workers: int):
        self.folder, self.file = folder, folder / f"{workers}_workers.py"
        self.file.write_text(format_config(config(workers)))
        out = folder / f"{workers}_workers"
        launcher = start(self.file, out)
        processes = ranks_of(launcher)
        self.seconds = use(processes[0])
        if wait_for([launcher], 600) != [0]:
            raise RuntimeError(f"fails undisturbed: {out.with_suffix('.log').read_text()}")
        self.whole = results(out)
        assert not any(map(is_running, processes))

    def disturb(self, number: signal.Signals, rank: int, moment: float, out: Path) -> Outcome:
        """Send a signal to one rank at this part of its life, wait for the end, repeat the command and compare."""
        launcher = start(self.file, out)
        processes = ranks_of(launcher)
        use(processes[rank], moment * self.seconds)
        log, hit = out.with_suffix(".log"), state_of(out)
        before = log.stat().st_size
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.kill(processes[rank], number)
        waits = 5 if hit == "nothing written" else 1  # it may not have started
        limit = KILLED_SECONDS + silent() * waits * (number == signal.SIGSTOP)
        ended = wait_until_over([processes[1 - rank]], limit)
        if ended is not None and number == signal.SIGSTOP and not _errors(log, before):
            with contextlib.suppress(ProcessLookupError):
                os.kill(processes[rank], signal.SIGCONT)  # the run was over
        over = wait_until_over([launcher], TORCHRUN_SECONDS)
        (code,) = wait_for([launcher], 0 if over is None else 60)
        left = processes_of(out) if wait_until_over(processes_of(out), 10) is None else []
        for process in left:
            os.kill(process, signal.SIGKILL)
        said = _errors(log, before)
        if not said and not differences(self.whole, results(out)):  # both ranks had left the run
            said, hit, code = ["after the end"], "after the end", 0
        wrong = [] if code == 0 or len(said) == 1 else [f"{len(said)} lines of an error: {log.read_text()[before:]}"]
        wrong += [f"the other rank ran on for {limit} seconds"] if ended is None else []
        wrong += ["torchrun did not end"] if over is None else []
        wrong += [f"processes {left} are left"] if left else []
        total = None if ended is None or over is None else ended + over
        return Outcome(hit, ended, total, said, wrong + self._repeat(out))

    def _repeat(self, out: Path) -> list[str]:
        if wait_for([start(self.file, out)], 600) != [0]:
            return [f"cannot be resumed: {out.with_suffix('.log').read_text()[-2000:]}"]
        return [f"{name} differs" for name in differences(self.whole, results(out))]


def _errors(log: Path, before: int) -> list[str]:
    """The lines of errors after the first bytes."""
    return [line for line in log.read_text()[before:].splitlines() if line.startswith(("error", "stopped"))]


def silent() -> int:
    """The seconds without a sign of life after which a rank is given up."""
    return int(os.environ["DETKIT_SILENT_SECONDS"])


def main(arguments: Sequence[str]) -> int:
    """See the docstring of the file."""
    parser = argparse.ArgumentParser(prog="tools/faults.py ranks", description="Kill and stop ranks at any moment.")
    parser.add_argument("--number", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--silent", type=int, default=120)
    options = parser.parse_args(arguments)
    os.environ |= {"DETKIT_SILENT_SECONDS": str(options.silent), "OMP_NUM_THREADS": "1"}
    draw, failed = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        runs = [Ranks(Path(folder), workers) for workers in ((0, 1) if options.number > len(FAULTS) else (0,))]
        for number in range(options.number):
            fault, rank = FAULTS[number % len(FAULTS)]
            run = runs[number // len(FAULTS) % len(runs)]
            outcome = run.disturb(fault, rank, draw.random(), Path(folder) / f"run_{number}")
            failed += bool(outcome.wrong)
            print(row(number, fault, rank, outcome), flush=True)
    print(f"{options.number - failed} of {options.number} ended in time with one line, and went on to equal results")
    return int(failed > 0)


def row(number: int, fault: signal.Signals, rank: int, outcome: Outcome) -> str:
    """A line of the table."""
    times = " ".join(f"{'-' if s is None else f'{s:.1f} s':>7}" for s in (outcome.rank_seconds, outcome.all_seconds))
    end = "; ".join(outcome.wrong) or "equal"
    return f"{number + 1:4} {fault.name} rank {rank} {times}  {outcome.hit}: {end}\n     {' | '.join(outcome.said)}"
