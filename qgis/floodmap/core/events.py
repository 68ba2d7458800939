"""Lines of `floodmap --progress json` on standard error."""

from __future__ import annotations

import json
from typing import Any, Dict, NamedTuple, Optional

LEVELS = ("debug", "info", "warning", "error", "critical")
STAGES = {
    "segment": "Computing windows",
    "blend": "Blending frames",
    "write": "Writing results",
    "compare": "Comparing",
    "before": "Segmenting the first date",
    "after": "Segmenting the second date",
}
"""Text of each stage."""


class Event(NamedTuple):
    """One line of the program."""

    kind: str
    """"progress", "message", "watching", "correcting" or "done"."""
    level: str = "info"
    """Level of a message: one of `LEVELS`."""
    text: str = ""
    """The message, or the text beside the progress."""
    share: Optional[float] = None
    """Finished share of the stage, 0 to 1; None if it is unknown."""
    stage: str = ""
    """Name of the stage."""
    code: int = 0
    """Exit code of what has ended, of "watching" and "done"."""


def parse(line: str) -> Event:
    """Return the event of a line. A line that is no event is a message: a warning of another library, for example."""
    line = line.strip()
    found: Dict[str, Any] = {}
    if line.startswith("{"):
        try:
            found = json.loads(line)
        except ValueError:
            found = {}
    kind = found.get("event")
    if kind == "progress":
        return Event("progress", text=_text(found), share=_share(found), stage=str(found.get("stage") or ""))
    if kind == "message":
        level = found.get("level")
        return Event("message", level if level in LEVELS else "info", str(found.get("text") or ""))
    if kind in ("watching", "correcting", "done"):
        code = found.get("exit_code")
        return Event(kind, code=code if isinstance(code, int) else 0)
    return _plain(line)


def _plain(line: str) -> Event:
    """Return the message of a line of text, such as `floodmap: warning: ...` or `Error: No such option`."""
    for begin, level in (("floodmap: error: ", "error"), ("floodmap: warning: ", "warning"), ("Error: ", "error")):
        if line.startswith(begin):
            return Event("message", level, line[len(begin) :])
    return Event("message", "info", line[len("floodmap: ") :] if line.startswith("floodmap: ") else line)


def _share(found: Dict[str, Any]) -> Optional[float]:
    done, total = found.get("done"), found.get("total")
    if not isinstance(done, (int, float)) or not isinstance(total, (int, float)) or total <= 0:
        return None
    return min(max(done / total, 0.0), 1.0)


def _text(found: Dict[str, Any]) -> str:
    stage = str(found.get("stage") or "")
    shown = STAGES.get(stage, str(found.get("text") or stage))
    if found.get("unit") in ("windows", "scenes") and stage != "write":
        shown += f": {found.get('done')} of {found.get('total')} {found['unit']}"
    return shown
