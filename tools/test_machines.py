"""Run the tests that compare numbers as other CPUs would: python tools/test_machines.py [arguments of pytest]

Processors differ in their vector units, and the same sum rounds differently in each; more threads and other libraries
change the order of sums too. Each row of the table is one run of pytest with the environment that it names. A CPU can
imitate those that have less than itself, not those that have more. The name of a row as first argument runs that only.
"""

import os
import subprocess
import sys
from pathlib import Path

NUMBERS = [f"tests/{folder}" for folder in ("vidt", "pointseg", "correspondence", "ops", "backbones", "evaluation")]
AVX2 = dict(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2")
TWO_THREADS = dict(DETKIT_TEST_THREADS="2", OMP_WAIT_POLICY="PASSIVE")  # a thread that waits leaves its core to others
RUNS = {
    "no-vectors": dict(ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41", DETKIT_TEST_THREADS="1"),
    "avx2": dict(AVX2, DETKIT_TEST_THREADS="1"),
    "avx2-two-threads": AVX2 | TWO_THREADS,
    "avx2-without-onednn-linear": dict(AVX2, DETKIT_TEST_THREADS="1", DETKIT_ONEDNN_LINEAR="0"),
    "avx512": dict(ATEN_CPU_CAPABILITY="avx512", DETKIT_TEST_THREADS="1"),
    "avx512-two-threads": dict(ATEN_CPU_CAPABILITY="avx512") | TWO_THREADS,
}


def run(environment: dict[str, str], arguments: list[str]) -> tuple[bool, str]:
    """Whether pytest passed, and its last line."""
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=os.environ | environment, capture_output=True, text=True)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 0, "\n".join([done.stdout.strip().rpartition("\n")[2] or done.stderr, *failed])


def main(arguments: list[str]) -> int:
    names = [arguments.pop(0)] if arguments and arguments[0] in RUNS else list(RUNS)
    paths = [] if any(argument.startswith("tests") for argument in arguments) else NUMBERS
    passed = []
    for name in names:
        good, summary = run(RUNS[name], paths + arguments)
        passed.append(good)
        print(f"{name:28}{'passed' if good else 'FAILED'}  {summary}", flush=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
