"""What all commands share: the two consoles, progress, errors and exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from pipeline.errors import PipelineError, printable
from pipeline.system.packages import as_typed, import_error

if TYPE_CHECKING:
    from pipeline.data.dataset import Quarantined
    from pipeline.features.computing import Workers
    from pipeline.features.store import FeatureStore


SOME_FILES_UNUSABLE = 3

GOES_ON = "kept: the same command goes on from there"
WITH_JSON = "the same command with --json"
MORE_MEMORY = "close other programs, or use a machine with more memory"
LINE_EVERY_SECONDS = 10.0
_MEASURED_SECONDS = 2.0  # before that, the time left is a guess
_SHOWN_REASONS = 20
_SHOWN_FILES = 3  # of one reason


class _SafeConsole(Console):
    """Shows as escapes the control characters that libraries' texts hold; for names see `shown`."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text of a string: all that is printed, also in tables, comes through here."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


out = _SafeConsole(highlight=False, emoji=False)
err = _SafeConsole(stderr=True, highlight=False, emoji=False)


def complete_streams() -> None:
    """Give this process the streams that it lacks, and let them escape what they cannot encode.

    A service may have no standard error. The next file opened would get its number, and with it
    what libraries write there.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout, sys.stderr = _or_nowhere(sys.stdout), _or_nowhere(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _or_nowhere(stream: TextIO | None) -> TextIO:
    """Return a stream, or one to nowhere if there is none or nothing can be written to it."""
    with contextlib.suppress(AttributeError, OSError):
        with contextlib.suppress(io.UnsupportedOperation):  # one in memory
            os.write(stream.fileno(), b"")  # type: ignore[union-attr]
        return stream  # type: ignore[return-value]
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 -- for good


def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Say in plain words, once, what matters of libraries' warnings; the rest is for programmers.

    What is wrong with images and classes is found and told otherwise.
    """
    if category.__name__ == "ConvergenceWarning" and not _told:
        _told.append(message)
        err.print("The training of a classifier ended before it had converged.")


_told: list[object] = []


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: stop as for Ctrl-C."""


def _stop(number: int, _: object) -> NoReturn:
    raise _Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _stop_again(lost: sys.UnraisableHookArgs) -> None:
    """Send a stop once more that came where Python drops exceptions, as in `__del__`."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGTERM if isinstance(lost.exc_value, _Terminated) else signal.SIGINT
    again = threading.Timer(0.01, os.kill, (os.getpid(), number))  # by then this has returned
    again.daemon = True
    again.start()


@contextmanager
def reporting_errors(
    kept: str = f"Features made so far are {GOES_ON}",
    *,
    spare: str = "ask for fewer --views, or for classify --stream, or leave out rbf-svm, which "
    "needs most",
) -> Iterator[None]:
    """Turn errors that the user can act on into one message and an exit code, without a traceback.

    A stop and too little memory leave what is `kept`; `spare` says how to do with less memory.
    SIGTERM, which batch systems and containers send, stops the work as Ctrl-C does, and keeps what
    was computed, too.
    """
    sys.unraisablehook = _stop_again
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored
        signal.signal(signal.SIGINT, _stop)
    try:
        yield
    except PipelineError as error:
        _print_error(error)
        raise typer.Exit(1) from None
    except ImportError as error:
        _print_error(import_error(error))
        raise typer.Exit(1) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        file = f": {error.filename}" if error.filename else ""
        _print_error(PipelineError(f"{error.strerror or error}{file}."))
        raise typer.Exit(1) from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "start new thread" not in str(error):
            raise
        err.print(
            f"[red]Error:[/] there is too little memory. {kept}.\nTo do: {spare}",
            soft_wrap=True,
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt as stop:
        err.print(f"Stopped. {kept}.")
        raise typer.Exit(exit_code(stop)) from None


def _print_error(error: PipelineError) -> None:
    first, *rest = str(error).split("\n")
    err.print(f"[red]Error:[/] {escape(first)}", *map(escape, rest), sep="\n", soft_wrap=True)


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a stop by Ctrl-C or by SIGTERM."""
    return 143 if isinstance(stop.__cause__ or stop, _Terminated) else 130


class _Pace:
    """How fast work goes after its first results, which wait for what has to be loaded."""

    def __init__(self) -> None:
        self._first = self._last = 0
        self._since = 0.0

    def measure(self, done: int, now: float) -> float:
        """Return how much is done in a second; 0 until that is known."""
        if done < self._last or not self._first:  # less is done than before: the next work began
            self._first, self._since = done, now
        self._last = done
        seconds = now - self._since
        return (done - self._first) / seconds if seconds > _MEASURED_SECONDS else 0.0


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def progress(
    unit: str = "images", workers: Workers | None = None, *, streams: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Show how far the work is: a bar on a terminal, a line every ten seconds elsewhere.

    Results that the command `streams` to the same terminal would run into a bar.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn(unit + "  {task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
        console=err,
        transient=True,
        redirect_stdout=False,  # to this console, which is standard error
        disable=not err.is_terminal or (streams and out.is_terminal),
    )
    task = bar.add_task("", total=None, rate="", left="", visible=False)
    last_line = 0.0
    pace = _Pace()

    def on_progress(done: int, total: int) -> None:
        nonlocal last_line
        now = time.monotonic()
        last_line = last_line or now
        rate = pace.measure(done, now)
        text = f"{rate:.1f}/s" if rate else "" if done else "loading the network"
        if workers and (rates := workers.rates.values()):
            by = f"by {len(rates)} workers, {min(rates):.1f} to {max(rates):.1f}/s each"
            text = f"{text} {by}".lstrip()
        left = f"{_duration((total - done) / rate)} left" if rate else ""
        bar.update(task, completed=done, total=total, rate=text, left=left, visible=True)
        if bar.disable and done and now - last_line > LINE_EVERY_SECONDS:
            last_line = now
            err.print(", ".join(filter(None, (f"{done:,} of {total:,} {unit}", text, left))))

    with bar:
        yield on_progress


def finish(quarantined: Sequence[Quarantined], *, listed: str = "") -> None:
    """List the files that were skipped, by reason; they also show in the exit code.

    Where not all are shown, `listed` says what lists all of them.
    """
    if not quarantined:
        return
    files = "file" if len(quarantined) == 1 else "files"
    err.print(f"[yellow]{len(quarantined):,} {files} skipped:[/]")
    groups: dict[str, list[Quarantined]] = {}
    for bad in quarantined:
        groups.setdefault(bad.reason, []).append(bad)
    rarest_first = sorted(groups.values(), key=len)
    for group in rarest_first[:_SHOWN_REASONS]:
        _print_skipped(group)
    if more := sum(map(len, rarest_first[_SHOWN_REASONS:])):
        err.print(f"  and {more:,} more")
    if listed and (more or any(len(group) > _SHOWN_FILES for group in rarest_first)):
        err.print(f"  all of them: {shown(listed)}", soft_wrap=True)
    raise typer.Exit(SOME_FILES_UNUSABLE)


def _print_skipped(group: Sequence[Quarantined]) -> None:
    """Name a file and why it is skipped, or some of those that have the same reason."""
    reason, names = shown(group[0].reason), [shown(bad.path) for bad in group[:_SHOWN_FILES]]
    if len(group) == 1:
        err.print(f"  {names[0]}: {reason}", soft_wrap=True)
        return
    names += ["..."] * (len(group) > _SHOWN_FILES)
    err.print(f"  {len(group):,} files: {reason} ({', '.join(names)})", soft_wrap=True)
    if group[0].fix:
        err.print(f"    {shown(group[0].fix)}", soft_wrap=True)


def status_of(data: str, options: Sequence[str]) -> str:
    """Give the command that lists all files of a data set that were skipped."""
    return as_typed(shlex.join(["pipeline", "status", data, *options, "--json"]))


def print_remarks(remarks: Sequence[str]) -> None:
    """Say what to know of how a data set was read."""
    for remark in remarks:
        err.print(f"[yellow]Data:[/] {shown(remark)}", soft_wrap=True)


def propose(why: str, *command: str) -> None:
    """Show a command of this program that can be pasted, and what it is for."""
    out.print(f"next: {shown(why)}", soft_wrap=True)
    out.print(f"  {shown(as_typed(shlex.join(['pipeline', *command])))}", soft_wrap=True)


def print_damaged(store: FeatureStore) -> None:
    """Name the shards that were found damaged and set aside."""
    for bad in store.damaged:
        err.print(
            f"[yellow]The shard {shown(bad.name)} is damaged and set aside:[/] {shown(bad.reason)}",
            soft_wrap=True,
        )


def shown(text: object) -> str:
    """Show a path or a name so that nothing in it can break the output or act as markup."""
    return escape(printable(text))
