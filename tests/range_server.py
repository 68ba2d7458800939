"""HTTP server of a folder with range requests, delays and faults, in a process of its own: GDAL holds the GIL.

The first part of a URL's path is the behaviour of the server, one of `BEHAVIOURS`, and perhaps a hyphen and a text;
requests are counted for each first part apart. The rest is a file of the folder.
`python range_server.py FOLDER LATENCY_SECONDS` prints its port, and then one line of JSON for each request.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BEHAVIOURS = {
    "plain": "answers at once, or after the latency",
    "noetag": "sends neither ETag nor Last-Modified",
    "noranges": "ignores ranges, and sends the whole file",
    "flaky": "answers every third request with 500",
    "cutting": "closes the connection in the middle of every third answer",
    "truncated": "closes the connection in the middle of every answer after the first three",
    "failing": "answers with 503 after the first five requests",
    "forbidden": "answers with 403",
    "expiring": "answers with 403 and the text of an expired signature after the first five requests",
    "changing": "says after the first five requests that the file has changed",
    "nohead": "answers HEAD with 405",
    "miss7": "answers the seventh request, or another of that number, with 404, and all others as it should",
    "cut7": "closes the connection in the middle of the seventh answer, or of another of that number",
    "stalling": "never sends the body after the first five requests",
}
_FEW = 5
_NUMBERS = count()


class Handler(BaseHTTPRequestHandler):
    """Answers requests for the files of a folder."""

    protocol_version = "HTTP/1.1"  # connections stay open, as with real servers
    disable_nagle_algorithm = True  # otherwise a short answer after a refused HEAD takes 40 ms
    folder: Path
    latency_s: float
    counts: Counter[str]
    lock = threading.Lock()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        time.sleep(self.latency_s)
        path = urlsplit(self.path).path
        first, _, name = path.lstrip("/").partition("/")
        behaviour = first.partition("-")[0]
        with self.lock:
            self.counts[first] += 1
            number = self.counts[first]
            line = {"method": self.command, "path": path, "range": self.headers.get("Range")}
            print(json.dumps(line), flush=True)
        file = self.folder / name
        if behaviour == "forbidden" or (behaviour == "expiring" and number > _FEW):
            self._error(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
        elif behaviour == "nohead" and self.command == "HEAD":
            self._error(405, "no")
        elif not file.is_file() or behaviour == f"miss{number}":
            self._error(404, "not found")
        elif (behaviour == "flaky" and number % 3 == 0) or (behaviour == "failing" and number > _FEW):
            self._error(500 if behaviour == "flaky" else 503, "later")
        else:
            self._send(file, behaviour, number, body=body)

    def _error(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def _send(self, file: Path, behaviour: str, count: int, *, body: bool) -> None:
        size = file.stat().st_size
        asked = None if behaviour == "noranges" else self.headers.get("Range")
        first, last = 0, size - 1
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        changed = behaviour == "changing" and count > _FEW
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last - first + 1))
        if behaviour != "noranges":
            self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        if behaviour != "noetag":
            stamp = f"{size} {file.stat().st_mtime_ns} {changed}"
            self.send_header("ETag", f'"{hashlib.sha256(stamp.encode()).hexdigest()}"')
        self.end_headers()
        if not body:
            return
        with file.open("rb") as opened:
            opened.seek(first)
            content = opened.read(last - first + 1)
        if behaviour == "stalling" and count > _FEW:
            time.sleep(3600)
        if (
            behaviour == f"cut{count}"
            or (behaviour == "cutting" and count % 3 == 0)
            or (behaviour == "truncated" and count > 3)
        ):
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing on standard error."""


@dataclass
class RangeServer:
    """A running server."""

    port: int
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Requests so far: method, path and range."""
    mark: str = ""
    """Text after the behaviour, with which requests are counted apart."""
    below: str = ""
    """Path of the folder, below the folder that is served."""

    def url(self, name: str, behaviour: str = "plain") -> str:
        """URL of a file of the folder."""
        return f"http://127.0.0.1:{self.port}/{behaviour}{self.mark}/{self.below}{name}"

    def of(self, folder: str) -> RangeServer:
        """The same server for a folder below, with counts of requests that begin at 0."""
        return RangeServer(self.port, self.lines, f"-{next(_NUMBERS)}", f"{folder}/")


@contextmanager
def serving(folder: Path, *, latency_s: float = 0) -> Iterator[RangeServer]:
    """Serve a folder within the `with` block."""
    program = [sys.executable, __file__, str(folder), str(latency_s)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = RangeServer(int(process.stdout.readline()))

        def listen(lines: Any) -> None:
            server.lines.extend(json.loads(line) for line in lines)

        threading.Thread(target=listen, args=(process.stdout,), daemon=True).start()
        try:
            yield server
        finally:
            process.kill()


class Server(ThreadingHTTPServer):
    """Server whose threads end with the process."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Ignore connections that the client closes."""


if __name__ == "__main__":
    Handler.folder, Handler.latency_s, Handler.counts = Path(sys.argv[1]), float(sys.argv[2]), Counter()
    with Server(("127.0.0.1", 0), Handler) as one:
        print(one.server_port, flush=True)
        one.serve_forever()
