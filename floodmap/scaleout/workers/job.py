"""Messages between the client and the workers: the job of a run, chunks of rows of windows, and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from floodmap.geo.source_name import SourceName
from floodmap.inference.coarse_map import CoarsePart, MapPart
from floodmap.inference.mosaic import Sums, can_begin_at
from floodmap.inference.observed import Observed
from floodmap.inference.prediction import Outcome
from floodmap.inference.tiling import Grid
from floodmap.models.infrared import Infrared
from floodmap.models.prompts import Prompts
from floodmap.options import SceneOptions
from floodmap.scaleout.workers.inputs import Inputs
from floodmap.scaleout.workers.model import ModelSource
from floodmap.strips.journal import Entry
from floodmap.strips.strip import Strip

CHUNK_PIXELS = 2**26
"""Largest number of scene pixels in a chunk, unless one row of windows has more. The client keeps the results of a few
chunks in memory, each about a fifth of a byte a pixel."""
CHUNKS_PER_WORKER = 4
"""Least number of chunks that each worker gets, if the scene has enough rows of windows. With fewer chunks, workers
would wait longer for the last chunk."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """All that workers need for the windows of one scene, besides the scene itself. A few kB."""

    key: str
    """Text that is different for each run."""
    source: SourceName
    """Name of the scene. A local path is absolute."""
    options: SceneOptions
    """Options for reading the scene. Local paths are absolute."""
    inputs: Inputs
    """State of the scene and of the files in the options, on the client's machine."""
    model: ModelSource
    """Description of the model."""
    infrared: Infrared | None
    """Parameters of the evidence for water from near infrared; None: near infrared is not used."""
    grid: Grid
    """Windows of the scene."""
    batch_size: int
    """Size of a batch in whole windows; see `loop.batches`."""
    exhaustive: bool
    """True: every window is predicted as a whole."""
    given: Prompts | None
    """Points and boxes of the user, in pixels of the scene; None: the user gave none."""
    expected: Mapping[str, str] | None
    """Properties of all workers (`Facts.kind`); None: workers may differ."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of windows that one worker computes in one call."""

    first: int
    """Index of the first row of windows."""
    end: int
    """Index after the last row of windows."""

    @property
    def rows(self) -> range:
        """Indices of the rows of windows."""
        return range(self.first, self.end)


def cut(grid: Grid, first: int, length: int) -> list[Chunk]:
    """Divide the rows of windows of a scene into chunks.

    Args:
        grid: windows of the scene.
        first: index of the first row of windows that is computed.
        length: number of rows of windows in a chunk; more where a mosaic cannot begin (see `can_begin_at`).
    """
    rows = len(grid.row_offsets)
    begins = [first]
    for row in range(first + 1, rows):
        if row - begins[-1] >= length and can_begin_at(grid, row):
            begins.append(row)
    return [Chunk(begin, end) for begin, end in zip(begins, [*begins[1:], rows], strict=True)]


def chunk_length(grid: Grid, rows: int, workers: int) -> int:
    """Return the number of rows of windows in a chunk.

    Args:
        grid: windows of the scene.
        rows: number of rows of windows that are computed.
        workers: number of chunks that are computed at the same time.
    """
    fitting = CHUNK_PIXELS // (grid.shape_hw[0] * grid.width)
    return max(1, min(fitting, rows // (CHUNKS_PER_WORKER * workers)))


@dataclass(frozen=True, slots=True)
class CoarseGuide:
    """Result of the coarse pass for the windows of a chunk."""

    coarse: CoarsePart
    """Rows of the coarse map."""
    observed: Observed
    """Rows of the record of observed squares that belong to the windows of the chunk."""


@dataclass(frozen=True, slots=True)
class LikelihoodGuide:
    """Unsupervised likelihood for the windows of a chunk."""

    likely: MapPart
    """Rows of the likelihood."""


Guide = CoarseGuide | LikelihoodGuide | None
"""What the prompts of the windows of a chunk are built from, besides points and boxes of the user."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """Result of a chunk."""

    entries: list[Entry]
    """Strip and notes of each row of windows. In the first strip, the rows of `top` have wrong codes."""
    outcomes: list[Outcome]
    """Outcome of each window, row by row."""
    top: Sums
    """Weighted sums of the probabilities in the scene rows that the chunk shares with the chunk above. The client
    adds the sums of both chunks to get the codes."""
    bottom: Sums
    """The same for the scene rows that the chunk shares with the chunk below."""


@dataclass(frozen=True, slots=True)
class CoarseResult:
    """Result of a chunk of the coarse pass."""

    strips: list[Strip]
    """Strip of each row of windows of the shrunk scene. In the first strip, the rows of `top` have wrong codes."""
    observed: Observed
    """Record of the pixels that the windows of the chunk observed."""
    top: Sums
    """Sums of the rows that the chunk shares with the chunk above."""
    bottom: Sums
    """Sums of the rows that the chunk shares with the chunk below."""
