"""Mask and area of interest of a product: files that are the same for all frames, and are downloaded once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from floodmap.geo.downloads import local_copy
from floodmap.geo.source_name import shown_name
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.options import SceneOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayFiles:
    """Mask and area of interest of all frames."""

    given: SceneOptions
    """Options for reading frames, with the names of the files as the user gave them."""
    local: SceneOptions
    """The same options, with a local copy in place of each remote file."""
    fingerprints: Mapping[str, str | None]
    """Fingerprint of each file by name of the option, `mask` or `aoi`; None: a change of the file is not detected.

    Of a remote file it is that of the local copy, so that frames are never described with another content than that
    with which they were read."""

    @classmethod
    def open(cls, options: SceneOptions, stack: ExitStack) -> OverlayFiles:
        """Download the remote files among mask and area of interest.

        Args:
            options: options for reading frames.
            stack: exit stack that deletes the copies.

        Raises:
            RemoteError: a file cannot be downloaded.
        """
        given = {"mask": options.mask, "aoi": options.aoi}
        local = {key: local_copy(file, stack) for key, file in given.items() if file is not None}
        read = replace(options, mask=local.get("mask"), aoi=local.get("aoi"))
        return cls(given=options, local=read, fingerprints={key: of_input(file) for key, file in local.items()})

    @property
    def unverified(self) -> list[str]:
        """Names, for messages, of the files without a fingerprint."""
        given = {"mask": self.given.mask, "aoi": self.given.aoi}
        return [shown_name(given[key]) for key, found in self.fingerprints.items() if found is None]

    def as_given(self, local: SceneOptions) -> SceneOptions:
        """Return options of a frame with the names of the files as the user gave them.

        Args:
            local: the options `local`, or a variant of it; the mask may be left out.
        """
        return replace(local, mask=None if local.mask is None else self.given.mask, aoi=self.given.aoi)
