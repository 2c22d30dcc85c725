"""The other processes of a training in several: `python -m worker.attempts.ranks JOB_DIR RANK SIZE RENDEZVOUS THREADS`.

The process of the attempt is the first of them: it alone is asked to stop, writes, and decides how the attempt ends.
It starts the others, which end with it; it ends as an attempt that died, to be tried again, when one of them dies.
"""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from worker.attempts.attempt import JobSpec
from worker.gc_tuning import relax_gc
from worker.jobs.events import EventLog
from worker.runtime.lifeline import Lifeline, child_environment, watch
from worker.runtime.process import explain_exit
from worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from models.training.distributed import Ranks

_GRACE_S = 5.0
"""Time in which the first process ends by itself, as its connection broke, before it is made to."""


class RankDied(Exception):
    """Another process of the training died."""


def threads_each(settings: Settings, size: int) -> int | None:
    """The threads of each of `size` processes; None where PyTorch decides."""
    if size == 1:
        return settings.train_threads
    import torch

    return max(1, (settings.train_threads or torch.get_num_threads()) // size)


@contextmanager
def other_ranks(folder: Path, size: int, threads: int | None, events: EventLog) -> Iterator[Ranks]:
    """Runs `size` - 1 other processes on the job in `folder`, and gives the place of this one; raises `RankDied`."""
    from models.training.distributed import Ranks, joined

    if size == 1:
        yield Ranks.single()
        return
    # They are on one machine: nothing needs to listen on a network.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    with tempfile.TemporaryDirectory(prefix="snf-ranks-") as meeting:
        rendezvous = f"file://{meeting}/rendezvous"
        lifeline = Lifeline()
        others: dict[int, subprocess.Popen[bytes]] = {}
        over = threading.Event()
        try:
            for rank in range(1, size):
                others[rank] = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(folder), *map(str, (rank, size, rendezvous, threads))],
                    stdin=subprocess.DEVNULL,
                    env=child_environment(lifeline.environment),
                    cwd=Path(__file__).resolve().parents[2],
                    pass_fds=[lifeline.fd],
                )
                threading.Thread(target=_watch, args=(rank, others[rank], over, events), daemon=True).start()
            with joined(0, size, rendezvous) as ranks:
                try:
                    yield ranks
                except RuntimeError as error:
                    # RequestedAction before this process leaves, as that ends the others, too.
                    _blame(others, error)
                    raise
        finally:
            over.set()
            for process in others.values():
                process.kill()
                process.wait()
            lifeline.passed()
            lifeline.close()


def _blame(others: Mapping[int, subprocess.Popen[bytes]], error: RuntimeError) -> None:
    """Raises `RankDied` where the error may be a connection that broke because a process died."""
    deadline = time.monotonic() + 1  # its end may be seen a moment later
    while time.monotonic() < deadline:
        for rank, process in others.items():
            if process.poll():
                raise RankDied(_death(rank, process)) from error
        time.sleep(0.05)


def _watch(rank: int, process: subprocess.Popen[bytes], over: threading.Event, events: EventLog) -> None:
    if process.wait() == 0 or over.wait(_GRACE_S):
        return
    # The first process waits for one that will never come, where no exception can reach it.
    detail = _death(rank, process)
    events.write({"event": "error", "type": "attempt-crashed", "title": "The attempt crashed", "detail": detail})
    os._exit(1)


def _death(rank: int, process: subprocess.Popen[bytes]) -> str:
    return f"process {rank + 1} of the training died: {explain_exit(process.returncode)}"


def main() -> int:
    """Takes part in the training of the job that the command line names, until its first process says otherwise."""
    relax_gc()
    # The first process is told to stop and tells the others. Memory limit and niceness are inherited from it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    watch(lambda _message: None, lambda: os._exit(1))
    folder = Path(sys.argv[1])
    rank, size, rendezvous, threads = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    settings = load_settings()
    spec = JobSpec.read(folder)

    from models.datasets import DatasetStore, load_dataset
    from models.errors import ModelsError
    from models.training.distributed import joined
    from models.training.loop import Interrupted
    from models.training.presets import find_preset
    from models.training.run import train

    config = find_preset(spec.preset).config(spec.parameters)
    datasets = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
    dataset = load_dataset(spec.dataset, settings.data_dir, datasets, config)
    with joined(rank, size, rendezvous) as ranks:
        try:
            train(
                dataset,
                spec.preset,
                config,
                folder,
                observe=lambda _event: None,
                should_stop=lambda: False,
                threads=threads,
                ranks=ranks,
            )
        except (Interrupted, ModelsError):
            return 0  # all processes come to it at the same step, and the first one reports it
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
