"""A test file in the output folder: a worker that finds it sees the same folders as the client, as on a shared disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from floodmap.errors import writing
from floodmap.output.results import output_folder


@dataclass(frozen=True, slots=True)
class Probe:
    """Folders of the client."""

    file: Path
    """Absolute path of an empty file in the output folder. The file exists as long as workers write results."""
    cwd: str
    """Current folder, to which relative paths refer."""

    def is_here(self) -> bool:
        """Return whether this process has the current folder and the output folder of the client."""
        return os.getcwd() == self.cwd and self.file.exists()


@contextmanager
def probe_in(out: Path) -> Iterator[Probe]:
    """Context manager: yield the probe for an output folder, which is created if it is missing.

    Raises:
        OutputError: the folder cannot be written.
    """
    with output_folder(out):
        with writing(out):
            file = tempfile.NamedTemporaryFile(dir=out, prefix=".floodmap-")  # noqa: SIM115 (closed below)
        with file:
            yield Probe(Path(file.name).absolute(), os.getcwd())
