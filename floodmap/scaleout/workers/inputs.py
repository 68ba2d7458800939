"""State of the files of a run on the client's machine, and the check that a worker reads the same files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from floodmap._runtime.identity import FileIdentity
from floodmap.errors import SceneError
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions
from floodmap.scaleout.workers.facts import place
from floodmap.scaleout.workers.reading import reading_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """State of a scene and of the files in its options on the client's machine."""

    fingerprint: str | None
    """Fingerprint of the scene; None if it has none."""
    identity: FileIdentity | None
    """Identity of the scene's file; None if the scene consists of several files, or of none on this machine."""
    files: Mapping[str, str | None]
    """Fingerprints of the files in the options, by name of the option; None for a file without a fingerprint."""
    reading: Mapping[str, str]
    """How the client reads the scene; see `reading.reading_of`."""

    @classmethod
    def of(cls, scene: Scene, files: Mapping[str, str | None]) -> Inputs:
        """Record the state of an open scene.

        Args:
            scene: the scene.
            files: fingerprints of the files in the options, from the description of the run.

        Raises:
            SceneError: a file has changed since the scene was opened.
        """
        fingerprint = scene.fingerprint
        reading = reading_of(scene, with_pixels=fingerprint is None)
        for path, identity in scene.identities.items():
            if FileIdentity.of(path) != identity:
                raise SceneError(f"{path} changed while it was read; start again when it is complete")
        is_one_file = {file.opened for file in scene.source.anatomy.files} <= {scene.path.opened}
        own = scene.identities.get(scene.path.path) if is_one_file and scene.path.path else None
        wanted = {name: files.get(name) for name in ("mask", "aoi") if getattr(scene.options, name) is not None}
        return cls(fingerprint=fingerprint, identity=own, files=wanted, reading=reading)

    def refuse_other(self, scene: Scene, options: SceneOptions) -> None:
        """Check that this process reads a scene as the client does. `options` are those of the scene.

        Hashing a large file takes seconds. A scene of one file whose identity is that of the client's file is not
        hashed again. Masks and areas of interest are small, and are always hashed.

        Raises:
            SceneError: the scene, or a file in the options, has another content, or is read in another way.
        """
        if self.identity is None or FileIdentity.of(scene.path.path) != self.identity:
            _refuse_other_file(scene.path, scene.fingerprint, self.fingerprint)
        for option, expected in self.files.items():
            file: Path | str = getattr(options, option)
            _refuse_other_file(file, of_input(file), expected)
        own = reading_of(scene, with_pixels="pixels" in self.reading)
        differing = [name for name, expected in self.reading.items() if own[name] != expected]
        if differing:
            raise SceneError(
                f"{scene.path} on worker {place()}: {', '.join(differing)} differ from this machine; install the same "
                "versions and the same PROJ data there, or copy the file again"
            )


def _refuse_other_file(file: object, found: str | None, expected: str | None) -> None:
    if found == expected:
        return
    if found is None:
        raise SceneError(
            f"{file} cannot be compared with the file that this machine reads, on worker {place()}; a remote file "
            "needs floodmap[remote] on the workers"
        )
    raise SceneError(f"{file} on worker {place()} is another file than on this machine; copy it again")


def absolute(options: SceneOptions) -> SceneOptions:
    """Return the options for reading a scene with absolute local paths, because a worker may run in another folder."""
    return replace(options, mask=_absolute_path(options.mask), aoi=_absolute_path(options.aoi))


def _absolute_path(file: Path | str | None) -> Path | str | None:
    return Path(file).absolute() if file is not None and os.path.exists(file) else file
