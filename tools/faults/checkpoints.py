"""Damaged and hostile checkpoints: `python tools/faults.py checkpoints [--number 1000] [--seed 0]`.

Makes a small detector's checkpoint and run, and from them NUMBER files with a flipped bit, NUMBER / 4 truncated or
lengthened ones, NUMBER headers with hostile values (their checksums made right again) and NUMBER / 4 pickles that would
run code. Each must be refused with one line that names the file, or change nothing: the same weights, or for a header a
model that can be built. Nothing of them may run, no file that they name may be read. Prints what happened to each
kind, and at the end what the checksums cost; exit code 1 if one was not refused and not harmless.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from detkit.backbones.pretrained import read_state_dict
from detkit.checkpoints.convert import read_official
from detkit.checkpoints.header import HEADER, TENSORS, digest_of_tensors, encode
from detkit.checkpoints.resume import latest_checkpoint, save_checkpoint
from detkit.checkpoints.weights import load_model, make_header, read_weights, save_weights
from detkit.engine.guard import load_batches
from detkit.runtime.components import build_model
from detkit.structures import LabelMap

SECONDS = 30  # that one file may take
MEMORY = 8 << 30  # bytes of address space beyond what the program has at its start
SWIN = dict(type="Swin", embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window=4, num_tokens=5, pos_dim=32)
FEATURES = dict(type="TimmFeatures", model="test_resnet", num_tokens=5, pos_dim=32, model_args=dict(drop_path_rate=0.1))
DETECTOR = dict(type="ViDT", hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64)
LABELS = LabelMap(("cat", "dog", None), (3, 5, 7))
HUGE = "a number of 5000 digits"  # stands for it in a header, as json.dumps refuses to write it
DATA = dict(val=dict(type="SyntheticScenes", length=2), train=dict(type="SyntheticScenes", length=2))


class Failure(Exception):
    """A file that was neither refused nor harmless."""


class Trap:
    """A pickle that writes a file when it is read."""

    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.mark, "w")


class Bench:
    """The files that are damaged, and the traps around them.

    Args:
        folder: for all files.
        seed: of the random damage.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        self.mark, self.trap, self.path = folder / "sprung", folder / "trap.pth", folder / "damaged.safetensors"
        self.trap.write_bytes(pickle.dumps(Trap(str(self.mark))))
        self.touched: set[str] = set()
        self.watches = False
        self.files = []
        for number, backbone in enumerate((SWIN, FEATURES)):
            config: dict[str, Any] = dict(model=dict(DETECTOR, backbone=backbone), data=DATA, train=dict(epochs=1))
            model = build_model(config["model"], LABELS)
            path = folder / f"model_{number}.safetensors"
            save_weights(path, model.state_dict(), make_header(config, model, metrics={"AP": 0.5}))
            self.files.append((path, read_weights(path)))
        state = {"optimizer": {"m": torch.randn(5000)}, "best": {"value": None}, "epoch": 1}
        for step in (5, 10):
            save_checkpoint(folder / "run", step, {"w": torch.randn(5000)}, {"epoch": 1}, state)
        self.weights = folder / "run" / "step_00000010.safetensors"
        self.state = self.weights.with_name("step_00000010.trainer.pt")
        sys.addaudithook(self._watch)

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        forbidden = ("os.system", "os.exec", "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "os.fork")
        if not self.watches:  # a hook stays as long as the process
            return
        if event in forbidden or (event == "open" and str(arguments[0]) in (str(self.trap), str(self.mark))):
            self.touched.add(f"{event} {arguments[:1]}")

    def outcome(self, read: Callable[[], Any], path: Path | None = None) -> str:
        """What reading a file led to: "refused" or "harmless".

        Args:
            read: reads it, and raises a `Failure` where it gives other values than before.
            path: must be named by the error.

        Raises:
            Failure: a raw exception, an error of several lines or without the path, too long a time, a touched trap.
        """
        self.touched.clear()
        self.watches = True
        try:
            with time_limit():
                read()
            result = "harmless"
        except Failure:
            raise
        except ValueError as error:
            if (type(error) is ValueError and "\n" in str(error)) or "weights_only" in str(error):
                raise Failure(f"not one line of our own: {error}") from error
            if "allocate" in str(error) or "MemoryError" in str(error):
                raise Failure(f"all memory was asked for: {error}") from error
            if "\n" in str(error) or (path is not None and str(path) not in str(error)):
                raise Failure(f"not one line that names the file: {error}") from error
            result = "refused"
        except Exception as error:
            raise Failure(f"raw {type(error).__name__}: {error}") from error
        finally:
            self.watches = False
        if self.touched or self.mark.exists():
            raise Failure(f"touched: {sorted(self.touched)}")
        return result


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """End what takes longer than `SECONDS` by a TimeoutError."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def same_weights(path: Path, expected: dict[str, torch.Tensor]) -> None:
    """Load a model and compare its weights."""
    found = load_model(path).state_dict()
    if any(not torch.equal(found[name], tensor) for name, tensor in expected.items()):
        raise Failure("other weights were loaded in silence")


def flip(content: bytes, rng: random.Random) -> bytes:
    """One bit; half of the time among the first 3000 bytes, where the header is."""
    position = rng.randrange(len(content) if rng.random() < 0.5 else min(3000, len(content)))
    changed = bytearray(content)
    changed[position] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """A truncated file, one with bytes too many, or with a part in zeros, as a lost disk block leaves it."""
    position = rng.randrange(len(content))
    length = rng.randrange(1, 512)
    kinds = [content[:position], content + rng.randbytes(length)]
    return rng.choice([*kinds, content[:position] + bytes(length) + content[position + length :]])


def try_damaged_weights(bench: Bench, damage: Callable[[bytes, random.Random], bytes]) -> str:
    """Damage the weights of the first model."""
    source, (expected, _) = bench.files[0]
    bench.path.write_bytes(damage(source.read_bytes(), bench.random))
    return bench.outcome(lambda: same_weights(bench.path, expected), bench.path)


def try_damaged_run(bench: Bench, damage: Callable[[bytes, random.Random], bytes]) -> str:
    """Damage one file of the newest pair of a run; the older pair must be taken, or the same be read."""
    path = bench.random.choice([bench.weights, bench.state])
    content, before = path.read_bytes(), latest_checkpoint(bench.weights.parent)
    assert before is not None and before.path == bench.weights
    path.write_bytes(damage(content, bench.random))

    def read() -> None:
        found = latest_checkpoint(bench.weights.parent)
        if found is None or found.header["step"] not in (5, 10):
            raise Failure("no checkpoint is left")
        if found.header["step"] == 5:
            raise ValueError("the older pair is taken")
        if not torch.equal(found.weights["w"], before.weights["w"]) or not torch.equal(
            found.trainer["optimizer"]["m"], before.trainer["optimizer"]["m"]
        ):
            raise Failure("other values were resumed from in silence")

    try:
        return bench.outcome(read)
    finally:
        path.write_bytes(content)


def hostile_values(bench: Bench) -> list[Any]:
    """What a hand-made header may hold in any place."""
    deep: Any = 1
    for _ in range(bench.random.choice([30, 45, 900])):
        deep = [deep]
    own = dict(type="Checkpoint", path=str(bench.trap))
    files = [str(bench.trap), f"file://{bench.trap}", "http://127.0.0.1:9/m.pth", f"local-dir:{bench.folder}"]
    numbers = [0, -1, 1, 2, 3.5, 10**5, 10**9, 10**18, 10**400, HUGE, 1e308, float("nan"), float("inf"), True, False]
    plain = [None, [], {}, "", "x" * 10_000, "\x00", "\ud800", [[]], [None] * 3, {"type": "ViDT"}, {"type": 3}, deep]
    parts = [own, {"type": "CocoDataset", "annotation_file": "/etc/passwd"}, {"type": "Checkpoint"}, {"type": "Flip"}]
    return [*files, "hf-hub:timm/test", *numbers, *plain, *parts, dict(SWIN, pretrained=str(bench.trap))]


FILE_KEYS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "teacher")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside of a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *places(item, (*path, key))]]


def corrupt(header: dict[str, Any], bench: Bench) -> dict[str, Any]:
    """A copy with a value replaced, added or removed; half of the time in the part that a model is built from."""
    header, rng = copy.deepcopy(header), bench.random
    every = places(header)
    built = [path for path in every if path[:2] == ("config", "model") or path[0] in ("label_map", "input_rule")]
    *outer, key = rng.choice(built if rng.random() < 0.7 else every)
    owner: Any = header
    for name in outer:
        owner = owner[name]
    kind = rng.random()
    if kind < 0.1:
        del owner[key]
    elif kind < 0.25 and isinstance(owner, dict):
        owner[rng.choice([*FILE_KEYS, "surprise", "type", "model"])] = rng.choice(hostile_values(bench))
    elif kind < 0.35 and isinstance(owner[key], dict):
        owner[key][rng.choice(FILE_KEYS)] = rng.choice([str(bench.trap), {"file": str(bench.trap)}])
    else:
        owner[key] = rng.choice(hostile_values(bench))
    return header


def try_hostile_header(bench: Bench) -> str:
    """A header with a hostile value and right checksums."""
    _, (weights, header) = bench.random.choice(bench.files)
    changed = corrupt(header, bench)
    stored = {name: tensor for name, tensor in weights.items() if name not in header["aliases"]}
    try:
        metadata = encode(changed, stored)
        text = json.dumps({**json.loads(metadata["detkit"]), **changed, TENSORS: digest_of_tensors(stored)})
    except (ValueError, RecursionError):
        text = json.dumps(header)
    text = text.replace(json.dumps(HUGE), "9" * 5000)
    metadata = {"format": "pt", "detkit": text.encode("utf-8", "replace").decode()}
    if bench.random.random() < 0.5 and TENSORS in text:  # as a file of before there were checksums, or with right ones
        from detkit.checkpoints.header import _digest

        metadata[HEADER] = _digest(metadata["detkit"])
    else:
        metadata["detkit"] = text.replace(f'"{TENSORS}"', '"was"')
    save_file(stored, bench.path, metadata)
    return bench.outcome(lambda: load_model(bench.path), bench.path)


def hostile_pickle(bench: Bench) -> bytes:
    """A file that runs code when it is unpickled without care, or is none at all."""
    mark, rng = str(bench.mark), bench.random
    trap = Trap(mark)
    text = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    code = f"cbuiltins\neval\n(S'open({mark!r}, \"w\")'\ntR.".encode()
    choice = rng.randrange(8)
    if choice == 0:
        return rng.choice([text, code, pickle.dumps(trap), pickle.dumps({"model": trap}, protocol=2)])
    if choice == 1:
        return rng.randbytes(rng.randrange(2000))
    if choice == 2:
        return b"\x80\x02" + rng.randbytes(rng.randrange(200)) + b"."
    buffer = io.BytesIO()
    values = [{"model": trap}, {"model": {"w": torch.ones(3), "x": trap}}, {"state_dict": [trap]}, [trap], trap]
    torch.save(rng.choice(values), buffer, _use_new_zipfile_serialization=choice < 6)
    if choice < 5:
        return replaced_pickle(
            buffer.getvalue(), rng.choice([text, code, b"", b".", b"(" * 5000, b"]" * 300_000 + b"."])
        )
    return flip(buffer.getvalue(), rng) if choice == 7 else buffer.getvalue()


def replaced_pickle(content: bytes, inner: bytes) -> bytes:
    """A torch zip file with another pickle in it; some are too long when they are unpacked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, inner if entry.filename.endswith("data.pkl") else old.read(entry))
    return buffer.getvalue()


def try_hostile_pickle(bench: Bench) -> str:
    """A pickle as an official checkpoint, as weights of a backbone, as a bad batch or as the state of a run."""
    content = hostile_pickle(bench)
    kind = bench.random.randrange(4)
    if kind == 3:
        return try_damaged_run(bench, lambda *_: content)
    path = bench.folder / "hostile.pth"
    path.write_bytes(content)
    readers: tuple[Callable[[], Any], ...] = (
        lambda: read_official(path),
        lambda: read_state_dict(str(path)),
        lambda: load_batches(path),
    )
    return bench.outcome(readers[kind], path)


def trials(number: int) -> dict[str, tuple[int, Callable[[Bench], str]]]:
    """Each kind of fault: how many, and one of them."""
    return {
        "flipped bit, weights": (number // 2, lambda bench: try_damaged_weights(bench, flip)),
        "flipped bit, run": (number - number // 2, lambda bench: try_damaged_run(bench, flip)),
        "truncated, weights": (number // 8, lambda bench: try_damaged_weights(bench, cut)),
        "truncated, run": (number // 8, lambda bench: try_damaged_run(bench, cut)),
        "hostile header": (number, try_hostile_header),
        "hostile pickle": (number // 4, try_hostile_pickle),
    }


def run(number: int, seed: int, folder: Path) -> list[str]:
    """Try all kinds, print a row for each.

    Returns:
        What was neither refused nor harmless.
    """
    bench, failures = Bench(folder, seed), []
    for kind, (count, attempt) in trials(number).items():
        outcomes: Counter[str] = Counter()
        start = time.monotonic()
        for i in range(count):
            try:
                outcomes[attempt(bench)] += 1
            except Failure as failure:
                bench.mark.unlink(missing_ok=True)
                outcomes["FAILED"] += 1
                failures.append(f"{kind} {i}: {str(failure)[:400]}")
                kept = bench.folder / f"failed_{len(failures)}.bin"
                shutil.copyfile(bench.path if bench.path.exists() else bench.trap, kept)
        told = ", ".join(f"{outcomes[name]} {name}" for name in ("refused", "harmless", "FAILED") if outcomes[name])
        print(f"{kind:22} {count:6}: {told} ({time.monotonic() - start:.0f} s)", flush=True)
    return failures


def print_cost(folder: Path) -> None:
    """Print the processor time that checksums add to saving and reading 400 MB of weights."""
    weights = {f"weight_{i}": torch.randn(1000, 1000) for i in range(100)}
    path = folder / "large.safetensors"
    jobs: dict[str, Callable[[], Any]] = {
        "saving": lambda: save_weights(path, weights, {}),
        "reading": lambda: read_weights(path),
        "of these, the checksum": lambda: digest_of_tensors(weights),
    }
    for name, job in jobs.items():
        start = time.process_time()
        job()
        print(f"400 MB of weights, {name}: {time.process_time() - start:.2f} s of processor time")


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tools/faults.py checkpoints", description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as folder:
        failures = run(options.number, options.seed, Path(folder))
        print_cost(Path(folder))
    print(*failures, sep="\n")
    print(f"{len(failures)} neither refused nor harmless")
    return 1 if failures else 0
