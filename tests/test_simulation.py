"""The simulation of workers in benchmarks/: limits that hold for any figures."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the repository's benchmarks")
sys.path.insert(0, str(BENCHMARKS))

from simulation import Rates, Site, simulate  # noqa: E402

SIDE = 12_000
MEGAPIXELS = SIDE**2 / 1e6
RATES = Rates(
    client_start_s=2, worker_start_s=4, open_s=1, coarse_s=0.03, windows_s=0.2, worker_cores=1, join_s=0.001,
    results_s=0.002, results_cores=1, last_s=0.001, end_s=1, crowded=1, read_bytes=2e6, message_bytes=2e5,
    written_bytes=2e5,
)  # fmt: skip
FIXED = 2 + 4 + 1 + 1 + 0.001 * MEGAPIXELS
"""Seconds that do not depend on the number of workers."""


def total(workers: int, rates: Rates = RATES, **site: float) -> float:
    return simulate(SIDE, SIDE, rates, Site(workers=workers, **site)).total


def test_one_worker_takes_the_time_of_all_chunks() -> None:
    computing = 0.23 * MEGAPIXELS
    assert computing + FIXED <= total(1) <= (computing + FIXED) * 1.02


def test_workers_share_the_cores_of_one_machine() -> None:
    assert total(2, cores=2) == pytest.approx(total(2), rel=0.03)
    assert total(4, cores=2) == pytest.approx(total(2) + 4, rel=0.05)  # four models are loaded by two cores
    assert total(2, replace(RATES, crowded=0.5), cores=2) > 1.8 * (total(2) - FIXED)


def test_more_workers_bring_at_most_their_number_and_the_rows_of_windows_are_the_limit() -> None:
    times = [total(count) - FIXED for count in (1, 2, 4, 8)]
    for before, after in pairwise(times):
        assert before / 2.001 <= after < before
    assert total(64) == pytest.approx(total(32), rel=0.01)  # twelve rows of windows


def test_results_or_the_network_become_the_limit() -> None:
    slow = replace(RATES, results_s=0.1)
    assert total(8, slow) - FIXED >= 0.1 * MEGAPIXELS
    bytes_read = RATES.read_bytes * MEGAPIXELS
    assert total(8, bucket_bytes_s=bytes_read / 100) - FIXED == pytest.approx(100, rel=0.15)
    sent = RATES.message_bytes * MEGAPIXELS
    assert total(4, client_bytes_s=sent / 300) - FIXED >= 290


def test_waiting_for_a_bucket_takes_no_core() -> None:
    waited = total(2, cores=1, request_s=0.05) - total(2, cores=1)
    assert 0 < waited < 0.8 * 0.05 * MEGAPIXELS / 2  # one worker computes while the other waits
