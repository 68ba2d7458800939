from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "floodmap.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(NOTEBOOK.parents[1])
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace('Path("notebook_output")', f"Path({str(tmp_path)!r})")
            exec(compile(source, str(NOTEBOOK), "exec"), names)  # as Jupyter does, in one namespace
    assert len(names["polygons"]) > 1  # type: ignore[arg-type]
    assert 0.5 < names["score"].iou <= 1.0  # type: ignore[attr-defined]
