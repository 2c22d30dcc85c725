"""Scores the images that arrive in a folder, as a camera or a scanner writes them, until Ctrl-C.

    python examples/watch_folder.py incoming --model my-parts --source line-1 --anomalies strange

Each image gets a line here and a row in a CSV file. A row is on the disk before the next one is written, so that after
a restart no image gets a second row and none is left out. An image is scored once its size and time are the same in two
looks; one that is overwritten later is scored again. Anomalies are copied into a folder, each with a map of where it is
unusual. While the service restarts this program waits; a file that is no image gets a row that says so. With --source
the service watches this line for drift. SNF_URL and SNF_API_KEY name the service.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType

from score_table import Row, ScoreTable, State, states_in

from snf_client import (
    Busy,
    Client,
    ClientError,
    InvalidRequest,
    Retries,
    ServiceFailed,
    ServiceUnavailable,
    heat_map_png,
)

IN_FLIGHT = 4
"""Images on their way; the service scores those that wait together."""
AT_ONCE = 256
"""Most images between two looks at the folder."""
RETRIES = Retries(attempts=3)
"""Few: this program comes back by itself, and Ctrl-C waits for what is on its way."""
PASSING = (ServiceUnavailable, ServiceFailed, Busy)
"""What the next look may find better."""


@dataclass(frozen=True)
class Scored:
    """An image's row, its bytes, and the map of where it is unusual, PNG."""

    row: Row
    data: bytes = b""
    heat_map: bytes | None = None


def score(client: Client, asked: argparse.Namespace, state: State) -> Scored | ClientError | None:
    """What the service says of an image; None where it is gone, an error where it should be tried again."""
    path: Path = asked.folder / state.file
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Scored(Row.failed(state, f"cannot be read: {error.strerror}"))
    ask = {"alpha": asked.alpha, "explain": asked.anomalies is not None, "source": asked.source, "in_flight": 1}
    try:
        [part] = client.score_parts(asked.model, data, **ask)
    except PASSING as error:
        return error
    except InvalidRequest as error:
        if error.status != 413:
            raise
        return Scored(Row.failed(state, str(error)))
    heat_map = part.results[0].heat_map if part.results[0].status == "ok" else None
    return Scored(Row.of(state, part), data, heat_map_png(heat_map) if heat_map is not None else None)


def keep(scored: Scored, folder: Path) -> None:
    """Copies an anomaly and its map; other images of the same name stay."""
    name = Path(scored.row.file)
    target = folder / name.with_name(f"{name.stem}-{hashlib.sha256(scored.data).hexdigest()[:8]}{name.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(scored.data)
    if scored.heat_map is not None:
        target.with_suffix(".map.png").write_bytes(scored.heat_map)


def watch(client: Client, table: ScoreTable, asked: argparse.Namespace, stop: Event) -> None:
    """Scores what arrives until it shall stop; with --once until nothing is left to do."""
    before: set[State] = set()
    pool = ThreadPoolExecutor(IN_FLIGHT)
    try:
        while not stop.is_set():
            now = states_in(asked.folder)
            ready = sorted((now & before) - table.states, key=lambda state: state.modified_ns)[:AT_ONCE]
            trouble: ClientError | None = None
            for scored in pool.map(partial(score, client, asked), ready):
                if stop.is_set():
                    return
                if isinstance(scored, ClientError):
                    trouble = scored
                elif scored is not None:
                    if scored.row.is_anomaly and asked.anomalies is not None:
                        keep(scored, asked.anomalies)
                    table.append(scored.row)  # last: what is not in the table is done again
                    print(scored.row.line(), flush=True)
            if trouble is not None:
                print(f"watch_folder: {trouble}; trying again", file=sys.stderr, flush=True)
            if asked.once and not now - table.states:
                return
            before = now
            stop.wait(asked.every)
    finally:
        pool.shutdown(cancel_futures=True)


def stop_on_signals(stop: Event) -> None:
    """Makes the first INT or TERM set `stop`; a second one ends the program at once."""

    def ask(number: int, _frame: FrameType | None) -> None:
        # No exception: it could come out of a line where it is lost.
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", help="name of this line, for the service's watch on drift")
    parser.add_argument("--alpha", type=float, help="false-alarm rate (0.01, or the smallest that can be)")
    parser.add_argument("--anomalies", type=Path, metavar="FOLDER", help="where anomalies are copied to")
    parser.add_argument("--table", type=Path, default=Path("scores.csv"), help="(%(default)s)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two looks (%(default)s)")
    parser.add_argument("--once", action="store_true", help="end when all images there are scored")
    asked = parser.parse_args()
    if not asked.folder.is_dir():
        parser.error(f"{asked.folder} is no folder")
    if asked.anomalies is not None and asked.anomalies.resolve().is_relative_to(asked.folder.resolve()):
        parser.error("--anomalies would be watched, too: it must lie outside FOLDER")
    return asked


if __name__ == "__main__":
    asked = arguments()
    stop = Event()
    stop_on_signals(stop)
    try:
        with Client(retries=RETRIES) as client, closing(ScoreTable(asked.table)) as table:
            watch(client, table, asked, stop)
        if stop.is_set():
            print("watch_folder: stopped", file=sys.stderr)
    except (ClientError, OSError, ValueError) as error:
        sys.exit(f"watch_folder: {error}")
