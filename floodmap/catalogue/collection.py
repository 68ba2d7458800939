"""STAC catalogues and collections as lists of scenes: the addresses of their items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from floodmap._runtime.extras import require
from floodmap.errors import RemoteFileError, SceneError
from floodmap.geo.remote import content_of
from floodmap.geo.source_name import SourceName

_KINDS = ("Catalog", "Collection")


def item_addresses(name: SourceName) -> list[str] | None:
    """Return the addresses of all items of a STAC catalogue or collection, and of its children.

    The links are followed, but the items are not read.

    Args:
        name: name of a local JSON file, or of a URL that ends in .json.

    Returns:
        Absolute paths or URLs of the items, in the order of the links. None if the name is not that of a STAC catalogue
        or collection, or if the server has no such file.

    Raises:
        SceneError: a linked catalogue cannot be read, or there is no item.
        RemoteError: a catalogue cannot be read over the network.
        MissingPackageError: pystac is not installed.
    """
    given = name.given if name.path is None else str(name.path.absolute())
    content = None
    with suppress(RemoteFileError):  # of several scenes, this one alone fails when it is opened
        content = _content(given) if _may_be_stac(name) else None
    if content is None:
        return None
    require("pystac", "a STAC collection as scenes")
    found = list(dict.fromkeys(_items(given, content, {given})))
    if not found:
        raise SceneError(f"{name}: this STAC catalogue has no links to items; give the items themselves")
    return found


def _may_be_stac(name: SourceName) -> bool:
    if name.path is not None:
        return name.path.suffix.lower() == ".json" and name.path.is_file()
    return name.given.partition("?")[0].lower().endswith(".json")


def _items(address: str, content: dict[str, Any], visited: set[str]) -> Iterator[str]:
    """Yield the addresses of the items of a catalogue, then those of its children that are not in `visited`."""
    from pystac import Catalog

    catalogue = Catalog.from_dict(content, href=address, preserve_dict=False)
    yield from (href for link in catalogue.get_item_links() if (href := link.get_absolute_href()))
    for link in catalogue.get_child_links():
        child = link.get_absolute_href() or ""
        if child in visited:
            continue
        visited.add(child)
        linked = _content(child)
        if linked is None:
            raise SceneError(f"{SourceName.of(child)}, linked in {SourceName.of(address)}, is no STAC catalogue")
        yield from _items(child, linked, visited)


def _content(address: str) -> dict[str, Any] | None:
    """Return the content of a STAC catalogue or collection; None if the file is something else.

    Raises:
        SceneError: the file cannot be read.
        RemoteError: the file cannot be read over the network.
    """
    content, text = None, _text(address)
    with suppress(ValueError):
        content = json.loads(text)
    if not isinstance(content, dict) or "stac_version" not in content or content.get("type") not in _KINDS:
        return None
    if content["type"] == "Collection":  # of a collection, only the links are used
        content = {**content, "type": "Catalog"}
    return {"description": "", "links": [], **content}


def _text(address: str) -> bytes:
    name = SourceName.of(address)
    if name.path is not None:
        try:
            return name.path.read_bytes()
        except OSError as error:
            raise SceneError(f"{name} cannot be read: {error.strerror or error}") from error
    return content_of(name)
