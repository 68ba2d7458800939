"""A scene from a server with latency against the same scene from disk: `python benchmarks/remote.py [SCENE...]`.

Prints, for each scene: time of `segment` from the server over the time from disk, run in turns; whether the rasters
have the same bytes; requests for each row of blocks that is read; requests of `info`. A read of a window counts each
row of blocks that it touches.

With --s3, the server speaks the S3 protocol (moto) and has no latency. moto copies a whole object for every range, so
that large scenes need another server: --s3-server HOST:PORT, such as s3rver or MinIO, with the keys in the environment
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import median
from urllib.error import HTTPError

import numpy as np

import floodmap
from floodmap.imagery.pixels import Pixels
from floodmap.imagery.reader import Reader

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from range_server import RangeServer, serving  # noqa: E402

SECRET = "X-Amz-Signature=SECRET"


class Rows:
    """Number of rows of blocks that are read in this process."""

    def __init__(self) -> None:
        self.count = 0
        read = Reader._read

        def counting(
            reader: Reader, row: float, col: float, height: float, width: float, shape_hw: tuple[int, int]
        ) -> Pixels:
            down, block = reader.source.dataset.height / reader.height, reader.source.dataset.block_shapes[0][0]
            first, last = int(row * down // block), int(np.ceil((row + height) * down / block))
            self.count += last - first
            return read(reader, row, col, height, width, shape_hw)

        Reader._read = counting  # type: ignore[method-assign]


def segment(source: str, out: Path) -> float:
    """Run `floodmap segment`; return its seconds."""
    started = time.monotonic()
    command = [sys.executable, "-m", "floodmap_cli.main", "segment", source, "-o", str(out), "--overwrite", "-q"]
    subprocess.run(command, check=True)
    return time.monotonic() - started


def digest(out: Path) -> list[str]:
    """SHA-256 of the rasters in a folder."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.tif"))]


def requests_of(server: RangeServer) -> int:
    """Return the number of requests so far, after the last line of the log has arrived."""
    time.sleep(0.3)
    return len(server.lines)


def show(scene: Path, server: RangeServer, rounds: int, folder: Path) -> None:
    """Measure one scene and print the figures."""
    url, times = f"{server.url(scene.name)}?{SECRET}", []
    for _ in range(rounds):
        times.append((segment(str(scene), folder / "local"), segment(url, folder / "remote")))
    ratio = median(remote / local for local, remote in times)
    same = digest(folder / "local") == digest(folder / "remote")
    secret = any(b"SECRET" in path.read_bytes() for path in (folder / "remote").rglob("*") if path.is_file())
    rows, before = Rows(), requests_of(server)
    floodmap.segment(url, out=folder / "counted", overwrite=True)
    requests = requests_of(server) - before
    before = requests_of(server)
    subprocess.run(
        [sys.executable, "-m", "floodmap_cli.main", "info", url, "-q"], check=True, stdout=subprocess.DEVNULL
    )
    print(
        f"{scene.name}: {ratio:.2f} times the time from disk ({times[-1][1]:.1f} s for {times[-1][0]:.1f} s); rasters "
        f"{'equal' if same else 'DIFFERENT'}; {requests} requests for {rows.count} rows of blocks "
        f"({requests / rows.count:.2f}); info {requests_of(server) - before} requests; signature in outputs: {secret}",
        flush=True,
    )


def uploaded(scene: Path, host: str) -> str:
    """Copy a scene to a new bucket of an S3 server; return its name."""
    import obstore
    from obstore.store import S3Store
    from test_buckets import make_bucket

    os.environ.update(AWS_S3_ENDPOINT=host, AWS_HTTPS="NO", AWS_VIRTUAL_HOSTING="FALSE")
    with suppress(HTTPError):  # the bucket is there
        make_bucket(f"http://{host}/floods")
    store = S3Store("floods", endpoint=f"http://{host}", client_options={"allow_http": True})
    with scene.open("rb") as file:
        obstore.put(store, scene.name, file)
    return f"s3://floods/{scene.name}"


@contextmanager
def bucket(scene: Path) -> Iterator[str]:
    """Serve one scene from an S3 server within the `with` block; yield its name."""
    from test_buckets import PROGRAM

    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            host = f"127.0.0.1:{process.stdout.readline().decode().strip()}"
            keys = {"AWS_ACCESS_KEY_ID": "KEYNAME", "AWS_SECRET_ACCESS_KEY": "SECRET", "AWS_REGION": "us-east-1"}
            os.environ.update(keys)
            yield uploaded(scene, host)
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="*", default=[ROOT / "sample_tiles" / "village.tif"])
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before every answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--s3-server", metavar="HOST:PORT", help="a server that runs already")
    options = parser.parse_args()
    for scene in options.scenes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if not options.s3 and not options.s3_server:
                with serving(scene.resolve().parent, latency_s=options.latency) as server:
                    show(scene.resolve(), server, options.rounds, folder)
                continue
            with nullcontext(uploaded(scene, options.s3_server)) if options.s3_server else bucket(scene) as source:
                local, remote = segment(str(scene), folder / "local"), segment(source, folder / "remote")
                same = digest(folder / "local") == digest(folder / "remote")
                print(json.dumps({"scene": scene.name, "same_bytes": same, "ratio": round(remote / local, 2)}))


if __name__ == "__main__":
    main()
