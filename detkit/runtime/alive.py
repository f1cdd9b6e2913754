"""Which of several processes are alive: when one of them dies or hangs, the others end and say which.

Every second each rank writes a sign of life into the store of torchrun, and reads those of the others. Without this a
rank that was stopped would let the others wait for half an hour, and the error of a broken connection names nobody.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time

import torch.distributed as dist

from detkit.registry import ConfigError
from detkit.runtime.failures import describe, is_of_connection

BEAT = 1.0  # seconds between two signs of life
DEAD = 3  # beats without a sign of a rank whose process is gone from this machine
GRACE = 10  # beats that this process gets to notice by itself and to end in order
START = 5  # times as long as a rank may be silent, all may take to start
UNTIL_TOLD = 8  # seconds that an error of a connection waits for its cause
REPEAT = "repeat the command, with --resume if it trains"


def silent_seconds() -> int:
    """After how many seconds without a sign of life a rank is given up: $DETKIT_SILENT_SECONDS, by default 120.

    Raises:
        ConfigError: the variable is not a whole number from 5.
    """
    text = os.environ.get("DETKIT_SILENT_SECONDS") or "120"
    if not text.isdecimal() or int(text) < 5:
        raise ConfigError(f"DETKIT_SILENT_SECONDS must be a whole number of seconds, at least 5, got {text!r}")
    return int(text)


class Alive:
    """The signs of life of this rank and of the others, in a thread.

    When another rank has ended and this process does not end by itself within `GRACE` beats, because it computes on, or
    when another rank is silent, the thread prints what has happened and ends the process with exit code 2.

    Args:
        store: that all ranks share.

    Attributes:
        lost: what has happened to another rank; None while all is well.
    """

    def __init__(self, store: dist.Store, rank: int, size: int):
        self.rank, self.others = rank, [other for other in range(size) if other != rank]
        self.lost: str | None = None
        self._limit, self._grace = silent_seconds(), GRACE
        self._store, self._beats, self._end = store.clone(), 0, ""  # type: ignore[attr-defined]
        self._signs: dict[int, bytes] = {}
        self._ends, self._silent = dict.fromkeys(self.others, ""), dict.fromkeys(self.others, 0)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Wait until all ranks have started, and watch them from then on.

        Raises:
            ConnectionError: some have not within `START` times the seconds of `silent_seconds`, or torchrun has ended.
        """
        seconds, missing = START * self._limit, self.others
        deadline = time.monotonic() + seconds
        try:
            self._beat()
            while missing := [other for other in missing if not self._store.check([str(other)])]:
                if time.monotonic() > deadline:
                    raise ConnectionError(f"{_ranks(missing)} did not start within {seconds} seconds; {REPEAT}")
                time.sleep(0.05)
        except RuntimeError as error:
            raise ConnectionError(f"torchrun has ended; {REPEAT} ({str(error).splitlines()[0]})") from error
        except KeyboardInterrupt:  # torchrun ends all when one has died
            raise KeyboardInterrupt(f"while it waited for {_ranks(missing)} to start; {REPEAT}") from None
        self._thread.start()

    def explain(self, error: BaseException) -> None:
        """Raise a `ConnectionError` that names the lost rank in place of an error here that comes from the loss."""
        interrupted = not isinstance(error, Exception)  # torchrun does that to all when one has died
        if not interrupted and not is_of_connection(error):
            text = describe(error) or f"{type(error).__name__}: {error}"
            self._end = f"error {(text.splitlines() or [''])[0]}"
            return
        self._end, deadline = "stopped" if interrupted else "cut off", time.monotonic() + UNTIL_TOLD
        try:
            self._wait(deadline)
        except KeyboardInterrupt:
            self._wait(deadline)
        if self.lost is not None:
            lost = ConnectionError(self.lost)
            if not getattr(error, "__notes__", ()):
                lost.add_note(REPEAT)
            raise lost from error

    def leave(self, end: str) -> None:
        """Stop watching, and tell the others that this rank ends: "done", or else "stopped" if no error says why."""
        if self._left.is_set():
            return
        self._end = self._end or end
        self._left.set()
        self._thread.join(UNTIL_TOLD)
        with contextlib.suppress(RuntimeError):  # torchrun has ended
            self._beat()

    def _wait(self, deadline: float) -> None:
        while self.lost is None and time.monotonic() < deadline and not all(self._ends.values()):
            time.sleep(0.05)

    def _watch(self) -> None:
        while not self._left.wait(BEAT):
            try:
                self._beat()
                self._look()
            except RuntimeError:  # torchrun, which keeps the store, has ended
                return
            if self.lost is not None and not self._left.wait(self._grace * BEAT):
                os.write(2, f"error: {self.lost}; {REPEAT}\n".encode())
                os._exit(2)

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(str(self.rank), f"{platform.node()} {os.getpid()} {self._beats} {self._end}")

    def _look(self) -> None:
        signs = self._store.multi_get([str(other) for other in self.others])
        for other, sign in zip(self.others, signs, strict=True):
            self._silent[other] = self._silent[other] + 1 if sign == self._signs.get(other) else 0
            host, process, _, self._ends[other] = sign.decode().split(" ", 3)
            self._signs[other] = sign
            self.lost = self.lost or self._problem(other, host, process)

    def _problem(self, other: int, host: str, process: str) -> str | None:
        name, silent = f"rank {other} (process {process} on {host})", self._silent[other]
        if end := self._ends[other]:
            return f"{name} has ended: {end.partition(' ')[2]}" if end.startswith("error ") else None
        if silent >= DEAD and host == platform.node() and _is_gone(int(process)):
            return f"{name} has died: it was killed, for example for want of memory, or crashed"
        if silent * BEAT >= self._limit:
            self._grace = 0  # nothing else would tell this process
            return (
                f"{name} has given no sign of life for {self._limit} seconds: it is stopped, or its machine hangs or "
                "cannot be reached (DETKIT_SILENT_SECONDS allows more)"
            )
        return None


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is somebody else's
        return False
    return False


def _ranks(numbers: list[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
