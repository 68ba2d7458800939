"""`floodmap models`: list, fetch, add and verify models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from floodmap.models import registry as library

from ..options import json_option, overwrite_option, progress_option, verbosity_options
from ..terminal import progress_bar


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def models() -> None:
    """List, fetch and check the models.

    `finetuned` ships with floodmap and works offline. Meta's SAM models are downloaded on first use into a cache;
    FLOODMAP_CACHE sets another folder for the cache. For a machine without a network, copy the file of a model to the
    machine, and run there:

        floodmap models add FILE
    """


@models.command("list")
@json_option
@verbosity_options
def list_models(as_json: bool, verbosity: int) -> None:
    """List the models, and which of them are on this machine."""
    rows = [_describe(model) for model in library.registry().values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        click.echo(f"{row['name']:<11} {row['state']:<12} {row['size_mb']:>6.0f} MB  {row['description']}")


@models.command()
@click.argument("model", metavar="NAME|FILE")
@json_option
@verbosity_options
def info(model: str, as_json: bool, verbosity: int) -> None:
    """Describe a model, given as a name or as a .safetensors or .pth file."""
    card = _describe_file(Path(model)) if Path(model).is_file() else _describe(library.find(model))
    if as_json:
        click.echo(json.dumps(card, indent=2, ensure_ascii=False))
        return
    width = max(map(len, card))
    for key, value in card.items():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        click.echo(f"{key:<{width}}  {'-' if value is None else text}")


@models.command()
@click.argument("model", metavar="NAME|FILE")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="File to write.  [default: standard output]",
)  # fmt: skip
@overwrite_option
def stac(model: str, output: Path | None, overwrite: bool) -> None:
    """Describe a model as a STAC item with the extension MLM.

    MODEL is a name (see: floodmap models list), or a .safetensors or .pth file. The item names the weights by their
    file name: keep both in one folder.

    \b
        floodmap models stac finetuned -o finetuned_stac.json
    """
    from floodmap.output.products.model_item import model_item, write_model_item

    if output is None:
        click.echo(json.dumps(model_item(model), indent=2, ensure_ascii=False))
    else:
        write_model_item(model, output, overwrite=overwrite)
        click.echo(f"{output}: STAC item of {model}")


@models.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(dir_okay=False, path_type=Path))
@verbosity_options
def add(files: tuple[Path, ...], verbosity: int) -> None:
    """Copy files of models into the cache.

    The SHA-256 of a file identifies the model; the file may have any name.
    """
    for file in files:
        model, path = library.add(file)
        click.echo(f"{model.name}: {path}")


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@progress_option
@verbosity_options
def pull(names: tuple[str, ...], verbosity: int) -> None:
    """Download models now, for use without a network later. An interrupted download is continued."""
    for model in [library.find(name) for name in names]:
        if library.verify(model) != "ok":
            with progress_bar(model.file, unit="bytes", hidden=verbosity < 0) as update:
                library.fetch(model, progress=update)
        click.echo(f"{model.name}: {model.path}")


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_context
@verbosity_options
def verify(ctx: click.Context, names: tuple[str, ...], verbosity: int) -> None:
    """Check the files of models by their SHA-256.

    Without a NAME, all models on this machine are checked. The exit code is 1 if a file is damaged or missing.
    """
    chosen = [library.find(name) for name in names]
    chosen = chosen or [model for model in library.registry().values() if model.path.is_file() or model.shipped]
    states = {model: library.verify(model) for model in chosen}
    for model, state in states.items():
        click.echo(f"{model.name}: {state} ({model.path})")
    if any(state != "ok" for state in states.values()):
        ctx.exit(1)


def _describe(model: library.Model) -> dict[str, Any]:
    """Return the facts about a model of the registry that `floodmap models list` and `info` show, as JSON types.

    The keys are `name`, `state`, `description`, `architecture`, `size_mb` (in units of 1,000,000 bytes), `licence`,
    `sha256`, `url` and `path`. For the shipped model, the entries of `registry.model_card` are added.

    `state` says whether the file is on this machine: "shipped" (in the package), "fetched" (downloaded), "37 % fetched"
    (an interrupted download), "not fetched", or "missing" (the file of the shipped model is not in the package).
    """
    part = model.path.with_name(f"{model.file}.part")
    if model.path.is_file():
        state = "shipped" if model.shipped else "fetched"
    elif part.is_file():
        state = f"{100 * part.stat().st_size / (model.size_mb * 1e6):.0f} % fetched"
    else:
        state = "missing" if model.shipped else "not fetched"
    card = {
        "name": model.name,
        "state": state,
        "description": model.description,
        "architecture": model.architecture,
        "size_mb": round(model.size_mb, 1),
        "licence": model.licence,
        "sha256": model.sha256,
        "url": model.url,
        "path": str(model.path),
    }
    return card | (library.model_card() if model.shipped else {})


def _describe_file(path: Path) -> dict[str, Any]:
    """Return the facts about a file of weights that `floodmap models info` shows, as JSON types.

    The keys are `name`, `architecture`, `size_mb` (in units of 1,000,000 bytes), `sha256` and `path`. The metadata in
    the header of a .safetensors file are added.
    """
    resolved = library.resolve(path)
    metadata = library.read_metadata(path) if path.suffix == ".safetensors" else {}
    return {
        "name": resolved.name,
        "architecture": resolved.architecture,
        "size_mb": round(path.stat().st_size / 1e6, 1),
        "sha256": resolved.sha256,
        "path": str(path),
    } | metadata | _pictures(metadata)


def _pictures(metadata: dict[str, str]) -> dict[str, Any]:
    """Return the training record of a model, with the number of pictures in place of the hashes of the pictures.

    Args:
        metadata: metadata in the header of a file of weights.

    Returns:
        A dictionary with the record, as JSON types, at the key `training`; empty if the metadata have no valid record.
    """
    try:
        record = json.loads(metadata.get("training", "{}"))
        keys = record.pop("keys", {})
        return {"training": record | {f"{side}_pictures": len(keys[side]) for side in keys}} if record else {}
    except (ValueError, AttributeError, TypeError):
        return {}
