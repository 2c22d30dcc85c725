"""Streams of images: an alarm lasts until it is acknowledged, their number is bounded, and a restart loses nothing."""

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from snf_app.drift import service as drift_service
from snf_app.drift.service import DriftMonitor, DriftReference, Key
from snf_client.schemas.models import Drift
from snf_models.registry.registry import ModelVersion
from snf_runtime.anomaly.calibration import CELLS, statistic_cells
from tests.support.service_settings import service_settings

DIGITS = Key("digits", 1, 0)
COUNTS = np.bincount(statistic_cells(-np.log(np.arange(1, 1000) / 1000)), minlength=CELLS)
OLD = DriftReference("abc", {"statistic": tuple(COUNTS.tolist())})
USUAL_LEVELS = tuple(4 if 200 <= level < 250 else 0 for level in range(256))
LEVELS = replace(OLD, counts=OLD.counts | {"white-level": USUAL_LEVELS})
GENERATOR = np.random.default_rng(0)
USUAL = [float(t) for t in -np.log(GENERATOR.integers(1, 1001, 400) / 1000)]
LIGHT = [int(level) for level in GENERATOR.integers(200, 250, 400)]
STRANGE = [float(-np.log(0.001))] * 30


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands at ``now``."""
    clock = SimpleNamespace(now=1.0)
    clock.time = lambda: clock.now
    monkeypatch.setattr(drift_service, "time", clock)
    return clock


def made(home: Path, threshold: float = 1000.0, sources: int = 3) -> DriftMonitor:
    """A monitor without its thread, with what is stored."""
    monitor = DriftMonitor(service_settings(home, drift_martingale=threshold, drift_sources=sources))
    monitor.load()
    return monitor


def version_of(key: Key = DIGITS, weights: str = "abc") -> ModelVersion:
    manifest = SimpleNamespace(log_dets=SimpleNamespace(weights_sha256=weights))
    return cast(ModelVersion, SimpleNamespace(**key._asdict(), manifest=manifest))


def drift(monitor: DriftMonitor, key: Key = DIGITS) -> dict[str | None, Drift]:
    return {found.source: found for found in monitor.all()[key]}


def test_the_alarm_lasts_until_it_is_acknowledged(
    tmp_path: Path, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = made(tmp_path)
    with caplog.at_level(logging.WARNING):
        monitor.record(DIGITS, OLD, "left", USUAL)
        found = drift(monitor)["left"]
        assert (found.alarm, found.since.timestamp(), found.images, found.quantity) == (False, 1.0, 400, "statistic")
        assert found.log10_threshold == pytest.approx(3)
        clock.now = 3.0
        monitor.record(DIGITS, OLD, "left", STRANGE)
        found = drift(monitor)["left"]
        assert (found.alarm, found.alarm_since and found.alarm_since.timestamp()) == (True, 3.0)
        clock.now = 5.0
        monitor.record(DIGITS, OLD, "left", USUAL)
        after = drift(monitor)["left"]
    assert (after.alarm, after.alarm_since, after.images) == (True, found.alarm_since, 830)
    assert after.log10_highest >= found.log10_highest > 3
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "digits:1 drifts: its 430 images are not exchangeable with the calibration images",
        "digits:1 from left drifts: its 430 images are not exchangeable with the calibration images",
    ]
    assert monitor.alarms(version_of()) == 2
    assert monitor.acknowledge(version_of(), "left", "a key")
    assert not monitor.acknowledge(version_of(), "left", "a key")
    assert list(drift(monitor)) == [None]
    assert monitor.alarms(version_of()) == 1
    clock.now = 7.0
    monitor.record(DIGITS, OLD, "left", USUAL[:1])
    fresh = drift(monitor)["left"]
    assert (fresh.images, fresh.since.timestamp(), fresh.alarm) == (1, 7.0, False)
    assert abs(fresh.log10_capital) < 0.1


def test_a_change_of_light_is_an_alarm_at_twice_the_threshold(tmp_path: Path) -> None:
    monitor = made(tmp_path)
    monitor.record(DIGITS, LEVELS, "left", USUAL, LIGHT)
    assert not drift(monitor)["left"].alarm
    monitor.record(DIGITS, LEVELS, "left", USUAL[:40], [203] * 40)
    found = drift(monitor)["left"]
    assert (found.quantity, found.alarm) == ("white-level", True)
    assert found.log10_highest > found.log10_threshold == pytest.approx(np.log10(2000))


def test_images_are_bet_on_once_in_their_order(tmp_path: Path) -> None:
    at_once, one_by_one = made(tmp_path), made(tmp_path)
    for statistic, level in zip(USUAL, LIGHT, strict=True):
        one_by_one.record(DIGITS, LEVELS, "left", [statistic], [level])
        one_by_one.all()
    at_once.record(DIGITS, LEVELS, "left", USUAL, LIGHT)
    together, single = drift(at_once)["left"], drift(one_by_one)["left"]
    assert together.images == single.images == 400
    # Images of equal rank are ordered by chance, which follows from their number.
    assert together.log10_capital == pytest.approx(single.log10_capital)


def test_many_threads_lose_no_bet(tmp_path: Path) -> None:
    monitor = made(tmp_path)

    def work() -> None:
        for _ in range(100):
            monitor.record(DIGITS, LEVELS, "left", USUAL[:5], LIGHT[:5])
            monitor.all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.images for one in drift(monitor).values()] == [2000, 2000]


def test_a_source_with_an_alarm_is_dropped_after_those_without(tmp_path: Path) -> None:
    monitor = made(tmp_path, sources=3)
    for source, statistics in (("a", STRANGE), ("b", USUAL), ("c", USUAL), ("d", USUAL)):
        monitor.record(DIGITS, OLD, source, statistics)
        monitor.all()
    assert list(drift(monitor)) == [None, "a", "c", "d"]


def test_sources_and_models_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = made(tmp_path, sources=2)
    for source in ("a", "b", "a", "c"):
        monitor.record(DIGITS, OLD, source, STRANGE)
        monitor.all()
    assert list(drift(monitor)) == [None, "a", "c"]
    assert "drift of digits:1 from b has ended: its images were dropped" in caplog.messages
    monkeypatch.setattr(drift_service, "MAX_MODELS", 2)
    for name in ("shoes", "digits", "bags"):
        monitor.record(Key(name, 1, 0), OLD, "a", USUAL)
    assert list(monitor.all()) == [DIGITS, Key("bags", 1, 0)]


def test_a_model_in_the_place_of_another_begins_anew(tmp_path: Path) -> None:
    monitor = made(tmp_path)
    monitor.record(DIGITS, OLD, "left", STRANGE)
    assert monitor.of(version_of(weights="xyz")) == []
    assert monitor.alarms(version_of(weights="xyz")) == 0
    monitor.record(DIGITS, replace(OLD, weights="xyz"), "right", USUAL[:5])
    assert monitor.of(version_of()) == []
    assert [(one.source, one.images) for one in monitor.of(version_of(weights="xyz"))] == [(None, 5), ("right", 5)]
    # Another version, or another calibration, has streams of its own.
    assert monitor.of(version_of(Key("digits", 1, 1))) == monitor.of(version_of(Key("digits", 2, 0))) == []


def stored(home: Path) -> Path:
    return service_settings(home).drift_file


def test_a_restart_goes_on(tmp_path: Path, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    monitor = made(tmp_path)
    monitor.record(DIGITS, LEVELS, "left", USUAL + STRANGE, LIGHT + LIGHT[:30])
    monitor.record(Key("shoes", 1, 0), OLD, "left", USUAL)
    before = monitor.all()
    assert before[DIGITS][1].alarm
    monitor.close()
    clock.now = 9.0
    caplog.clear()
    again = made(tmp_path)
    assert again.all() == before
    assert caplog.messages == []
    for both in (monitor, again):
        both.record(DIGITS, LEVELS, "left", USUAL, LIGHT)
    assert drift(again)["left"].log10_capital == pytest.approx(drift(monitor)["left"].log10_capital)
    # Fewer may be kept now, and with a higher threshold the highest capital is no alarm any more.
    other = made(tmp_path, threshold=1e250)
    assert [one.alarm for one in drift(other).values()] == [False, False]
    assert "drift of digits:1 from left has ended: the threshold of its alarm was raised" in caplog.messages


def test_a_threshold_that_is_off_has_no_alarm(tmp_path: Path) -> None:
    monitor = made(tmp_path, 1e300)
    monitor.record(DIGITS, OLD, "left", [1e6] * 3000)
    found = drift(monitor)["left"]
    assert found.log10_highest > found.log10_threshold == 300
    assert not found.alarm


def file_of_version(version: int) -> str:
    """A file of earlier services: windows of the newest images, of which all but one have bets."""

    def bets(cells: int, capital: float) -> dict[str, Any]:
        return {"seen": [30] + [0] * (cells - 1), "images": 30, "bets": [0.0] * 8, "capital": 2.5, "highest": capital}

    def window(source: str | None, alarm_since: float | None, martingales: dict[str, Any] | None) -> dict[str, Any]:
        times = {"start": 1.0, "seconds": [0] * 60, "p_values": [0.5] * 60, "white_levels": [220] * 60}
        return {"source": source, **times, "alarm_since": alarm_since, "martingales": martingales}

    since = {"since": 1.5, "alarm_since": 2.5}
    drifting = {"p_values": bets(CELLS, 9.0), "white_levels": bets(256, 0.5), **since}
    model = DIGITS._asdict() | {"weights": "abc", "images": 999, "smallest_p": 0.001}
    model |= {"white_levels": USUAL_LEVELS, "statistics": OLD.counts["statistic"]}
    model["windows"] = [window(None, None, drifting), window("left", 2.0, None)]
    off = model | {"name": "off", "statistics": None, "windows": [window("left", None, None)]}
    return json.dumps({"format_version": version, "models": [model, off]})


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_alarms_of_the_version_before_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(stored(tmp_path), file_of_version(3))
    monitor = made(tmp_path)
    assert list(monitor.all()) == [DIGITS]
    [found] = monitor.of(version_of())
    assert (found.source, found.images, found.alarm, found.since.timestamp()) == (None, 30, True, 1.5)
    assert found.alarm_since is not None
    assert found.alarm_since.timestamp() == 2.5
    assert found.log10_highest == pytest.approx(9 / np.log(10))
    assert caplog.messages == ["drift of digits:1 from left has ended: the test that raised it was removed"]
    monitor.record(DIGITS, LEVELS, "left", USUAL, LIGHT)
    assert {source: one.images for source, one in drift(monitor).items()} == {None: 430, "left": 400}
    monitor.close()
    assert json.loads(stored(tmp_path).read_text())["format_version"] == 4


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_earlier_versions_are_dropped(version: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(stored(tmp_path), file_of_version(version))
    assert made(tmp_path).all() == {}
    assert caplog.messages == [f"{stored(tmp_path)} is of an earlier version, so drift starts without history"]


@pytest.mark.parametrize("content", ["", "{", '{"format_version": 4, "models": 3}', '{"format_version": 5}', "[]"])
def test_a_damaged_file_is_logged_and_left(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(stored(tmp_path), content)
    assert made(tmp_path).all() == {}
    assert "is damaged, so drift starts without history" in caplog.text


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (("p_values", "seen"), "expected counts of 1024 cells, got 1023"),
        (("white_levels",), "expected bets on white levels exactly where the calibration has them"),
    ],
)
def test_bets_on_another_calibration_are_damage(
    members: Sequence[str], problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = made(tmp_path)
    monitor.record(DIGITS, LEVELS, "left", USUAL, LIGHT)
    monitor.record(Key("shoes", 1, 0), OLD, "left", USUAL)
    monitor.close()
    content = json.loads(stored(tmp_path).read_text())
    martingales = content["models"][0]["streams"][0]["martingales"]
    if len(members) > 1:
        martingales[members[0]][members[1]].pop()
    else:
        martingales[members[0]] = None
    write(stored(tmp_path), json.dumps(content))
    again = made(tmp_path)
    assert list(again.all()) == [Key("shoes", 1, 0)]
    assert f"drift of digits:1 starts without history: {problem}" in caplog.text
