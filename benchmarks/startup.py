"""Start-up time of `floodmap --help`: `python benchmarks/startup.py`. The target is below 0.5 s."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

HELP = [sys.executable, "-c", "from floodmap_cli.main import main; main()", "--help"]
PASS = [sys.executable, "-c", "pass"]


def seconds(command: list[str]) -> float:
    """Wall-clock time of one process, in seconds."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Time both commands in turns, so that other load on the machine affects both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15, help="runs of each command")
    repeat = parser.parse_args().repeat
    times = [(seconds(HELP), seconds(PASS)) for _ in range(repeat)]
    helping, passing = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(one / other for one, other in times)
    print(f"floodmap --help: {helping:.3f} s, {ratio:.1f} times python -c pass ({passing:.3f} s); median of {repeat}")


if __name__ == "__main__":
    main()
