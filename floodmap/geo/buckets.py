"""Files in buckets of S3, Google Cloud Storage and Azure, through the package obstore."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from floodmap.errors import RemoteError, RemoteFileError

if TYPE_CHECKING:
    from floodmap.geo.remote import RemoteFile
    from floodmap.geo.source_name import SourceName

_BUCKET = re.compile(r"/vsi(s3|gs|az|adls)/([^/]+)/(.+)")
_TRUE = ("YES", "TRUE", "ON", "1")


def look(name: SourceName, opened: str, head_bytes: int) -> RemoteFile | None:
    """Read the state and the first bytes of a file in a bucket, in one request.

    Credentials come from the environment, in the variables that GDAL reads. obstore repeats failed requests.

    Args:
        name: name of the file, for messages.
        opened: GDAL's name of the file, such as `/vsis3/bucket/a.tif`.
        head_bytes: number of bytes to read at the start of the file.

    Returns:
        The state; None if obstore is not installed, or if obstore cannot read the file, although GDAL may be able to:
        GDAL accepts more kinds of credentials.

    Raises:
        RemoteFileError: the bucket has no such file.
    """
    found = _BUCKET.fullmatch(opened)
    if found is None:
        return None
    try:
        import obstore
        from obstore.exceptions import BaseError, NotFoundError
    except ImportError:
        return None
    from floodmap.geo.remote import RemoteFile

    kind, bucket, key = found.groups()
    try:
        result = obstore.get(_store(kind, bucket), key, options={"range": (0, head_bytes)})
        meta, head = result.meta, bytes(result.bytes())
    except (NotFoundError, FileNotFoundError):
        raise RemoteFileError(f"{name}: the bucket {bucket} has no such file; check the address") from None
    except (BaseError, OSError, ValueError):
        return None
    return RemoteFile(
        name=name, etag=meta.get("e_tag") or "", modified=str(meta["last_modified"]), length=meta["size"], head=head
    )


def exists(name: SourceName, opened: str) -> bool:
    """Return whether a bucket has a file; False if this is not known. Arguments as for `look`."""
    try:
        return look(name, opened, 1) is not None
    except RemoteError:
        return False


def content_of(name: SourceName, opened: str) -> bytes:
    """Download a whole file from a bucket. Arguments as for `look`.

    Raises:
        RemoteFileError: the bucket has no such file, or access is refused.
        RemoteError: obstore is not installed, or the file cannot be read.
    """
    found = _BUCKET.fullmatch(opened)
    try:
        import obstore
        from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
    except ImportError:
        found = None
    if found is None:
        raise RemoteError(f"{name} cannot be downloaded; run: pip install 'floodmap[remote]', or download it first")
    kind, bucket, key = found.groups()
    try:
        return bytes(obstore.get(_store(kind, bucket), key).bytes())
    except (BaseError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        refused = isinstance(error, FileNotFoundError | NotFoundError | PermissionDeniedError | UnauthenticatedError)
        raise (RemoteFileError if refused else RemoteError)(
            f"{name} cannot be downloaded: {reason}; check the address and the credentials"
        ) from None


def _store(kind: str, bucket: str) -> Any:
    """Return obstore's object for a bucket, with GDAL's variables of the environment."""
    from obstore.store import AzureStore, GCSStore, S3Store

    config: dict[str, Any] = {}
    if kind == "gs":
        if _is_set("GS_NO_SIGN_REQUEST"):
            config["skip_signature"] = True
        return GCSStore(bucket, **config)
    if kind in ("az", "adls"):
        if account := os.environ.get("AZURE_STORAGE_ACCOUNT"):
            config["account_name"] = account
        if _is_set("AZURE_NO_SIGN_REQUEST"):
            config["skip_signature"] = True
        return AzureStore(bucket, **config)
    if _is_set("AWS_NO_SIGN_REQUEST"):
        config["skip_signature"] = True
    if endpoint := os.environ.get("AWS_S3_ENDPOINT"):
        scheme = "http" if os.environ.get("AWS_HTTPS", "YES").upper() not in _TRUE else "https"
        config["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        config["region"] = region
    if _is_set("AWS_VIRTUAL_HOSTING"):
        config["virtual_hosted_style_request"] = True
    if str(config.get("endpoint", "")).startswith("http://"):
        return S3Store(bucket, client_options={"allow_http": True}, **config)
    return S3Store(bucket, **config)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in _TRUE
