"""The command line ``beamsteer``: one module per verb, each importing its engine when it runs."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from simulations.errors import SHORTAGES, InputError, StorageError
from steering.cli._complaints import UsageError, complaint_of, usage_complaint
from steering.cli._terminal import complain, print_json
from steering.cli._verbs import Verbs

__all__ = ["app", "main"]

app = typer.Typer(
    name="beamsteer",
    cls=Verbs,
    help="Steers a running inelastic-neutron-scattering experiment: chunks of one crystal "
    "orientation go in, force constants and the next orientation come out.",
    epilog="Start with: beamsteer demo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if not asked:
        return
    from importlib import metadata

    typer.echo(f"beamsteer {metadata.version('beamsteer')}")
    raise typer.Exit


@app.callback()
def begin(
    version: Annotated[  # noqa: ARG001  its callback has answered
        bool,
        typer.Option("--version", is_eager=True, callback=_tell_version, help="Print the version."),
    ] = False,
) -> None:
    """Read secrets from files; keep stdout for results, and log below warnings when debugging."""
    from steering.cli._secret_files import read_secret_files

    read_secret_files()
    import logging  # here: `beamsteer --help` comes before it and logs nothing

    import structlog

    level = logging.DEBUG if os.environ.get("BEAMSTEER_DEBUG") else logging.WARNING
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


OK, INTERNAL, BAD_INPUT = 0, 1, 2
AWAY = 75  # EX_TEMPFAIL: a supervisor may try again, which it should not after bad input


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit.

    0: done; 3: done, with an alarm (of `align`, `inspect` and `replay`, which say what they call
    one); 2: bad input, which somebody must edit; 75: what may pass, such as a broker that is
    away or a folder that is full, locked or read-only; 1: a fault of Beamsteer. Bad input is told
    in one message on stderr, without a traceback; ``BEAMSTEER_DEBUG=1`` adds it. With ``--json``
    it is told on stdout as well, as an object (:mod:`steering.cli._complaints`).
    """
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status that :func:`main` explains."""
    given = sys.argv[1:] if arguments is None else arguments
    told = _in_json if "--json" in given else _in_words
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(args=given, prog_name="beamsteer", standalone_mode=told is _in_words)
        return status if isinstance(status, int) else OK
    except SystemExit as ending:  # typer's own: help, usage errors, interruption
        return ending.code if isinstance(ending.code, int) else OK
    except typer.Abort:
        return INTERNAL
    except UsageError as error:
        complaint = usage_complaint(error)
        told(complaint)
        return complaint["status"]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (InputError, OSError) as error:
        _trace()
        status = AWAY if _passes(error) else BAD_INPUT
        told(complaint_of(_said(error), status, file=getattr(error, "filename", None)))
        return status
    except MemoryError as error:
        _trace()
        told(
            complaint_of(
                f"this needs more memory than there is ({error or 'none left'}); expected a "
                "smaller task. Ask for fewer bins, coarser voxels or fewer points.",
                BAD_INPUT,
            )
        )
        return BAD_INPUT
    except Exception as error:
        _trace()
        fault = _faults_of_section(error)
        if fault:
            told(complaint_of(fault, BAD_INPUT))
            return BAD_INPUT
        told(
            complaint_of(
                f"{type(error).__name__}: {error}\n"
                "This is a fault of Beamsteer, not of your input. Run again with BEAMSTEER_DEBUG=1 "
                "and report what it prints.",
                INTERNAL,
            )
        )
        return INTERNAL


def _in_words(complaint: dict[str, Any]) -> None:
    complain(complaint["message"])


def _in_json(complaint: dict[str, Any]) -> None:
    """Words for people who read the log, and one object for the program that reads stdout."""
    complain(complaint["message"])
    print_json({"error": complaint})


PASSING = SHORTAGES | {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EBUSY}


def _passes(error: Exception) -> bool:
    """Whether trying again later may help, without anybody editing what was given.

    A broker that is away, a state folder that is full, locked or read-only, handles that are short.
    """
    passing = (ConnectionError, BlockingIOError, StorageError, TimeoutError)
    return isinstance(error, passing) or getattr(error, "errno", None) in PASSING


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return (
            f"{error.filename}: {error.strerror}; expected what this command can read or write "
            "there. Correct the path, or what stands at it."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        if not isinstance(error, StorageError):  # which names the file itself
            return (
                f"the output cannot be written ({error.strerror}); expected room on its disk. Make "
                "room, or name another folder, and run it again."
            )
    return str(error) or type(error).__name__


def _faults_of_section(error: Exception) -> str:
    """What is wrong with a section of settings that options made; empty for any other error."""
    if "pydantic" not in sys.modules:  # it is not imported for this alone
        return ""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError) or not error.title.endswith(("Section", "Topics")):
        return ""
    return "\n".join(
        f"{'.'.join(map(str, one['loc'])) or 'connection'} is {one['input']!r:.80}; expected "
        f"{one['msg']}"
        for one in error.errors(include_url=False)
    )


def _trace() -> None:
    if os.environ.get("BEAMSTEER_DEBUG"):
        traceback.print_exc()
