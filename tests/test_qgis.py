"""Results as QGIS reads and draws them; skipped where its Python is not installed."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from affine import Affine
from conftest import HANGS
from rasterio.crs import CRS

from floodmap.geo.geogrid import GeoGrid
from floodmap.output.cog import write_rasters
from floodmap.output.polygons import polygonize
from floodmap.output.vector_files import write_layers

pytestmark = pytest.mark.slow

PYTHON = "/usr/bin/python3"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "QT_QPA_PLATFORM": "offscreen", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}

# Layers must go before exitQgis(), or PyQGIS crashes on the way out.
SCRIPT = """
import json, sys
from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsRasterLayer, QgsVectorLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

app = QgsApplication([], False)
app.initQgis()
vectors, rasters = json.loads(sys.argv[1])
layers = {uri: QgsVectorLayer(uri, "v", "ogr") for uri in vectors} | {uri: QgsRasterLayer(uri, "r") for uri in rasters}
told = {}
for uri, layer in layers.items():
    told[uri] = {"valid": layer.isValid(), "crs": layer.crs().authid(), "renderer": layer.renderer().type()}
    if uri in vectors:
        symbols = [part for part in layer.renderer().symbol().symbolLayers()]
        told[uri] |= {
            "count": layer.featureCount(),
            "fields": [field.name() for field in layer.fields()],
            "type": layer.wkbType(),
            "symbols": [part.layerType() for part in symbols],
            "fill": symbols[0].fillColor().getRgb(),
            "stroke": symbols[0].strokeColor().getRgb(),
            "hatch": [(part.lineAngle(), part.distance()) for part in symbols if part.layerType() == "LinePatternFill"],
        }
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(layers[rasters[0]].extent())
    settings.setOutputSize(QSize(60, 40))
    settings.setBackgroundColor(QColor(255, 255, 255))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    told[uri]["pixels"] = [[image.pixelColor(x, y).getRgb()[:3] for x in range(60)] for y in range(40)]
    del settings, job, image
print(json.dumps(told))
layers.clear()
del layer
app.exitQgis()
"""


def _has_pyqgis() -> bool:
    if not os.path.exists(PYTHON):
        return False
    probe = subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True, env=ENVIRONMENT, timeout=HANGS)
    return probe.returncode == 0


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What QGIS reports of every layer: left third flood, middle dry, right unobserved; 60 x 40 map pixels."""
    if not _has_pyqgis():
        pytest.skip(f"{PYTHON} has no PyQGIS (Debian: apt-get install --no-install-recommends qgis)")
    folder = tmp_path_factory.mktemp("qgis")
    codes = np.repeat(np.array([[95, 2, 255]], np.uint8), 300, axis=1).repeat(600, axis=0)
    grid = GeoGrid(CRS.from_epsg(32643), Affine(0.5, 0, 5e5, 0, -0.5, 3e6), (600, 900))
    layers = polygonize([(0, codes)], threshold=50, model="m", source="s.tif", grid=grid)
    date = datetime(2024, 1, 1, tzinfo=UTC)
    tables = {"flood": layers.flood, "unobserved": layers.unobserved}
    write_layers(tables, folder, "s", ("gpkg", "shp"), date=date)
    write_rasters([(0, codes)], folder, "s", threshold=50, tags={}, grid=grid)
    names = {
        "flood": "s.gpkg|layername=flood", "unobserved": "s.gpkg|layername=unobserved", "shp": "s_flood.shp",
        "mask": "s_mask.tif", "probability": "s_probability.tif",
    }  # fmt: skip
    uris = {key: f"{folder}/{name}" for key, name in names.items()}
    arguments = [[uris[key] for key in ("flood", "unobserved", "shp")], [uris[key] for key in ("mask", "probability")]]
    done = subprocess.run(
        [PYTHON, "-c", SCRIPT, json.dumps(arguments)], capture_output=True, text=True, timeout=HANGS,
        env={**ENVIRONMENT, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return {key: answers[uri] for key, uri in uris.items()}


def colour(layer: dict[str, Any], col: int) -> np.ndarray:
    return np.array(layer["pixels"], int)[5:35, col - 4 : col + 5].reshape(-1, 3)


def test_every_layer_is_valid_and_in_its_crs(told: dict[str, Any]) -> None:
    for layer in told.values():
        assert layer["valid"] and layer["crs"] == "EPSG:32643"


def test_layers_have_their_features_and_fields(told: dict[str, Any]) -> None:
    assert (told["flood"]["count"], told["unobserved"]["count"], told["shp"]["count"]) == (1, 1, 1)
    wanted = {"id", "area_m2", "perimeter_m", "confidence_mean", "confidence_min", "model", "source"}
    assert wanted <= set(told["flood"]["fields"])
    assert "reason" in told["unobserved"]["fields"]
    assert told["flood"]["type"] == told["unobserved"]["type"] == 6  # MultiPolygon


@pytest.mark.parametrize("key", ["flood", "shp"])
def test_flood_is_translucent_blue(told: dict[str, Any], key: str) -> None:
    red, green, blue, alpha = told[key]["fill"]
    assert blue > 200 > green > red and 80 < alpha < 160
    assert told[key]["stroke"][3] == 255
    inside, outside = colour(told[key], 10), colour(told[key], 30)
    assert (inside[:, 2] > inside[:, 0] + 50).all() and (outside == 255).all()


def test_unobserved_ground_is_hatched_grey(told: dict[str, Any]) -> None:
    assert told["unobserved"]["symbols"] == ["SimpleFill", "LinePatternFill"]
    assert told["unobserved"]["hatch"] == [[45, 2]]
    red, green, blue, alpha = told["unobserved"]["fill"]
    assert red == green == blue and alpha < 128
    assert (colour(told["unobserved"], 10) == 255).all()
    assert np.ptp(colour(told["unobserved"], 50)[:, 0]) > 50


def test_the_mask_shows_flood_blue_dry_clear_and_unobserved_grey(told: dict[str, Any]) -> None:
    assert told["mask"]["renderer"] == "paletted"
    flood, dry, hidden = (colour(told["mask"], col) for col in (10, 30, 50))
    assert (flood[:, 2] > flood[:, 0] + 50).all()
    assert (dry == 255).all()
    assert (np.ptp(hidden, axis=1) <= 2).all() and (hidden < 230).all()


def test_the_probability_is_a_ramp_and_unobserved_ground_grey(told: dict[str, Any]) -> None:
    assert told["probability"]["renderer"] == "singlebandpseudocolor"
    flood, dry, hidden = (colour(told["probability"], col) for col in (10, 30, 50))
    assert (flood[:, 2] > flood[:, 0] + 50).all()
    assert (dry > 235).all()
    assert (np.ptp(hidden, axis=1) <= 2).all() and (hidden < 230).all()
