"""Choice of bands: names decide, and a guess is logged."""

from __future__ import annotations

import pytest
from conftest import SceneFactory, picture
from rasterio.enums import ColorInterp as C

from floodmap.imagery.raster.bands import choose_bands
from floodmap.imagery.scene import Scene

RGBN = (C.red, C.green, C.blue, C.undefined)
"""Colour interpretation that GDAL gives four bands of bytes."""

NAMED: list[tuple[list[str], tuple[int, ...], int | None]] = [
    (["B2", "B3", "B4", "B8"], (3, 2, 1), 4),
    (["B02", "B03", "B04", "B08"], (3, 2, 1), 4),
    (["B8", "B4", "B3", "B2"], (2, 3, 4), 1),
    (["B5", "B4", "B3", "B2"], (2, 3, 4), 1),
    (["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"], (4, 3, 2), 8),
    (["B02", "B03", "B04", "B8A"], (3, 2, 1), 4),
    (["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"], (4, 3, 2), 5),
    (["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"], (3, 2, 1), 4),
    (["Blue", "Green", "Red", "Red edge", "NIR"], (3, 2, 1), 5),
    (["Red Edge", "NIR", "Blue", "Green", "Red"], (5, 4, 3), 2),
    (["blue", "green", "red", "rededge"], (3, 2, 1), None),
    (["coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"], (6, 4, 2), 8),
    (["Coastal", "Blue", "Green", "Yellow", "Red", "Red Edge", "NIR1", "NIR2"], (5, 3, 2), 7),
    (["Blue-444", "Blue", "Green-531", "Green", "Red-650", "Red", "Red edge-705", "NIR"], (6, 4, 2), 8),
    (["B04 - Red", "B03 - Green", "B02 - Blue"], (1, 2, 3), None),
    (["490 nm", "560 nm", "665 nm", "842 nm"], (3, 2, 1), 4),
    (["Band 1 (0.485 Micrometers)", "Band 2 (0.56 Micrometers)", "Band 3 (0.66 Micrometers)"], (3, 2, 1), None),
    (["blau", "grün", "rot"], (3, 2, 1), None),
    (["short wave infrared", "red", "green", "blue"], (2, 3, 4), None),
    (["B", "G", "R", "N"], (3, 2, 1), 4),
    (["B0", "B1", "B2", "B3"], (3, 2, 1), 4),
    (["B02_10m", "B03_10m", "B04_10m", "B08_10m"], (3, 2, 1), 4),
    (["Landsat 8 B5", "Landsat 8 B4", "Landsat 8 B3", "Landsat 8 B2"], (2, 3, 4), 1),
]


@pytest.mark.parametrize(("names", "rgb", "nir"), NAMED, ids=[",".join(names)[:30] for names, _, _ in NAMED])
def test_names_decide_even_where_gdal_calls_the_first_three_red_green_and_blue(
    names: list[str], rgb: tuple[int, ...], nir: int | None
) -> None:
    default = [*RGBN, *[C.undefined] * 20][: len(names)]
    for colours in (default, [C.gray, *[C.undefined] * (len(names) - 1)]):
        choice = choose_bands(colours, names, colours_are_default=colours == default)
        assert (choice.rgb, choice.nir, choice.guess) == (rgb, nir, "")


@pytest.mark.parametrize(
    ("colours", "names", "rgb", "nir"),
    [
        (RGBN, (None,) * 4, (1, 2, 3), 4),
        (RGBN, ("B1", "B2", "B3", "B4"), (1, 2, 3), 4),
        ((C.gray, C.undefined, C.undefined, C.undefined), (None,) * 4, (1, 2, 3), 4),
        ((C.gray, *[C.undefined] * 6), (None,) * 7, (1, 2, 3), None),
        ((C.red, C.green, C.blue), ("NIR", "red", "green"), (2, 3, 3), 1),
        ((C.gray, C.undefined, C.undefined, C.undefined), ("Green", "Red", "Red edge", "NIR"), (2, 1, 1), 4),
        ((C.gray, C.undefined), (None, None), (1,), None),
    ],
)
def test_a_guess_is_said_in_one_line_with_the_option_that_overrules_it(
    colours: tuple[C, ...], names: tuple[str | None, ...], rgb: tuple[int, ...], nir: int | None
) -> None:
    choice = choose_bands(colours, names, name="x.tif", colours_are_default=colours == RGBN)
    assert (choice.rgb, choice.nir) == (rgb, nir)
    assert choice.guess.startswith("x.tif: ") and "--bands" in choice.guess and "\n" not in choice.guess


def test_what_is_known_is_no_guess() -> None:
    for colours, wanted in (((C.red, C.green, C.blue), None), ((C.gray,), None), (RGBN, None), (RGBN, (3, 2, 1, 4))):
        assert not choose_bands(colours, (None,) * len(colours), wanted=wanted).guess


def test_a_guess_and_its_names_reach_the_scene(make_scene: SceneFactory) -> None:
    pixels = picture(4, (64, 64))
    named = make_scene(pixels=pixels[:3], alpha=pixels[3], descriptions=["B2", "B3", "B4", "B8"], name="named.tif")
    unnamed = make_scene(pixels=pixels[:3], alpha=pixels[3], name="unnamed.tif")
    with Scene.open(named) as scene:
        assert (scene.bands, scene.nir_band, scene.remarks) == ((3, 2, 1), 4, ())
    with Scene.open(unnamed) as scene:
        assert scene.bands == (1, 2, 3) and len(scene.remarks) == 1 and "--bands 3,2,1,4" in scene.remarks[0]
