"""URLs: the address of a remote file, its credentials, and texts without secrets."""

from __future__ import annotations

import base64
import os
import re
import urllib.request
from urllib.parse import quote, unquote, urlsplit

_WEB = re.compile(r"/vsicurl/(https?://.*)", re.DOTALL)
IN_ARCHIVE = re.compile(r"/vsi(?:zip|tar|gzip)/+vsicurl/(https?://.*?\.(?:zip|tgz|tar|tar\.gz|gz))(?:/(.*)|$)")
"""Pattern of GDAL's name of a file in an archive on a web server: the URL of the archive, and the name inside."""
_SAFE = ":/?#[]@!$&'()*+,;=%~"


def web_address(opened: str) -> str | None:
    """Return the URL in GDAL's name of a file on a web server; None for other names.

    Of a file inside an archive, the URL is that of the archive.
    """
    found = IN_ARCHIVE.match(opened) or _WEB.match(opened)
    return found[1] if found else None


def without_queries(text: str) -> str:
    """Return a text without the queries and the user names of its URLs, which may contain passwords."""
    text = re.sub(r"(://)[^\s/?#@\"'<>]*@", r"\1", text)
    return re.sub(r"\?[^\s?,\"'<>]*=[^\s,\"'<>]*", "", text)


def beside(address: str, ending: str) -> str:
    """Return the URL of the file `NAME + ending` beside a file; the query is kept."""
    path, mark, query = address.partition("?")
    return f"{path}{ending}{mark}{query}"


def request(address: str, first_bytes: int | None = None) -> urllib.request.Request:
    """Return a request for a URL, with the credentials in the URL or in GDAL's variables of the environment.

    Args:
        address: the URL. Characters that HTTP does not allow are quoted.
        first_bytes: number of bytes to request at the start of the file; None: the whole file.
    """
    parts = urlsplit(address)
    user, has_user, host = parts.netloc.rpartition("@")
    headers = {} if first_bytes is None else {"Range": f"bytes=0-{first_bytes - 1}"}
    if login := unquote(user) if has_user else os.environ.get("GDAL_HTTP_USERPWD", ""):
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    for line in re.split(r",\s*(?=[\w-]+:)", os.environ.get("GDAL_HTTP_HEADERS", "")):
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return urllib.request.Request(quote(parts._replace(netloc=host).geturl(), safe=_SAFE), headers=headers)
