"""One run of a program as a child process: its lines as they come, and its end together with all its processes."""

from __future__ import annotations

import os
import queue
import signal
import subprocess  # nosec B404
import threading
import time
from typing import IO, Callable, List, Mapping, NamedTuple, Optional, Sequence

from . import jobs

POLL_S = 0.1
"""Time between two looks at whether the user has cancelled, in seconds."""
GRACE_S = 5.0
"""Time that a cancelled program has to end by itself, in seconds."""
WINDOWS = os.name == "nt"


class Ended(NamedTuple):
    """A run that has ended."""

    code: int
    """Exit code; negative: the number of the signal that ended it."""
    output: str
    """Standard output."""
    cancelled: bool
    """True: the user has ended it."""


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    is_cancelled: Callable[[], bool],
    *,
    folder: Optional[str] = None,
    grace_s: float = GRACE_S,
) -> Ended:
    """Run a program to its end, or until the user cancels it.

    The program has a process group of its own (on Windows: a job object), so that no process of it is left.

    Args:
        command: the program and its arguments.
        environment: all its environment variables.
        on_line: function for each line of standard error. It is called in the thread of `run`.
        is_cancelled: function that says whether the user has cancelled.
        folder: current folder of the program.
        grace_s: time that a cancelled program has to end by itself, in seconds.

    Raises:
        OSError: the program cannot be started.
    """
    # A list of arguments and no shell. The program is the one that the user has installed or chosen.
    child = subprocess.Popen(  # nosec B603
        list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
        env=dict(environment), start_new_session=not WINDOWS, creationflags=jobs.FLAGS if WINDOWS else 0,
    )  # fmt: skip
    job = jobs.assign(child) if WINDOWS else None
    output: List[str] = []
    lines: "queue.Queue[str]" = queue.Queue()
    readers = [_reader(child.stdout, output.append), _reader(child.stderr, lines.put)]
    cancelled = False
    try:
        while child.poll() is None:
            _take(lines, on_line)
            if is_cancelled():
                cancelled = True
                break
    finally:  # also after an error of `on_line`
        end(child, job, grace_s if cancelled else 0.0)
    for reader in readers:  # no process is left that could write
        reader.join(GRACE_S)
    while not lines.empty():
        on_line(lines.get_nowait())
    return Ended(child.wait(), "".join(output), cancelled)


def _reader(pipe: Optional[IO[bytes]], take: Callable[[str], None]) -> threading.Thread:
    """Start a thread that reads the lines of a pipe."""

    def read() -> None:
        if pipe is not None:
            with pipe:
                for line in pipe:
                    take(line.decode("utf-8", "replace"))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _take(lines: "queue.Queue[str]", on_line: Callable[[str], None]) -> None:
    """Pass on the lines that are there, and wait for one if there is none."""
    try:
        on_line(lines.get(timeout=POLL_S))
        while True:
            on_line(lines.get_nowait())
    except queue.Empty:
        return


def end(child: "subprocess.Popen[bytes]", job: Optional[int], grace_s: float) -> None:
    """End a child with all its processes; a finished one has nothing left to end.

    Args:
        child: the process.
        job: its job object on Windows.
        grace_s: time to end by itself after an interrupt, in seconds; 0: no interrupt.
    """
    if grace_s > 0 and child.poll() is None and _interrupt(child):
        _wait(child, grace_s)
    if WINDOWS:
        jobs.close(job, child)
    else:
        _kill_group(child.pid)
    child.wait()


def _interrupt(child: "subprocess.Popen[bytes]") -> bool:
    """Ask all processes of a child to end, as Ctrl-C does; return whether they were asked.

    floodmap then closes its files. A QGIS without a console cannot ask on Windows.
    """
    try:
        if WINDOWS:
            child.send_signal(signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined,unused-ignore]
        else:
            os.killpg(child.pid, signal.SIGINT)
    except OSError:
        return False
    return True


def _wait(child: "subprocess.Popen[bytes]", seconds: float) -> None:
    limit = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < limit:
        time.sleep(POLL_S / 2)


def _kill_group(group: int) -> None:
    """End all processes of a group. The group lives on while one of its processes does, also without the first."""
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        return  # no process is left
