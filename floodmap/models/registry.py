"""Model registry: names, files, download addresses and SHA-256 of the weights. This module does not import torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from floodmap._runtime.files import atomic_path
from floodmap.errors import DownloadError, ModelError
from floodmap.models.download import Progress, download, sha256_of
from floodmap.models.training_record import TrainingRecord
from floodmap.options import MODEL

WEIGHTS = Path(str(resources.files("floodmap"))) / "weights"
"""Folder of the models that are part of the package `floodmap`."""
BASE_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
"""Address of SAM's checkpoints, published by Meta; the environment variable FLOODMAP_MODEL_URL names a mirror."""
ALIASES = {"pretrained": "sam_vit_b"}
"""Further names of models, each with the model's name in the registry."""
SUFFIXES = (".safetensors", ".pth")
"""File name extensions of weights."""

State = Literal["ok", "damaged", "absent"]
"""Possible results of `verify`; see the docstring of that function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Entry of the registry: a model that can be chosen by name."""

    name: str
    """Value of `--model` that selects this model."""
    file: str
    """File name of the weights."""
    architecture: str
    """Network of the weights: `vit_b`, `vit_l` or `vit_h` (Meta's SAM), or `flood_sam` (floodmap's own)."""
    sha256: str
    """SHA-256 of the file, lower-case hexadecimal."""
    size_mb: float
    """Size of the file, in units of 1,000,000 bytes."""
    shipped: bool = False
    """Whether the file is part of the package `floodmap`; if not, the file is downloaded on first use."""
    licence: str = "Apache-2.0"
    """SPDX identifier of the licence of the weights."""
    description: str = ""
    """Description of the model in one line, shown by `floodmap models list`."""

    @property
    def url(self) -> str | None:
        """Download address of the file; None for a model that ships in the package."""
        base = os.environ.get("FLOODMAP_MODEL_URL") or BASE_URL
        return None if self.shipped else f"{base.rstrip('/')}/{self.file}"

    @property
    def path(self) -> Path:
        """Local path of the file, even if the file has not been downloaded yet."""
        return (WEIGHTS if self.shipped else cache_dir()) / self.file


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """Model with weights in a local file."""

    path: Path
    """Path of the file, `.safetensors` or `.pth`."""
    name: str
    """Name of the model; the file's stem if the registry has no file with this SHA-256."""
    architecture: str | None
    """Network, named as in `Model`. None if the file does not name its network: the shapes of the tensors decide."""
    sha256: str
    """SHA-256 of the file."""

    @property
    def training(self) -> TrainingRecord | None:
        """Record of the model's training in the header of the file: initial weights, training and validation pictures.

        None if the header has no such record, or if the file is a `.pth` file.
        """
        return TrainingRecord.of(read_metadata(self.path), self.path) if self.path.suffix == ".safetensors" else None


def cache_dir() -> Path:
    """Return the folder of downloaded models: FLOODMAP_CACHE, else the user's cache folder. It may not exist yet."""
    if named := os.environ.get("FLOODMAP_CACHE"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("floodmap", appauthor=False))


def registry() -> dict[str, Model]:
    """Return all models by name. The shipped model is first; it is absent if floodmap was built without weights."""
    models = {model.name: model for model in _SAM}
    card = model_card()
    if not card:
        return models
    file = WEIGHTS / "finetuned.safetensors"
    finetuned = Model(
        name=MODEL, file=file.name, architecture=card.get("architecture", "flood_sam"), sha256=card["sha256"],
        size_mb=file.stat().st_size / 1e6 if file.exists() else 0.0, shipped=True,
        licence=card.get("licence", "Apache-2.0"),
        description="SAM with a small encoder, trained on floods and on dry ground; ships with floodmap",
    )  # fmt: skip
    return {finetuned.name: finetuned} | models


_SAM = (
    Model(
        name="sam_vit_b", file="sam_vit_b_01ec64.pth", architecture="vit_b", size_mb=375,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        description="Meta's SAM, ViT-B, not trained on floods; also called pretrained",
    ),
    Model(
        name="sam_vit_l", file="sam_vit_l_0b3195.pth", architecture="vit_l", size_mb=1250,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        description="Meta's SAM, ViT-L, not trained on floods",
    ),
    Model(
        name="sam_vit_h", file="sam_vit_h_4b8939.pth", architecture="vit_h", size_mb=2560,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        description="Meta's SAM, ViT-H, not trained on floods",
    ),
)  # fmt: skip


def model_card() -> dict[str, Any]:
    """Read `weights/finetuned.json`, the facts about the shipped model; {} if there is no such file.

    Returns:
        Texts by key: `sha256` and `architecture` as in `Model`, `licence` (SPDX), `trained_on` (training data),
        `begun_from` (weights before the training) and `card` (path of the model card).

    Raises:
        ModelError: the file cannot be read, or holds no valid SHA-256.
    """
    path = WEIGHTS / "finetuned.json"
    if not path.is_file():
        return {}
    try:
        card: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if not re.fullmatch("[0-9a-f]{64}", card["sha256"]):
            raise ValueError("sha256 is not a hash")
        return card
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f"{path} is damaged ({error}); reinstall floodmap") from error


def find(name: str) -> Model:
    """Look up a model by its name or alias.

    Raises:
        ModelError: there is no model of that name.
    """
    models = registry()
    key = ALIASES.get(name, name)
    if key in models:
        return models[key]
    if key == MODEL:
        raise ModelError(f"the shipped model is missing from {WEIGHTS}; reinstall floodmap")
    raise ModelError(f"no model is named {name!r}; choose from {_names(models)}, or name a file")


def resolve(model: str | Path, *, progress: Progress | None = None) -> ResolvedModel:
    """Find the local file of a model; download the file if it is missing and the model is in the registry.

    If the model was given by name, the SHA-256 of the file is checked against the registry.

    Args:
        model: name or alias of a model, or path of a .safetensors or .pth file. A name has precedence over a path.
        progress: called during a download; see `floodmap.models.download.Progress`.

    Raises:
        ModelError: the name is unknown, the file is missing or has a wrong SHA-256, or the download failed.
    """
    name = str(model)
    models = registry()
    if ALIASES.get(name, name) not in models and name != MODEL and _means_file(name):
        return _resolve_file(Path(name), models)
    known = find(name)
    state = verify(known)
    if state == "absent" and not known.shipped:
        fetch(known, progress=progress)
    elif state != "ok":
        raise ModelError(f"{known.path} is {state}; {_repair(known)}")
    return ResolvedModel(path=known.path, name=known.name, architecture=known.architecture, sha256=known.sha256)


def _means_file(name: str) -> bool:
    path = Path(name)
    return name != "" and (path.exists() or path.suffix in SUFFIXES or len(path.parts) > 1)


def _resolve_file(path: Path, models: dict[str, Model]) -> ResolvedModel:
    if not path.is_file():
        hints = [f"; to fetch it: --model {model.name}" for model in models.values() if model.file == path.name]
        raise ModelError(f"{path} is not a file{hints[0] if hints else ''}")
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path} is no model: its name must end in {' or '.join(SUFFIXES)}")
    sha256 = sha256_of(path)
    for known in models.values():
        if known.sha256 == sha256:
            return ResolvedModel(path=path, name=known.name, architecture=known.architecture, sha256=sha256)
    architecture = read_metadata(path).get("architecture") if path.suffix == ".safetensors" else None
    return ResolvedModel(path=path, name=path.stem, architecture=architecture, sha256=sha256)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata in the header of a safetensors file, without the tensors.

    Raises:
        ModelError: the file is not in the safetensors format.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size - 8:
                raise ValueError("it is cut short")
            header = json.loads(file.read(length))
            metadata = header.get("__metadata__", {})
            return {str(key): str(value) for key, value in metadata.items()}
    except (OSError, ValueError, AttributeError, struct.error) as error:
        raise ModelError(f"{path} is no safetensors file, or a damaged one: {error}") from error


def fetch(model: Model, *, progress: Progress | None = None) -> Path:
    """Download a model into the cache, check the SHA-256, and return the path. An interrupted download is resumed.

    Raises:
        ModelError: the file cannot be downloaded or written; the message says how to add a file by hand.
    """
    if model.url is None:
        raise ModelError(f"{model.name} ships with floodmap and is not fetched; if it is damaged, reinstall floodmap")
    _make_cache(model.path.parent)
    try:
        download(model.url, model.path, sha256=model.sha256, progress=progress)
    except DownloadError as error:
        remedy = f"get that file elsewhere (SHA-256 {model.sha256}) and run: floodmap models add {model.file}"
        raise ModelError(f"{model.name} ({model.file}): {error}; {remedy}") from error
    return model.path


def add(file: Path) -> tuple[Model, Path]:
    """Copy a model file that was downloaded without floodmap into the cache.

    Args:
        file: path of a file with any name. The SHA-256 identifies the model. The original file stays unchanged.

    Returns:
        The model of the registry, and the path of the copy in the cache.

    Raises:
        ModelError: there is no such file, its SHA-256 is not in the registry, or the cache cannot be written.
    """
    if not file.is_file():
        raise ModelError(f"{file} is not a file")
    models = registry()
    sha256 = sha256_of(file)
    model = next((known for known in models.values() if known.sha256 == sha256), None)
    if model is None:
        own = f"; your own model does not need `models add`: use --model {file}" if file.suffix in SUFFIXES else ""
        raise ModelError(
            f"{file} has SHA-256 {sha256}, which matches none of {_names(models)}: the file is damaged or is another "
            f"one{own}"
        )
    if verify(model) != "ok":
        _copy(file, model)
    return model, model.path


def _copy(file: Path, model: Model) -> None:
    _make_cache(model.path.parent)
    try:
        with atomic_path(model.path) as copy:
            shutil.copyfile(file, copy)
            if sha256_of(copy) != model.sha256:
                raise ModelError(f"{file} changed while it was copied; try again")
    except OSError as error:
        raise ModelError(
            f"{file} cannot be copied to {model.path.parent}: {error.strerror or error}; "
            "free disk space there or set FLOODMAP_CACHE to another folder"
        ) from error


def verify(model: Model) -> State:
    """Compare the SHA-256 of the model's file with the registry.

    Returns:
        "ok", "damaged" (the SHA-256 differs) or "absent" (there is no file).
    """
    if not model.path.is_file():
        return "absent"
    return "ok" if sha256_of(model.path) == model.sha256 else "damaged"


def _repair(model: Model) -> str:
    return "reinstall floodmap" if model.shipped else f"fetch it again with: floodmap models pull {model.name}"


def _make_cache(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"the cache {folder} cannot be created: {error.strerror or error}; set FLOODMAP_CACHE to another folder"
        ) from error


def _names(models: dict[str, Model]) -> str:
    return ", ".join([*models, *ALIASES])
