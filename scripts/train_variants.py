"""Train variants side by side on a GPU: `python scripts/train_variants.py DATA VARIANTS.json --out RUNS --copies OUT`.

VARIANTS.json holds options of `train_finetuned.py` by name: {"a": "--learning-rate 5e-4 --seed 1", "b": "--seed 2"}.
A GPU waits for the views that are drawn, so several runs on one take little longer than one. Pictures are read and
painted once, for all. Every minute the latest weights of each are copied to OUT, for a GPU may be gone at any time.
For what a machine with a GPU needs, see docs/lab/training.md.
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
    # Forked, so that the pictures are shared; CUDA begins in each by itself.
    fork, running = get_context("fork"), []
    for name, words in variants.items():
        chosen = parse([str(options.data), "--out", str(options.out / name), *shlex.split(words)])
        one = fork.Process(target=run, args=(chosen, drawn_as(pictures, chosen.shares)), name=name)
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


def drawn_as(pictures: Sequence[Source], table: Path) -> list[Source]:
    """The same pictures, each source drawn as often as a table says."""
    shares = shares_of(table)
    return [replace(source, share=shares[source.name]) for source in pictures if source.name in shares]


def copy_weights(runs: Path, names: Sequence[str], copies: Path) -> None:
    """The latest weights of each run and its log, for as far as there are any."""
    for name in names:
        for file, ending in (("model.safetensors", ".safetensors"), ("log.csv", ".csv")):
            if (runs / name / file).exists():
                shutil.copyfile(runs / name / file, copies / f"{name}{ending}")


if __name__ == "__main__":
    main()
