"""Recording of the outlines of a run in a folder, while the run traces them."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap.correction.outlines.cells import CELL, NO_NODES, Labels, Nodes, components_of, unique_pairs
from floodmap.correction.outlines.stored import Rules, joined_bounds, ranges, tolerance_px, write_rules
from floodmap.errors import writing
from floodmap.geo.geogrid import GeoGrid
from floodmap.output.polygons import Strips, outlined
from floodmap.output.simplify import MIN_HOLLOW_AREA, Fates, twice_area_of
from floodmap.output.tracing import Components
from floodmap.strips.codes import FLOOD, PERMANENT, flood_kinds

log = logging.getLogger(__name__)

MAX_VERTICES: Final = 30_000_000
"""Largest number of vertices that are stored, with 9 bytes each. Scenes with more are traced again after a change."""
MAX_NODES: Final = 3_000_000
"""Largest number of nodes (see `cells`) that are stored, with 42 bytes each."""
_CHUNK: Final = 2**21
_COLUMNS: Final = ("kind", "first", "n_pixels", "code_sum", "code_min")


def record(folder: Path, strips: Strips, *, grid: GeoGrid, threshold: int, **settings: Any) -> None:
    """Trace the polygons of a scene, and store their outlines in a folder. For arguments see `polygons.polygonize`.

    Nothing is stored if there are too many outlines; see `Recording`.

    Raises:
        OutputError: a file cannot be written.
    """
    chosen = {key: settings[key] for key in ("min_area_m2", "simplify_m")}
    of_water = (FLOOD, PERMANENT)
    recording = Recording(folder, grid=grid, of_water=of_water, **chosen)
    try:
        outlined(
            strips, kinds=flood_kinds(threshold), of_water=of_water, grid=grid, source=settings["source"],
            keep=recording, **chosen,
        )  # fmt: skip
    finally:
        recording.close()


class Recording:
    """Recorder for `polygons.outlined`: stores the outlines of a scene as `Outlines` in a folder.

    Vertices are written to files while the scene is traced. Nothing is stored if the scene has too many vertices or
    nodes, if its outlines are simplified so much that GEOS is called, or if `finish` is not called.

    Args:
        folder: the folder of the outlines.
        grid: grid of the scene.
        of_water: kinds of which small polygons are dropped.
        min_area_m2: see `polygons.polygonize`.
        simplify_m: see `polygons.polygonize`.
    """

    def __init__(
        self, folder: Path, *, grid: GeoGrid, of_water: tuple[int, ...], min_area_m2: float, simplify_m: float
    ) -> None:
        self._folder, self._grid, self._of_water = folder, grid, of_water
        self._min_area_m2, self._simplify_m = min_area_m2, simplify_m
        self._partial = folder.with_name(f".{folder.name}-{os.getpid()}.part")
        self._files: list[IO[bytes]] = []
        self._tables: list[dict[str, NDArray[Any]]] = []
        self._nodes, self._contacts = [NO_NODES], [np.empty((0, 2), np.int64)]
        self._n_nodes = self._n_vertices = 0
        self._bounds = np.full(4, np.nan)
        self._given_up = ""
        self._kinds: NDArray[np.uint8] = np.empty(0, np.uint8)
        with writing(folder):
            self._partial.mkdir(parents=True, exist_ok=True)
            self._files = [(self._partial / name).open("w+b") for name in ("x.raw", "y.raw")]

    def close(self) -> None:
        """Delete what was not finished."""
        for file in self._files:
            file.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def watched(self, strips: Strips, kinds: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the same strips, and find the nodes of the scene in them; see `polygons.Recorder`."""
        self._kinds = kinds
        buffer, filled, row = np.empty((CELL, self._grid.width), np.uint8), 0, 0
        above: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None
        for top, codes in strips:
            begin = 0
            while begin < len(codes):
                taken = min(CELL - filled, len(codes) - begin)
                buffer[filled : filled + taken] = codes[begin : begin + taken]
                begin, filled, row = begin + taken, filled + taken, row + taken
                if filled == CELL or row == self._grid.height:
                    above, filled = self._label(buffer[:filled], row - filled, above), 0
            yield top, codes

    def _label(
        self, codes: NDArray[np.uint8], row: int, above: tuple[NDArray[np.uint8], NDArray[np.int64]] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
        if self._n_nodes > MAX_NODES:
            self._give_up("nodes")
            return None
        labels = Labels(codes, self._kinds, row, 0, self._grid.width + 1)
        self._nodes.append(labels.nodes)
        self._contacts.append(labels.contacts + self._n_nodes)
        if above is not None:
            kinds, nodes = labels.row(0)
            same = (kinds == above[0]) & (kinds != 0)
            self._contacts.append(unique_pairs(above[1][same], nodes[same] + self._n_nodes))
        kinds, nodes = labels.row(len(codes) - 1)
        below = kinds, nodes + self._n_nodes
        self._n_nodes += len(labels.nodes)
        return below

    def _give_up(self, why: str) -> None:
        self._given_up = why
        self._nodes, self._contacts, self._tables = [], [], []

    def add(self, components: Components, kept: NDArray[np.bool_]) -> None:
        """Store the raw outlines of some components; see `polygons.Recorder`."""
        if self._given_up or not len(components.outline):
            return
        _, closed, (ring_ends, polygon_ends) = shapely.to_ragged_array(components.outline, include_z=False)
        is_vertex = np.ones(len(closed), bool)
        is_vertex[ring_ends[1:] - 1] = False
        with writing(self._folder):
            for file, values in zip(self._files, closed.T, strict=True):
                file.write(values[is_vertex].astype(np.int32).tobytes())
        self._n_vertices += int(is_vertex.sum())
        self._bounds = joined_bounds(self._bounds, _bounds(components.outline[kept]))
        table = {name: getattr(components, name) for name in _COLUMNS}
        self._tables.append(
            table | {"kept": kept, "rings": np.diff(polygon_ends), "sizes": np.diff(ring_ends) - 1}
        )  # fmt: skip
        if self._n_vertices > MAX_VERTICES:
            self._give_up("vertices")

    def finish(
        self, outlines: NDArray[np.object_], area_m2: NDArray[np.float64], perimeter_m: NDArray[np.float64],
        fates: list[Fates],
    ) -> None:  # fmt: skip
        """Write the folder; see `polygons.Recorder`."""
        try:
            rules = self._rules(outlines)
            if self._given_up or rules is None:
                log.info("outlines are not stored: too many %s", self._given_up or "corners are removed")
                return
            with writing(self._folder):
                self._write(rules, area_m2, perimeter_m, fates[0] if fates else None)
                self._partial.rename(self._folder)
        finally:
            self.close()

    def _rules(self, outlines: NDArray[np.object_]) -> Rules | None:
        tolerance = tolerance_px(self._simplify_m, self._bounds, self._grid)
        bounds = np.nan_to_num(_bounds(outlines))
        if tolerance**2 >= MIN_HOLLOW_AREA:
            return None
        return Rules(
            shape_hw=self._grid.shape_hw, kinds=tuple(self._kinds.tolist()), of_water=self._of_water,
            min_area_m2=self._min_area_m2, simplify_m=self._simplify_m, twice_area=twice_area_of(tolerance),
            centre_xy=(float(bounds[0] + bounds[2]) / 2, float(bounds[1] + bounds[3]) / 2),
        )  # fmt: skip

    def _write(
        self, rules: Rules, area_m2: NDArray[np.float64], perimeter_m: NDArray[np.float64], fates: Fates | None
    ) -> None:
        names = (*_COLUMNS, "kept", "rings", "sizes")
        table = {name: np.concatenate([part[name] for part in self._tables] or [_EMPTY]) for name in names}
        table["kind"] = table["kind"].astype(np.uint8)
        order = np.argsort(table["first"])
        begins = np.append(0, np.cumsum(table["rings"]))
        ring_order = ranges(begins[:-1][order], table["rings"][order])
        ring_begins = np.append(0, np.cumsum(table["sizes"]))[:-1][ring_order]
        sizes, owner = table["sizes"][ring_order], np.repeat(np.arange(len(order)), table["rings"][order])
        kept = table["kept"][order].astype(bool)
        n_vertices = int(sizes.sum())
        for file, name in zip(self._files, ("x", "y"), strict=True):
            file.flush()
            unsorted = np.memmap(file, np.int32, "r", shape=n_vertices) if n_vertices else np.empty(0, np.int32)
            self._sort(name, unsorted, ring_begins, sizes)
            del unsorted
            file.close()
            Path(file.name).unlink()
        nodes = Nodes.joined(self._nodes)
        by_first = np.argsort(nodes.first)
        number = np.empty(len(by_first), np.int64)
        number[by_first] = np.arange(len(by_first))
        nodes, contacts = nodes.subset(by_first), number[np.concatenate(self._contacts)]
        vertex_kept = np.repeat(kept[owner], sizes)
        all_fates = np.zeros(n_vertices, np.uint8)
        if fates is not None:
            all_fates[vertex_kept] = fates
        measures = np.full((2, len(order)), np.nan)
        measures[:, kept] = area_m2, perimeter_m
        arrays = {
            "fates": all_fates, "ring_ends": np.cumsum(sizes), "ring_owner": owner.astype(np.int32),
            **{name: table[name][order] for name in _COLUMNS}, "kept": kept,
            "area_m2": measures[0], "perimeter_m": measures[1],
            "node_first": nodes.first, "node_kind": nodes.kind, "node_pixels": nodes.n_pixels,
            "node_sum": nodes.code_sum, "node_min": nodes.code_min, "contacts": contacts,
            "node_owner": components_of(nodes, contacts)[0],
        }  # fmt: skip
        for name, values in arrays.items():
            np.save(self._partial / f"{name}.npy", values)
        write_rules(self._partial, rules)

    def _sort(
        self, name: str, unsorted: NDArray[np.int32], begins: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> None:
        """Write vertices ring by ring: ring i is `unsorted[begins[i] : begins[i] + sizes[i]]`."""
        n_vertices = int(sizes.sum())
        if not n_vertices:
            np.save(self._partial / f"{name}.npy", unsorted)
            return
        placed = np.lib.format.open_memmap(self._partial / f"{name}.npy", "w+", np.int32, (n_vertices,))
        ends = np.cumsum(sizes)
        cuts = np.unique(np.append(np.searchsorted(ends, np.arange(_CHUNK, n_vertices, _CHUNK)), [0, len(sizes)]))
        for low, high in pairwise(cuts.tolist()):
            part = unsorted[ranges(begins[low:high], sizes[low:high])]
            placed[ends[high - 1] - len(part) : ends[high - 1]] = part
        placed.flush()


_EMPTY = np.empty(0, np.int64)


def _bounds(outlines: NDArray[np.object_]) -> NDArray[np.float64]:
    return np.asarray(shapely.total_bounds(outlines)) if len(outlines) else np.full(4, np.nan)
