"""A worker has the speed of its machine measured once, while it is idle."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from models.training.cost.throughput import ASSUMED, store_throughput
from worker.runtime import throughput
from worker.runtime.throughput import ThroughputMeter, throughput_file
from worker.settings import Settings

WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('measured')"


def meter(settings: Settings, monkeypatch: pytest.MonkeyPatch, code: str, busy: Callable[[], bool]) -> ThroughputMeter:
    monkeypatch.setattr(throughput, "_QUIET_S", 0.05)
    monkeypatch.setattr(throughput, "_TICK_S", 0.01)
    monkeypatch.setattr(throughput, "_load", lambda: 0.0)
    made = ThroughputMeter(settings, "cpu", busy)
    monkeypatch.setattr(made, "_command", lambda: [sys.executable, "-c", code, str(settings.home / "result")])
    return made


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_an_idle_worker_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = meter(Settings(home=tmp_path), monkeypatch, WRITE, lambda: False)
    measuring.start()
    assert wait_until((tmp_path / "result").is_file)
    measuring.stop()


def test_a_busy_worker_or_machine_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = meter(Settings(home=tmp_path), monkeypatch, WRITE, lambda: True)
    measuring.start()
    time.sleep(0.3)
    measuring.stop()
    measuring = meter(Settings(home=tmp_path), monkeypatch, WRITE, lambda: False)
    monkeypatch.setattr(throughput, "_load", lambda: 100.0)
    measuring.start()
    time.sleep(0.3)
    measuring.stop()
    assert not (tmp_path / "result").exists()


def test_a_job_interrupts_a_measurement_which_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    code = f"import pathlib, sys, time; p = pathlib.Path({str(started)!r}); again = p.exists(); p.touch(); "
    code += f"again or time.sleep(60); {WRITE}"
    job = False
    measuring = meter(Settings(home=tmp_path), monkeypatch, code, lambda: job)
    measuring.start()
    assert wait_until(started.exists)
    job = True
    time.sleep(0.2)
    job = False
    assert wait_until((tmp_path / "result").is_file)
    measuring.stop()


def test_what_is_stored_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    store_throughput(throughput_file(settings, "cpu"), ASSUMED)
    measuring = meter(settings, monkeypatch, WRITE, lambda: False)
    measuring.start()
    time.sleep(0.3)
    measuring.stop()
    assert not (tmp_path / "result").exists()


def test_the_command_measures_this_device_with_these_threads(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, train_threads=3)
    command = ThroughputMeter(settings, "cuda:1", lambda: False)._command()
    assert "models.training.cost.measure" in command
    assert str(throughput_file(settings, "cuda")) in command
    assert command[command.index("--threads") + 1] == "3"
    assert command[command.index("--device") + 1] == "cuda"
