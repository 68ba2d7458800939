"""The loop over the frames of a product: every frame is segmented by itself, and a frame that fails is left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floodmap._runtime.memory import trim_heap
from floodmap.errors import ModelError, SceneError
from floodmap.imagery.scene import Scene
from floodmap.inference.loop import Progress
from floodmap.inference.strangeness import PLACES, SIDE, ood_warnings_of
from floodmap.models.protocol import Segmenter
from floodmap.options import SegmentOptions
from floodmap.scaleout.frames.frame_codes import FrameCodes
from floodmap.scaleout.frames.frame_segmentation import open_frame
from floodmap.scaleout.frames.listing import Frame, failure_text

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicProgress:
    """Progress of a product of many frames."""

    frames_done: int
    """Number of finished frames, including frames of an interrupted run that is resumed."""
    frames_total: int
    """Number of frames to segment."""
    share: float
    """Finished share of the stage, 0 to 1."""
    stage: str
    """"segment" while frames are segmented, "blend" while they are blended, "write" while results are written."""


Report = Callable[[MosaicProgress], None]


@dataclass(frozen=True, slots=True)
class FrameResult:
    """Result of the segmentation of one frame."""

    frame: Frame
    codes: FrameCodes | None
    """Codes of the frame on disk; None if the frame failed."""
    why: str = ""
    """Error message if the frame failed; else empty."""


def segment_frames(
    frames: Sequence[Frame], segmenter: Segmenter, options: SegmentOptions, folder: Path, report: Report
) -> list[FrameResult]:
    """Segment the frames whose codes are not in the work folder yet.

    Args:
        frames: the frames.
        segmenter: the loaded model.
        options: settings of the run.
        folder: folder for the codes of the frames.
        report: function that receives the progress after every window.

    Returns:
        One result for each frame, in the order of `frames`.

    Raises:
        ModelError: the model failed before any frame was finished, so that the model is likely to be the cause.
        SceneError: every frame failed.
        RemoteError: a server cannot be reached.
        OutputError: a file cannot be written.
    """
    results: list[FrameResult] = []
    for frame in frames:
        try:
            with open_frame(frame, segmenter, options) as run:
                codes = run.stored(folder) or run.compute(folder, _within(report, len(results), len(frames)))
            results.append(FrameResult(frame, codes))
        except Exception as error:
            is_known = isinstance(error, ModelError) and any(result.codes for result in results)
            why = str(error) if is_known else failure_text(frame.source, error)
            log.error("%s", why)
            results.append(FrameResult(frame, None, why))
        trim_heap()
        report(_progress(len(results), len(frames)))
    if not any(result.codes for result in results):
        raise SceneError(f"no frame could be segmented; the first error: {results[0].why}")
    return results


def any_begun(frames: Sequence[Frame], segmenter: Segmenter, options: SegmentOptions, folder: Path) -> bool:
    """Return whether an earlier run has begun at least one of the frames with the same settings.

    Other frames in the folder may belong to the map of other frames. Frames are opened until one is found.

    Args:
        frames: the frames.
        segmenter: the loaded model.
        options: settings of the run.
        folder: folder for the codes of the frames; it may be missing.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    for frame in frames:
        with suppress(Exception), open_frame(frame, segmenter, options) as run:
            if run.is_begun(folder):
                return True
    return False


def described_frames(
    frames: Sequence[Frame], segmenter: Segmenter, options: SegmentOptions
) -> list[tuple[Frame, dict[str, Any] | str]]:
    """Return each frame with the description of its segmentation, or with the error message if it cannot be opened.

    Nothing is segmented. The descriptions are compared with those of an earlier run.

    Raises:
        SceneError: no frame can be opened.
        RemoteError: a server cannot be reached.
    """
    described: list[tuple[Frame, dict[str, Any] | str]] = []
    for frame in frames:
        try:
            with open_frame(frame, segmenter, options) as run:
                described.append((frame, dict(run.settings)))
        except Exception as error:
            described.append((frame, failure_text(frame.source, error)))
    if all(isinstance(about, str) for _, about in described):
        raise SceneError(f"no frame can be opened; the first error: {described[0][1]}")
    return described


def unverified_frames(described: Sequence[tuple[Frame, Mapping[str, Any] | str]]) -> list[str]:
    """Return the names, for messages, of the frames without a fingerprint: changes of their files are not detected.

    Args:
        described: each frame with the description of its segmentation, or with an error message; see
            `described_frames`.
    """
    return [
        str(frame.source) for frame, about in described
        if not isinstance(about, str) and about["source"]["fingerprint"] is None
    ]  # fmt: skip


def frames_ood_warnings(frames: Sequence[Frame], name: str, segmenter: Segmenter) -> tuple[str, ...]:
    """Return a tuple: empty, or with one warning if the colours and textures of the frames are out of distribution.

    One test window is read from each of at most 16 frames, evenly chosen; see `strangeness.ood_warnings`. A frame that
    cannot be opened any more is left out: its codes are complete.
    """
    count = min(len(frames), PLACES**2)
    tiles = []
    for number in range(count):
        frame = frames[number * len(frames) // count]
        try:
            with Scene.open(frame.source, frame.options) as scene:
                tiles += scene.samples(1, SIDE)
        except Exception as error:
            log.warning("%s is left out of the check of colours and textures: %s", frame.source, error)
    return ood_warnings_of(tiles, name, segmenter)


def _within(report: Report, done: int, total: int) -> Callable[[Progress], None]:
    """Return a function that reports the progress in one frame as progress in all frames."""
    return lambda one: report(_progress(done, total, one.windows_done / one.windows_total))


def _progress(done: int, total: int, share: float = 0.0) -> MosaicProgress:
    return MosaicProgress(frames_done=done, frames_total=total, share=(done + share) / total, stage="segment")
