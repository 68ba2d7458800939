"""Entry point of `floodmap`.

The module of a command is imported only if the command runs. An exception becomes one line of text and an exit code.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from floodmap.errors import FloodmapError

from .lines import lines
from .log import configure_logging, debugging

COMMANDS = {
    "segment": "Find flood water in scenes; write rasters and polygons.",
    "mosaic": "Map many overlapping frames as one product.",
    "change": "Compare two dates: newly flooded, receded, unchanged water.",
    "info": "Print how floodmap reads a scene, without segmenting it.",
    "evaluate": "Score predictions against references.",
    "review": "Find places worth a look, and take edits into a result.",
    "exposure": "Count buildings, roads and people under water by district.",
    "adapt": "Adapt a model to your corrections of one scene.",
    "train": "Train a model on labelled imagery.",
    "compare": "Score models and prompts on labelled pictures.",
    "vectorize": "Trace a mask or probability raster as polygons.",
    "models": "List, fetch and check the models.",
    "sample": "Write a synthetic flooded scene and its reference.",
}
"""Mapping from the name of each command to the short help. The module of a command has the same name as the command.

The short helps are defined here, because `floodmap --help` must not import the modules.
"""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as in shells."""


class LazyGroup(click.Group):
    """Group of commands that are imported when they run: --help needs neither torch nor rasterio nor numpy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order in which a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; return None if there is no command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f".commands.{cmd_name}", __package__), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the section of the help text that lists the commands, with the short helps of `COMMANDS`."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from floodmap import __version__

        click.echo(f"floodmap {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def cli() -> None:
    """Flood polygons from georeferenced aerial rasters.

    One command finds the flood and writes the polygons, without an internet connection:

        floodmap segment scene.tif --model finetuned
    """


def _report(error: Exception, message: str) -> None:
    """Write an error message as one line to standard error, after the traceback if `debugging()` is True."""
    if debugging():
        import traceback

        traceback.print_exception(error)
    lines.message("error", message)


def _drop_pipes() -> None:
    # The reader of a pipe has ended (`floodmap info x.tif | head`). Python flushes both once more at exit, and would
    # raise again: see the note on SIGPIPE in the documentation of the signal module.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        args: arguments after `floodmap`; None: the arguments of this process.

    Returns:
        The exit code. 0: done. 1: the command failed, or refused an input, or `models` found a damaged or missing file.
        2: wrong usage. 3: done in part: some windows, frames or scenes failed (`segment`, `mosaic`), or some models
        could not be downloaded (`compare`). 130: interrupted.
    """
    lines.as_json = False
    configure_logging(0)
    try:
        code = _run(args)
        lines.event("done", exit_code=code)
    except BrokenPipeError:
        _drop_pipes()
        code = 1
    return code


def _run(args: Sequence[str] | None) -> int:
    """Run one command line; return its exit code."""
    try:
        result = cli.main(args=args, prog_name="floodmap", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        if lines.as_json:
            lines.message("error", error.format_message())
        else:
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        # click turns a KeyboardInterrupt into an Abort without its message.
        advice = str(error) or str(error.__cause__ or "")
        lines.message("info", f"interrupted{': ' if advice else ''}{advice}")
        return INTERRUPTED
    except FloodmapError as error:
        _report(error, str(error))
        return 1
    except BrokenPipeError:
        raise
    except UnicodeEncodeError as error:
        name = os.fsencode(error.object).decode("utf-8", "replace")
        _report(error, f"{name}: the name of a file or folder is not UTF-8; rename it first")
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None and error.errno == errno.ENAMETOOLONG:
            _report(error, f"{os.fsdecode(error.filename)}: the name is too long for a file; choose a shorter one")
            return 1
        hint = "" if debugging() else " (for the traceback: -vv or FLOODMAP_DEBUG=1)"
        _report(error, f"unexpected {type(error).__name__}: {error}{hint}")
        return 1
    return result if isinstance(result, int) else 0


def main() -> None:
    """Run the `floodmap` script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
