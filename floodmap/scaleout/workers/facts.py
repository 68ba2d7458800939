"""Properties of workers that must be equal, so that the result does not depend on which worker computes what."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from floodmap._runtime.versions import code_digest, version_in_use
from floodmap.errors import PoolError
from floodmap.models.training_record import TrainingRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Properties of a worker and of the model that it loaded."""

    place: str
    """Host and process id of the worker."""
    versions: Mapping[str, str]
    """Versions of packages, by name; see `versions`."""
    device: str
    """Kind of the device; see `hardware.device_kind`."""
    name: str
    """Name of the model. This field and the following fields are those of `models.protocol.Segmenter`."""
    sha256: str
    knows_floods: bool
    multiple: int
    any_size: bool
    best_batch_size: int
    """Batch size with the highest throughput if the model had all cores of the worker's machine."""
    offloads: bool
    runs_on: str
    training: TrainingRecord | None
    remarks: tuple[str, ...] = ()
    """Lines that were logged while the model was loaded."""

    @property
    def kind(self) -> dict[str, str]:
        """Properties that must be equal on all workers, by name."""
        return {**self.versions, "device": self.device, "precision": self.runs_on, "weights": self.sha256}


def versions() -> dict[str, str]:
    """Return the versions of the packages on which results depend, in this process.

    Local parts of versions, such as `+cpu`, are left out: the client may have another build of torch than the workers.
    """
    import rasterio

    found = {name: version_in_use(name) for name in ("floodmap", "torch", "numpy", "rasterio")}
    libraries = {"GDAL": rasterio.__gdal_version__, "PROJ": rasterio.__proj_version__}
    return {**found, "code of floodmap": code_digest(), **libraries}


def place() -> str:
    """Return host and process id of this process, as one text."""
    return f"{socket.gethostname()}:{os.getpid()}"


def kinds_of(workers: Sequence[Facts]) -> list[dict[str, str]]:
    """Return the different kinds of some workers (`Facts.kind`), in an order that does not depend on the workers."""
    found = {tuple(sorted(worker.kind.items())) for worker in workers}
    return [dict(kind) for kind in sorted(found)]


def refuse_mixture(workers: Sequence[Facts]) -> None:
    """Check that all workers have the versions of this process, and the same device, precision and weights.

    Raises:
        PoolError: a worker differs.
    """
    expected = {**workers[0].kind, **versions()}
    for worker in workers:
        refuse_other_kind(worker, expected)


def refuse_other_kind(worker: Facts, expected: Mapping[str, str]) -> None:
    """Check that a worker has the expected properties (`Facts.kind`).

    Raises:
        PoolError: the worker differs.
    """
    differing = [
        f"{name} {value}, not {expected[name]}" for name, value in worker.kind.items() if value != expected[name]
    ]
    if differing:
        raise PoolError(
            f"worker {worker.place} has {'; '.join(differing)}: results would depend on which worker computes what; "
            "make the workers alike, or allow it with --allow-mixed"
        )
