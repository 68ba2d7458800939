"""Draw flood polygons over their scene, for the README: `python scripts/make_map.py SCENE POLYGONS OUT.jpg`."""

from __future__ import annotations

import argparse
from pathlib import Path

import geopandas
import rasterio
from PIL import Image, ImageDraw
from shapely.geometry import MultiPolygon

from floodmap.imagery.scene import Scene

SIDE = 900
"""Longest side of the picture, in pixels."""
FLOOD_FILL, FLOOD_LINE, UNOBSERVED_FILL = (40, 110, 255, 120), (255, 255, 255, 230), (120, 120, 120, 160)


def rings(layer: geopandas.GeoDataFrame, to_pixels: rasterio.Affine) -> list[list[list[tuple[float, float]]]]:
    """Return the pixel coordinates of each polygon's shell and holes."""
    parts = [part for shape in layer.geometry for part in (shape.geoms if isinstance(shape, MultiPolygon) else [shape])]
    return [[[to_pixels * xy for xy in ring.coords] for ring in (part.exterior, *part.interiors)] for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("polygons", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with Scene.open(options.scene) as scene:
        tile = scene.preview(SIDE)
        scale = tile.rgb.shape[2] / scene.width
        to_pixels = rasterio.Affine.scale(scale) @ ~scene.transform
    picture = Image.fromarray(tile.rgb.transpose(1, 2, 0))
    overlay = Image.new("RGBA", picture.size)
    for name, fill, line in (("unobserved", UNOBSERVED_FILL, None), ("flood", FLOOD_FILL, FLOOD_LINE)):
        for shell, *holes in rings(geopandas.read_file(options.polygons, layer=name), to_pixels):
            shape = Image.new("L", picture.size)
            draw = ImageDraw.Draw(shape)
            draw.polygon(shell, fill=255)
            for hole in holes:
                draw.polygon(hole, fill=0)
            overlay.paste(fill, mask=shape)
            if line:
                for ring in (shell, *holes):
                    ImageDraw.Draw(overlay).line(ring, fill=line, width=2)
    drawn = Image.alpha_composite(picture.convert("RGBA"), overlay).convert("RGB")
    both = Image.new("RGB", (2 * picture.width + 8, picture.height), "white")
    both.paste(picture, (0, 0))
    both.paste(drawn, (picture.width + 8, 0))
    both.save(options.out, quality=80)


if __name__ == "__main__":
    main()
