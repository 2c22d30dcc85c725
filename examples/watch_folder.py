"""Score the images that arrive in a folder, as a camera or a scanner writes them, until Ctrl-C.

    python examples/watch_folder.py incoming --model my-parts --source line-1 --anomalies strange

Every image gets a line on the terminal and a row in a CSV file. Each row is on disk before the next is written: after a
restart no image gets a second row and none is left out. An image is scored once its size and time of change are the
same at two checks of the folder; an image that is overwritten later is scored again. Anomalies are copied into a
folder, each with its heat map. The program waits while the service restarts. A file that cannot be judged gets a row
with the reason; texts, hidden files and those of systems are counted. The service watches the images for drift, under
the name --source or that of the folder. SNF_URL and SNF_API_KEY are the address and the key of the service.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType

from score_table import FileState, Row, ScoreTable, states_in

from snf_client import (
    Busy,
    Client,
    ClientError,
    Retries,
    ServiceFailed,
    ServiceUnavailable,
    heat_map_png,
)
from snf_client.images import files_in

IN_FLIGHT = 4
"""Images that are sent at a time; the service scores them together."""
MAX_IMAGES = 256
"""Images between two checks of the folder at most."""
RETRIES = Retries(attempts=3)
"""Few, because the program tries again by itself and Ctrl-C waits for the images in flight."""
NOT_JUDGED = 4
"""Exit code of --once where a file was not judged, as that of `snf score`."""
TEMPORARY = (ServiceUnavailable, ServiceFailed, Busy)
"""Errors after which an image is sent again at the next check."""


@dataclass(frozen=True)
class Scored:
    """A scored image: its row, its bytes, and its heat map as PNG."""

    row: Row
    data: bytes = b""
    heat_map: bytes | None = None


def score(client: Client, options: argparse.Namespace, state: FileState) -> Scored | ClientError | None:
    """Score an image; return None if it is gone, and an error if it should be sent again."""
    path: Path = options.folder / state.file
    if not path.is_file():
        return Scored(Row.failed(state, "expected a plain file")) if os.path.lexists(path) else None
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Scored(Row.failed(state, f"cannot be read: {error.strerror}"))
    explain = options.anomalies is not None
    try:
        [part] = client.score_parts(
            options.model, data, alpha=options.alpha, explain=explain, source=options.source, in_flight=1
        )
    except TEMPORARY as error:
        return error
    heat_map = part.results[0].heat_map if part.results[0].status == "ok" else None
    return Scored(Row.of(state, part), data, heat_map_png(heat_map) if heat_map is not None else None)


def keep(scored: Scored, folder: Path) -> None:
    """Copy an anomaly and its heat map; earlier images of the same name are kept."""
    name = Path(scored.row.file)
    target = folder / name.with_name(f"{name.stem}-{hashlib.sha256(scored.data).hexdigest()[:8]}{name.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(scored.data)
    if scored.heat_map is not None:
        target.with_suffix(".map.png").write_bytes(scored.heat_map)


def watch(client: Client, table: ScoreTable, options: argparse.Namespace, stop: Event) -> bool:
    """Score arriving images until ``stop`` is set; with --once until all are scored.

    Returns:
        Whether all images that were sent were judged.
    """
    before: set[FileState] = set()
    note: str | None = None
    unjudged = 0
    pool = ThreadPoolExecutor(IN_FLIGHT)
    try:
        while not stop.is_set():
            if (skipped := files_in(options.folder).note) != note:
                note = skipped
                print(f"watch_folder: {note or 'no file is skipped'}", file=sys.stderr)
            now = states_in(options.folder)
            ready = sorted((now & before) - table.states, key=lambda state: state.modified_ns)[:MAX_IMAGES]
            failure: ClientError | None = None
            for scored in pool.map(partial(score, client, options), ready):
                if stop.is_set():
                    return unjudged == 0
                if isinstance(scored, ClientError):
                    failure = scored
                elif scored is not None:
                    if scored.row.is_anomaly and options.anomalies is not None:
                        keep(scored, options.anomalies)
                    table.append(scored.row)  # last: an image that is not in the table is scored again
                    unjudged += scored.row.log_likelihood is None
                    print(scored.row.line(), flush=True)
            if failure is not None:
                print(f"watch_folder: {failure}; trying again", file=sys.stderr, flush=True)
            if options.once and not now - table.states:
                break
            before = now
            stop.wait(options.every)
    finally:
        pool.shutdown(cancel_futures=True)
    return unjudged == 0


def stop_on_signals(stop: Event) -> None:
    """Set ``stop`` at the first INT or TERM signal; a second one ends the program at once."""

    def set_stop(number: int, _frame: FrameType | None) -> None:
        # An exception could come out of any line, and be lost there.
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, set_stop)


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", help="name of the camera or line, which the service watches for drift (FOLDER's)")
    parser.add_argument("--alpha", type=float, help="false-alarm rate (0.01, or the smallest possible)")
    parser.add_argument("--anomalies", type=Path, metavar="FOLDER", help="folder for copies of anomalies")
    parser.add_argument("--table", type=Path, help="CSV file (beside FOLDER: FOLDER-scores.csv)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two checks (%(default)s)")
    parser.add_argument("--once", action="store_true", help="end when all images are scored")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    options.table = options.table or Path(f"{options.folder.resolve()}-scores.csv")
    options.source = options.source or options.folder.resolve().name
    if options.anomalies is not None and options.anomalies.resolve().is_relative_to(options.folder.resolve()):
        parser.error("--anomalies must lie outside FOLDER: its images would be scored, too")
    return options


if __name__ == "__main__":
    options = arguments()
    stop = Event()
    stop_on_signals(stop)
    try:
        with Client(retries=RETRIES) as client, closing(ScoreTable(options.table)) as table:
            complete = watch(client, table, options, stop)
        if stop.is_set():
            print("watch_folder: stopped", file=sys.stderr)
        elif not complete:
            print("watch_folder: not every image was judged; the table says why", file=sys.stderr)
            sys.exit(NOT_JUDGED)
    except (ClientError, OSError, ValueError) as error:
        sys.exit(f"watch_folder: {error}")
