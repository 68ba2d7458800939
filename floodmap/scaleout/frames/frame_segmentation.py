"""Segmentation of one frame: the frame's own stretch and coarse pass, with a result file that a later run can reuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from floodmap._runtime.memory import freed_memory_kept
from floodmap.description import describe
from floodmap.errors import RemoteError, SceneError
from floodmap.geo.source_name import SourceName
from floodmap.imagery.scene import Scene
from floodmap.inference.loop import Progress, run_windows
from floodmap.inference.tiling import Grid
from floodmap.models.infrared import with_infrared
from floodmap.models.protocol import Segmenter
from floodmap.options import SegmentOptions
from floodmap.scaleout.frames.frame_codes import FrameCodes
from floodmap.scaleout.frames.listing import Frame
from floodmap.strips.journal import Journal

SUFFIX = ".codes"
_THREADS = 4
"""Number of threads that decompress a frame if the model runs on another device than the CPU."""


@dataclass(frozen=True, slots=True)
class FrameRun:
    """A frame that is open, with the model that fits its bands, and the description of its segmentation."""

    scene: Scene
    segmenter: Segmenter
    options: SegmentOptions
    settings: Mapping[str, Any]
    """Everything on which the codes of the frame depend, of JSON types; see `pipeline.describe`."""

    @property
    def is_verifiable(self) -> bool:
        """Whether a change of the frame, or of a file in the options, is detected: all of them have a fingerprint."""
        return self.scene.fingerprint is not None and None not in self.settings["settings"]["fingerprints"].values()

    @property
    def key(self) -> str:
        """Digest of `settings`, with which the names of the frame's files begin.

        Two frames with equal settings have equal codes, unless they have no fingerprint. The digest then depends on the
        whole name of the frame, too.
        """
        about = self.settings if self.is_verifiable else {**self.settings, "given": self.scene.path.given}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]

    def is_begun(self, folder: Path) -> bool:
        """Return whether an earlier run has begun the frame with the same settings: codes or strips are in a folder."""
        return (folder / f"{self.key}{SUFFIX}").exists() or (folder / self.key).exists()

    def stored(self, folder: Path) -> FrameCodes | None:
        """Return the codes that an earlier run has computed with the same settings; None if there are none.

        A frame without a fingerprint is always computed again: changes of its file cannot be detected.
        """
        return FrameCodes.open(folder / f"{self.key}{SUFFIX}") if self.is_verifiable else None

    def compute(self, folder: Path, progress: Callable[[Progress], None]) -> FrameCodes:
        """Segment the frame, and write its codes to a file in a folder.

        If a run is interrupted, the finished strips of the frame stay in the folder, and the next call goes on.

        Raises:
            SceneError: the frame cannot be read, or its file on a server has changed since the frame was opened.
            ModelError: the model failed on every window of the frame.
            OutputError: a file cannot be written.
        """
        scene, options, segmenter = self.scene, self.options, self.segmenter
        grid = Grid(
            height=scene.height, width=scene.width, tile_size=options.tile_size, overlap=options.overlap,
            multiple=segmenter.multiple,
        )  # fmt: skip
        with Journal(folder / self.key, self.settings, resume=self.is_verifiable, discard=True) as journal:
            with freed_memory_kept(large_apart=segmenter.any_size):
                run_windows(
                    scene, grid, segmenter, journal, progress, prompts=options.prompts, batch_size=options.batch_size,
                    exhaustive=options.exhaustive,
                )  # fmt: skip
            try:
                scene.refuse_changed()
            except RemoteError as error:
                raise _changed(scene.path) from error
            about = {
                "settings": self.settings, "notes": journal.notes(), "remarks": scene.remarks,
                "unsuited": scene.unsuited,
            }  # fmt: skip
            path = folder / f"{self.key}{SUFFIX}"
            codes = FrameCodes.write(path, scene.grid.shape_hw, journal.strips(), about)
            journal.remove()
        return codes


@contextmanager
def open_frame(frame: Frame, segmenter: Segmenter, options: SegmentOptions) -> Iterator[FrameRun]:
    """Context manager: open a frame for segmentation.

    Args:
        frame: the frame.
        segmenter: the loaded model.
        options: settings of the run. Settings without an effect on the codes (threshold, outlines, formats,
            permanent water) are left out of the description, so that a run with another threshold can reuse the codes.

    Raises:
        SceneError: the frame cannot be read, or its place or size has changed since its header was read.
    """
    given = frame.files.as_given(frame.options)
    own = replace(
        options, scene=given, threshold=0.5, min_area_m2=0.0, simplify_m=0.0, overwrite=False, resume=False,
        permanent_water=None, permanent_least=None, permanent_rim_m=None,
    )  # fmt: skip
    with Scene.open(frame.source, frame.options, threads=_THREADS if segmenter.offloads else 1) as scene:
        if scene.grid != frame.grid:
            raise _changed(frame.source)
        fitting = with_infrared(segmenter, scene)
        yield FrameRun(scene, fitting, own, describe(scene, fitting, own, frame.files.fingerprints))


def _changed(source: SourceName) -> SceneError:
    return SceneError(f"{source} has changed since the run began; run again with --resume")
