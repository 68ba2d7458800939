"""A worker process of `LocalPool`. It reads calls from standard input and writes results to standard output."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from queue import SimpleQueue
from typing import Any

from floodmap._runtime.memory import configure_low_memory


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
    from floodmap.scaleout.workers.worker import settle

    settle(device, int(share))
    calls: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    while True:
        function, args = calls.get()
        channel.write(_answer(function, args))
        channel.flush()


def _listen(calls: SimpleQueue[Any]) -> None:
    """Read calls from standard input. If the parent process has ended, end this process at once."""
    while True:
        try:
            calls.put(pickle.load(sys.stdin.buffer))
        except EOFError:
            os._exit(1)
        except Exception as error:  # for example a function that this installation of floodmap does not have
            calls.put((_fail, (f"{type(error).__name__}: {error}",)))


def _answer(function: Any, args: tuple[Any, ...]) -> bytes:
    """Run a call; return a pickled pair: True and the result, or False and the exception."""
    try:
        return pickle.dumps((True, function(*args)), 5)
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
