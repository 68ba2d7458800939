"""Identity of a local file, to detect that the file was changed or replaced."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Identity of a file on one machine. Equal identities mean that the file is the same, and unchanged."""

    host: str
    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path | None) -> FileIdentity | None:
        """Return the identity of a local file; None for any other source."""
        if path is None or not path.is_file():
            return None
        stat = path.stat()
        return cls(socket.gethostname(), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def identities_of(*files: Path | str | None) -> dict[Path, FileIdentity]:
    """Return the identity of each local file, by path. Other names, and None, are left out."""
    paths = [Path(file) for file in files if file is not None]
    return {path: identity for path in paths if (identity := FileIdentity.of(path)) is not None}
