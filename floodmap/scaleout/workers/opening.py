"""Opening of worker processes from the options of the command line and of `floodmap.segment`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from floodmap.errors import PoolError
from floodmap.models.registry import ResolvedModel
from floodmap.output.helpers import module_command, own_group
from floodmap.scaleout.workers.local import LocalPool
from floodmap.scaleout.workers.model import ModelFile
from floodmap.scaleout.workers.pool import Pool
from floodmap.scaleout.workers.run import Workers

if TYPE_CHECKING:
    from distributed import Client


def needs_workers(workers: int | None, scheduler: str | Client | None, device: str) -> bool:
    """Return True if a run with these options computes its windows in worker processes."""
    return workers is not None or scheduler is not None or "," in device


@contextmanager
def open_workers(
    model: ResolvedModel,
    *,
    workers: int | None = None,
    scheduler: str | Client | None = None,
    device: str = "auto",
    flips: bool = False,
    allow_mixed: bool = False,
) -> Iterator[Workers]:
    """Context manager: start worker processes, or connect to a Dask cluster, and load a model in every worker.

    At the end of the context, the processes are killed, or the cluster is disconnected.

    Args:
        model: the model, with a file on this machine.
        workers: number of worker processes on this machine; None: one for each device of `device`.
        scheduler: address of a Dask scheduler, or a client that is connected to it; None: worker processes on this
            machine.
        device: torch device of every worker, or devices separated by commas, one for each worker process.
        flips: True: test-time augmentation; see `models.mirrored`.
        allow_mixed: True: workers may differ in versions, device or precision.

    Raises:
        PoolError: the options exclude each other, there is no worker, or the workers differ.
        MissingPackageError: `scheduler` is given, and the package distributed is not installed.
        ModelError: a worker cannot load the model.
    """
    devices = device.split(",")
    with _open_pool(devices, workers, scheduler) as pool:
        batch_size = None if pool.same_machine else lambda: _batch_size(model)
        yield Workers(pool, ModelFile.of(model, flips=flips), batch_size=batch_size, allow_mixed=allow_mixed)


def _open_pool(devices: list[str], workers: int | None, scheduler: str | Client | None) -> Pool:
    if scheduler is not None:
        if workers is not None or len(devices) > 1:
            raise PoolError("--scheduler excludes --workers and several devices; the cluster decides on both")
        from floodmap.scaleout.workers.cluster import DaskPool

        return DaskPool(scheduler, devices[0])
    if workers is not None and (workers < 1 or len(devices) not in (1, workers)):
        wrong = f"{workers} workers" if workers < 1 else f"{workers} workers and {len(devices)} devices"
        raise PoolError(f"{wrong}: give at least one worker, and one device or as many devices as workers")
    return LocalPool(devices * (workers or 1) if len(devices) == 1 else devices)


def _batch_size(model: ResolvedModel) -> int:
    """Return the batch size that a run on this machine would have without workers.

    With this batch size, the results are equal to those of such a run. The number depends on torch. Torch is imported
    in another process, which ends at once, because this process has no other use for torch.
    """
    command, environment = module_command("floodmap.models.hardware", str(model.path))
    if "distributed" in sys.modules:
        from floodmap.scaleout.workers.cluster import variables_of_nannies

        for name in variables_of_nannies():
            environment.pop(name, None)
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, **own_group()).stdout)
