"""Train variants at once on one GPU: `python scripts/train_variants.py DATA VARIANTS.json --out RUNS --copies OUT`.

VARIANTS.json holds options of `train_finetuned.py` by name: {"a": "--learning-rate 5e-4 --seed 1", "b": "--seed 2"}.
Drawing views on the CPU is the bottleneck, so several runs on one GPU take little longer than one run. Pictures are
read, and floods are painted on them, once for all runs. Every minute the latest weights of each run are copied to OUT,
because the GPU may be lost at any time. docs/lab/training.md lists the requirements of a machine with a GPU.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from train_finetuned import parse, run
from training_data import SHARES, shares_of, sources

from floodmap.training.samples import Source

COPY_SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("variants", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder for each variant is made in it")
    parser.add_argument("--copies", type=Path, required=True, help="folder for the latest weights of each")
    options = parser.parse_args()
    variants: dict[str, str] = json.loads(options.variants.read_text())
    pictures = sources(options.data, SHARES)
    # Forked processes share the pictures in memory; each initialises CUDA by itself.
    fork, running = get_context("fork"), []
    for name, words in variants.items():
        chosen = parse([str(options.data), "--out", str(options.out / name), *shlex.split(words)])
        one = fork.Process(target=run, args=(chosen, with_shares(pictures, chosen.shares)), name=name)
        one.start()
        running.append(one)
    options.copies.mkdir(parents=True, exist_ok=True)
    copied = time.monotonic()
    while any(one.is_alive() for one in running):
        time.sleep(1)
        if time.monotonic() - copied > COPY_SECONDS:
            copied = time.monotonic()
            copy_weights(options.out, list(variants), options.copies)
    copy_weights(options.out, list(variants), options.copies)
    if failed := [one.name for one in running if one.exitcode]:
        raise SystemExit(f"these runs failed: {', '.join(failed)}")


def with_shares(pictures: Sequence[Source], table: Path) -> list[Source]:
    """Return the sources with the shares of a table; sources that are not in the table are left out."""
    shares = shares_of(table)
    return [replace(source, share=shares[source.name]) for source in pictures if source.name in shares]


def copy_weights(runs: Path, names: Sequence[str], copies: Path) -> None:
    """Copy the latest weights and the log of each run, if there are any."""
    for name in names:
        for file, ending in (("model.safetensors", ".safetensors"), ("log.csv", ".csv")):
            if (runs / name / file).exists():
                shutil.copyfile(runs / name / file, copies / f"{name}{ending}")


if __name__ == "__main__":
    main()
