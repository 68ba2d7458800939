"""Settings of the plugin, in the profile of the user."""

from __future__ import annotations

import os

from qgis.core import QgsApplication, QgsSettings

PROGRAM = "floodmap/program"
"""Key of the file of the program; "" or missing: the plugin finds it."""
FOLDER = "floodmap/output_folder"
"""Key of the folder for the results of the panel."""


def chosen_program() -> str:
    """Return the file of the program that the user has chosen; "" if there is none."""
    return str(QgsSettings().value(PROGRAM, "") or "").strip()


def environment_folder() -> str:
    """Return the folder of the environment that the plugin makes."""
    return os.path.join(QgsApplication.qgisSettingsDirPath(), "floodmap", "environment")
