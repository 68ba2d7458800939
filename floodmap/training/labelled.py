"""Preparation of labelled pictures for training: cutting into samples, grouping, and a search for swapped masks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from floodmap.imagery.raster.fingerprint import of_input
from floodmap.imagery.scene import Scene
from floodmap.inference.tiling import Grid
from floodmap.masks.audit import PREVIEW_SIDE, Finding
from floodmap.masks.labels import Labelled, read_label
from floodmap.masks.rules import FloodRule
from floodmap.masks.swaps import SIDE, shrunk, swapped_masks
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.options import Augment
from floodmap.strips.codes import DRY, FLOOD, THRESHOLD, UNOBSERVED
from floodmap.training.samples import IGNORED, Sample, Source

SAMPLE_SIDE = 1536
"""Approximate side in pixels of the pieces into which scenes are cut."""


def pieces(one: Labelled, rule: FloodRule) -> Iterator[Sample]:
    """Cut a labelled picture or scene into samples with sides of about `SAMPLE_SIDE` pixels.

    Pixels that are unobserved or have no label are `IGNORED` in the masks of the samples. Pieces without a labelled
    pixel are left out.

    Args:
        one: paths of the picture and of the mask or polygons.
        rule: values of the mask that mean flood, and values that are ignored.
    """
    with Scene.open(one.image) as scene:
        reference, _ = read_label(one, scene, rule)
        grid = Grid(height=scene.height, width=scene.width, tile_size=SAMPLE_SIDE, overlap=0, multiple=1)
        for number, window in enumerate(grid):
            tile = scene.read(window)
            part = reference[window.row_off : window.row_end, window.col_off : window.col_end]
            mask = np.where((part == UNOBSERVED) | ~tile.valid, np.uint8(IGNORED), part)
            if (mask != IGNORED).any():
                name = one.name if len(grid) == 1 else f"{one.name}-{number}"
                valid = None if tile.valid.all() else tile.valid
                yield Sample(name, tile.rgb, mask, gsd_m=tile.gsd_m, picture=one.name, valid=valid)


def sources(labelled: Sequence[Labelled], samples: Sequence[Sample], augment: Augment = "full") -> list[Source]:
    """Group samples into at most two sources of training views: `scenes` and `photographs`.

    Pictures with a CRS are scenes, seen from above. Pictures without a CRS are photographs, seen obliquely.

    Args:
        labelled: paths of the pictures and of the masks.
        samples: the samples into which `pieces` cut these pictures.
        augment: allowed augmentation; see `FineTuneOptions`.

    Returns:
        The sources that have samples. The field `share` of a source is the share of the training views that are drawn
        from the source. It is set to the number of the source's samples, divided by the number of all samples.
    """
    placed = set()
    for one in labelled:
        with Scene.open(one.image) as scene:
            if scene.crs is not None:
                placed.add(one.name)
    found = []
    for from_above in (True, False):
        own = [sample for sample in samples if (sample.picture in placed) == from_above]
        if own:
            name = "scenes" if from_above else "photographs"
            found.append(
                Source(
                    name=name,
                    samples=own,
                    share=len(own) / len(samples),
                    from_above=from_above,
                    augment=augment,
                    plain=0.3,
                )
            )
    return found


def fingerprint_of(labelled: Sequence[Labelled]) -> str:
    """Return the SHA-256 of the names and bytes of all pictures and masks, in lower-case hexadecimal.

    Files that belong to a picture or mask are included, such as the attributes of a Shapefile. The folder of the
    pictures has no effect on the result.
    """
    digest = hashlib.sha256()
    for one in labelled:
        for path in filter(None, (one.image, one.label)):
            found = of_input(path)
            if found is None and path.is_file():  # a raster of which not all parts can be read
                found = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{one.name} {found}".encode())
    return digest.hexdigest()


def find_swapped_masks(model: Segmenter, labelled: Sequence[Labelled], rule: FloodRule) -> list[Finding]:
    """Find masks that were swapped between pictures: masks that fit the predicted flood of another picture.

    The model predicts flood without prompts on previews of the pictures. The longer side of a preview has at most
    `audit.PREVIEW_SIDE` pixels.

    Args:
        model: model that was trained on floods. With other models, the result is empty.
        labelled: paths of pictures and masks in which the checks of `masks.audit` found no fatal problem.
        rule: values of the masks that mean flood, and values that are ignored.

    Returns:
        One finding for each pair of pictures with swapped masks, with the names of both pictures.
    """
    if not model.knows_floods:
        return []
    predicted, masks, shapes_hw = [], [], []
    for one in labelled:
        with Scene.open(one.image) as scene:
            preview = scene.preview(PREVIEW_SIDE)
            shapes_hw.append((scene.height, scene.width))
            masks.append(shrunk(read_label(one, scene, rule)[0], (SIDE, SIDE)))
        found = model.predict([preview], [Prompts.none()])[0] >= THRESHOLD / 100
        predicted.append(shrunk(np.where(found & preview.valid, FLOOD, DRY).astype(np.uint8), (SIDE, SIDE)))
    return list(swapped_masks([one.name for one in labelled], predicted, masks, shapes_hw))
