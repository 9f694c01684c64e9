"""What verbs share on the terminal: results to stdout, progress and complaints to stderr."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from simulations.progress import Progress, silent

if TYPE_CHECKING:
    from structlog.typing import EventDict

    from steering.run import VerdictWord, Words

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on stdout.")]
ExperimentPath = Annotated[
    Path, typer.Option("--experiment", "-e", help="The experiment file (YAML).")
]


ALARM = 3
"""Exit status: done, and something is wrong with what was looked at."""

RunStatus = Literal["running", "finished", "failed"]


class LogKind(StrEnum):
    """How a service logs."""

    TEXT = "text"
    JSON = "json"


Log = Annotated[
    LogKind, typer.Option("--log", help="Log lines on stderr: text, or one JSON object each.")
]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class _Stderr:
    """The stderr of the moment, which may be another one than when logging began."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def log_to_stderr(kind: LogKind) -> None:
    """Log what a service does from now on: events with their time, level and fields."""
    import structlog

    renderer = (
        structlog.processors.JSONRenderer()
        if kind is LogKind.JSON
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),  # pyright: ignore
    )


def complain(message: str) -> None:
    """Say on stderr what went wrong."""
    for line in message.splitlines():
        err.print(f"[bold red]error:[/] {escape(line)}")


def say(message: str) -> None:
    """Say something on stderr that is not the result."""
    err.print(message)


def print_json(value: Any) -> None:
    """Print JSON on stdout; NaN and infinity become null."""
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Dicts, lists, text and finite numbers only: numpy unpacked, NaN as None, paths as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Show a bar on stderr, or a line per step where stderr is no terminal.

    Yields a function ``(message, fraction)`` with the fraction of the work done, 0 to 1.
    """
    if quiet:
        yield silent
        return
    if not err.is_terminal:
        last = ""

        def tell(message: str, fraction: float) -> None:
            nonlocal last
            if message != last:
                err.print(f"{title}: {escape(message)} ({fraction:.0%})")
                last = message

        yield tell
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.fields[title]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Bars(*columns, console=err, transient=True) as bars:
        task = bars.add_task("", total=1.0, title=title)
        yield lambda message, fraction: bars.update(
            task, completed=min(max(fraction, 0.0), 1.0), description=escape(message)
        )


def table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, faint: bool = False
) -> None:
    """Print a table; every column but the first is flush right, and figures in doubt are faint."""
    from rich.table import Table

    shown = Table(title=title, title_justify="left", title_style="bold")
    for i, head in enumerate(heads):
        shown.add_column(head, justify="left" if i == 0 else "right")
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row), style="dim" if faint else None)
    out.print(shown)


def print_bundle(card: dict[str, Any], output: Path, *, as_json: bool) -> None:
    """What a bundle that was trained just now can do, and where it is."""
    if as_json:
        print_json(card)
        return
    table(
        "Measured on unseen formulas",
        ["", ""],
        [[row["what"], row["figure"]] for row in card["measured"]],
    )
    out.print(f"The bundle is in {output}; its model card says what it can do.")


def number(value: Any, digits: int = 4) -> str:
    """Show a number in ``digits`` significant digits, and what is no number as a dash."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "-"
    return f"{value:.{digits}g}"


@contextmanager
def set_aside_told_once() -> Iterator[None]:
    """Leave set-aside chunks out of the log: ``print_set_aside`` names them at the end."""
    import structlog

    processors = structlog.get_config()["processors"]
    structlog.configure(processors=[_without_set_aside, *processors])
    try:
        yield
    finally:
        structlog.configure(processors=processors)


def _without_set_aside(_: Any, __: str, event: EventDict) -> EventDict:
    import structlog

    if event.get("event") == "chunk_set_aside":
        raise structlog.DropEvent
    return event


def print_set_aside(chunks: Sequence[dict[str, Any]]) -> str:
    """Name the chunks that were set aside, with the reason.

    Returns
    -------
    str
        How many of how many, for the last line; empty if there are none.
    """
    aside = [chunk for chunk in chunks if chunk.get("status") == "set aside"]
    for chunk in aside:
        name, reason = escape(str(chunk["chunk"])), escape(str(chunk["reason"]))
        out.print(f"[yellow]set aside[/] {name}: {reason}")
    return f"; {len(aside)} of {len(chunks)} files set aside" if aside else ""


def print_words(words: Words) -> None:
    """Print the four words of a run as the page has them, with all that there is to say."""
    styles = {
        "good": "bold green",
        "bad": "bold yellow",
        "plain": "bold",
        "old": "bold bright_black",
    }
    for title, one in words.titled:
        word = one.word.replace("°", " degrees")
        why = "; ".join(one.evidence)
        out.print(
            f"{title:<12} [{styles[one.tone]}]{escape(word)}[/]"
            + (f"  {escape(why)}" if why else "")
        )
        if one is words.trust:
            print_reasons(one)


def print_reasons(trust: VerdictWord) -> None:
    """Print what the two lines of a verdict on trust do not hold."""
    for reason in trust.more:
        out.print(f"  - {escape(reason)}")


def _words_of(result: dict[str, Any], status: RunStatus) -> Words | None:
    """Words of a whole result; None where there is only a fit."""
    if "stop" not in result or "schema_version" not in result:
        return None
    from steering.run import result_document, words_of

    return words_of(result_document(result), status=status)


def _print_trust(result: dict[str, Any]) -> None:
    """Print the verdict on a fit that belongs to no run."""
    from steering.run import trust_word

    trust = trust_word(
        trusted=result["trusted"],
        reasons=result.get("reasons", []),
        explained=result.get("trust") == "cannot tell yet",
    )
    style = "bold green" if result["trusted"] else "bold yellow"
    why = "; ".join(trust.evidence)
    out.print(f"{'Trust':<12} [{style}]{escape(trust.word)}[/]  {escape(why)}")
    print_reasons(trust)


def print_result(
    result: dict[str, Any],
    *,
    truth: dict[str, float] | None = None,
    status: RunStatus = "finished",
) -> None:
    """Print a run's result: parameters, the words of its verdict, next orientations, events."""
    heads = ["parameter", "estimate", "sigma", "90 % interval"]
    rows = []
    for one in result.get("parameters", []):
        low, high = one.get("interval90") or (None, None)
        row = [
            str(one["name"]),
            number(one["value"]),
            number(one["sigma"], 2),
            f"{number(low)} .. {number(high)}",
        ]
        if truth is not None:
            true = truth.get(one["name"])
            row.insert(1, number(true))
            if true is None or low is None or high is None:
                row.append("-")
            else:
                row.append("yes" if low <= true <= high else "no")
        rows.append(row)
    if truth is not None:
        heads.insert(1, "truth")
        heads.append("holds truth")
    unit = next((one.get("unit") for one in result.get("parameters", [])), None)
    doubted = result.get("trusted") is False
    table(f"Force constants{f', {unit}' if unit else ''}", heads, rows, faint=doubted)
    words = _words_of(result, status)
    if words is not None:
        print_words(words)
    elif "trusted" in result:
        _print_trust(result)
    advice = (result.get("advice") or []) if words is None or words.advice.code != "hidden" else []
    if advice:
        policy = advice[0].get("policy") or result.get("policy")
        tests = doubted and result.get("trust") != "cannot tell yet"
        table(
            "Next orientations, best first" + (f" ({policy})" if policy else ""),
            ["psi, degrees", "Ei, meV", "minutes", "gain per minute"],
            [
                [
                    number(one.get("psi_deg")),
                    number(one.get("ei_meV")),
                    "to test the model" if tests else number(one.get("minutes"), 3),
                    number(one.get("gain_per_minute"), 3),
                ]
                for one in advice[:8]
            ],
        )
    events = result.get("events") or {}
    if events:
        out.print("events: " + ", ".join(f"{key} {value:,}" for key, value in events.items()))
