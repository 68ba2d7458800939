"""A worker process of `LocalPool`. It reads calls from standard input and writes results to standard output."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from floodmap._runtime.memory import configure_low_memory

BROKEN_GPU = 71
"""Exit code of a process that ended because its GPU failed."""
GRACE_S = 3.0
"""Time in seconds that an idle process has to delete its temporary files, after standard input has ended."""


def main(device: str, share: str) -> None:
    """Run calls until standard input ends. The arguments come from the command line of the process.

    Args:
        device: torch device of the model, such as `cpu` or `cuda:1`.
        share: number of worker processes that share the cores of this machine.
    """
    configure_low_memory()  # before numpy, torch and rasterio are imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent ends this one
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that libraries print goes to standard error
    logger = logging.getLogger("floodmap")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False  # the parent process logs the outcome of each window
    from floodmap.scaleout.workers.worker import release, settle

    settle(device, int(share))
    calls: SimpleQueue[Any] = SimpleQueue()
    busy = threading.Lock()
    threading.Thread(target=_listen, args=(calls, busy), daemon=True).start()
    while (call := calls.get()) is not None:
        with busy:
            answer = _answer(*call)
        with suppress(OSError):  # the parent process has ended
            channel.write(answer)
            channel.flush()
    release()
    os._exit(0)


def _listen(calls: SimpleQueue[Any], busy: threading.Lock) -> None:
    """Read calls from standard input and put them into `calls`.

    Standard input ends when the pool is closed or the parent process has ended. If a call runs then (`busy` is locked),
    this process exits at once, because the call may write files or take hours.
    """
    while True:
        try:
            calls.put(pickle.load(sys.stdin.buffer))
        except EOFError:
            if busy.locked():
                os._exit(1)
            calls.put(None)
            time.sleep(10 * GRACE_S)  # the pool, if it still exists, kills this process earlier
            os._exit(1)
        except Exception as error:  # for example a function that this installation of floodmap does not have
            calls.put((_fail, (f"{type(error).__name__}: {error}",)))


def _answer(function: Any, args: tuple[Any, ...]) -> bytes:
    """Run a call; return a pickled pair: True and the result, or False and the exception.

    If the GPU of this process failed, the process ends: no later call in it would succeed.
    """
    from floodmap.scaleout.workers.worker import BrokenGpuError

    try:
        return pickle.dumps((True, function(*args)), 5)
    except BrokenGpuError:
        os._exit(BROKEN_GPU)
    except BaseException as error:
        try:
            pickled = pickle.dumps((False, error), 5)
            pickle.loads(pickled)  # some exceptions can be pickled, but not restored
            return pickled
        except Exception:
            return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")), 5)


def _fail(why: str) -> None:
    raise RuntimeError(why)


if __name__ == "__main__":
    main(*sys.argv[1:])
