"""The martingale alarm of windows: it lasts until it is acknowledged, and a restart loses nothing of it."""

import json
import logging
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from app.drift import storage
from app.drift.status import WindowStatus
from app.drift.stream_martingales import MartingaleStatus
from app.drift.window import Key, WindowReference
from app.drift.windows import DriftWindows
from snf_runtime.anomaly.conformal import CELLS, statistic_cells

DIGITS = Key("digits", 1, 0)
COUNTS = np.bincount(statistic_cells(-np.log(np.arange(1, 1000) / 1000)), minlength=CELLS)
LEVELS, OLD = (
    WindowReference("abc", 999, 1 / 1000, levels, tuple(COUNTS.tolist()))
    for levels in (tuple(4 if 200 <= level < 250 else 0 for level in range(256)), None)
)
GENERATOR = np.random.default_rng(0)
USUAL = [float(p) for p in GENERATOR.integers(1, 1001, 400) / 1000]
LIGHT = [int(level) for level in GENERATOR.integers(200, 250, 400)]
STRANGE = [0.001] * 30


def made(threshold: float = 1000.0) -> DriftWindows:
    return DriftWindows(images=100, min_images=50, level=1e-4, threshold=threshold, sources=3)


def record(
    windows: DriftWindows,
    reference: WindowReference,
    source: str | None,
    p_values: Sequence[float],
    now: float,
    white_levels: Sequence[int] = (),
) -> None:
    statistics = [-math.log(p) for p in p_values]
    windows.record(DIGITS, reference, source, p_values, now, white_levels, statistics)


def seen(windows: DriftWindows, now: float = 9.0) -> WindowStatus:
    return windows.status(DIGITS, now)[0]


def bets(windows: DriftWindows) -> MartingaleStatus:
    found = seen(windows).martingale
    assert found is not None
    return found


def test_the_alarm_lasts_until_it_is_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    windows = made()
    with caplog.at_level(logging.WARNING):
        record(windows, OLD, None, USUAL, 1.0)
        assert (seen(windows).alarm, bets(windows).since, bets(windows).images) == (False, 1.0, 400)
        record(windows, OLD, None, STRANGE, 2.0)
        drifting = seen(windows, 3.0)
        assert (drifting.alarm, drifting.alarm_since) == (True, 3.0)
        assert drifting.alarm_by == ("p-values", "martingale")
        record(windows, OLD, None, USUAL, 4.0)
        after = seen(windows, 5.0)
    # The Kolmogorov-Smirnov test looks at the newest images alone.
    assert (after.alarm_by, after.alarm_since) == (("martingale",), 3.0)
    assert after.p_value is not None
    assert after.p_value > 1e-3
    assert bets(windows).log10_highest > 3
    start, differ, fit = caplog.messages
    assert "its 430 images are not exchangeable with the calibration images (p-values, capital 10^" in start
    assert "its last 100 images differ" in differ
    assert fit == "the newest images of digits:1 fit again; its alarm lasts until it is acknowledged"
    assert windows.reset(DIGITS, None, "abc")
    assert windows.status(DIGITS, 6.0) == []
    assert not windows.reset(DIGITS, None, "abc")
    record(windows, OLD, None, USUAL[:1], 7.0)
    fresh = bets(windows)
    assert (fresh.images, fresh.since, seen(windows).alarm) == (1, 7.0, False)
    assert abs(fresh.log10_capital) < 0.1


def test_one_window_is_reset_and_no_other() -> None:
    windows = made()
    for source in ("left", "right"):
        record(windows, OLD, source, STRANGE, 1.0)
    assert windows.reset(DIGITS, "left", "abc")
    assert [one.source for one in windows.status(DIGITS, 2.0)] == [None, "right"]
    for key, source, weights in ((DIGITS, "left", "abc"), (DIGITS, "right", "xyz"), (Key("shoes", 1, 0), None, "abc")):
        assert not windows.reset(key, source, weights)


def test_a_change_of_light_is_an_alarm_at_twice_the_threshold() -> None:
    windows = made()
    record(windows, LEVELS, None, USUAL, 1.0, LIGHT)
    assert not seen(windows).alarm
    record(windows, LEVELS, None, USUAL[:40], 2.0, [203] * 40)
    found = bets(windows)
    assert found.of == "white-level"
    assert found.log10_threshold == pytest.approx(np.log10(2000))
    assert found.log10_highest > found.log10_threshold
    assert seen(windows).alarm_by == ("white-level", "martingale")


def test_images_are_bet_on_once_in_their_order() -> None:
    at_once, one_by_one = made(), made()
    for p, level in zip(USUAL, LIGHT, strict=True):
        record(one_by_one, LEVELS, None, [p], 1.0, [level])
        one_by_one.status(DIGITS, 1.0)
    record(at_once, LEVELS, None, USUAL, 1.0, LIGHT)
    assert bets(at_once).images == bets(one_by_one).images == 400
    # Images of equal rank are ordered by chance, which follows from their number.
    assert bets(at_once).log10_capital == pytest.approx(bets(one_by_one).log10_capital)


def test_many_threads_lose_no_bet() -> None:
    windows = made()

    def work() -> None:
        for _ in range(100):
            record(windows, LEVELS, "left", USUAL[:5], 0.0, LIGHT[:5])
            windows.status(DIGITS, 0.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.martingale and one.martingale.images for one in windows.status(DIGITS, 0.0)] == [2000, 2000]


def test_a_restart_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "windows.json"
    windows = made()
    record(windows, LEVELS, "left", USUAL + STRANGE, 1000.0, LIGHT + LIGHT[:30])
    before = windows.status(DIGITS, 2000.0)
    assert before[1].alarm
    storage.save(windows, path)
    again = made()
    storage.load(again, path)
    assert again.status(DIGITS, 3000.0) == before
    group = dict(again.contents()[0][2])["left"]
    assert group.martingales is not None
    assert group.martingales.statistics.seen.sum() == 430
    assert group.martingales.statistics.ranks.counts.sum() == 1429
    for both in (windows, again):
        record(both, LEVELS, "left", USUAL, 4000.0, LIGHT)
    assert bets(again).log10_capital == pytest.approx(bets(windows).log10_capital)
    # With a higher threshold, the highest capital is no alarm any more.
    higher = made(threshold=1e300)
    storage.load(higher, path)
    assert seen(higher).alarm_by == ("p-values",)


def test_a_file_of_an_earlier_service_starts_with_the_next_image(tmp_path: Path) -> None:
    path = tmp_path / "windows.json"
    window = {"source": None, "start": 1.0, "seconds": [0] * 60, "p_values": USUAL[:60], "alarm_since": None}
    model = {"name": "digits", "version": 1, "calibration": 0, "weights": "abc", "images": 999, "smallest_p": 0.001}
    bets_of = {"seen": [0] * 1000, "images": 0, "bets": None, "capital": 0.0, "highest": 0.0}
    earlier = {"p_values": bets_of, "white_levels": None, "since": 1.0, "alarm_since": 1.0}
    model |= {"ranked": True, "windows": [window | {"martingales": earlier}]}
    path.write_text(json.dumps({"format_version": 2, "models": [model]}))
    windows = made()
    storage.load(windows, path)
    assert seen(windows).martingale is None
    record(windows, OLD, None, USUAL[:2], 5.0)
    assert (seen(windows).images, bets(windows).images, bets(windows).since) == (62, 2, 5.0)


def test_bets_of_other_cells_are_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "windows.json"
    windows = made()
    record(windows, OLD, None, STRANGE, 1.0)
    windows.status(DIGITS, 2.0)
    storage.save(windows, path)
    content = json.loads(path.read_text())
    content["models"][0]["windows"][0]["martingales"]["p_values"]["seen"].pop()
    path.write_text(json.dumps(content))
    again = made()
    storage.load(again, path)
    assert again.models() == []
    assert "drift of digits:1 starts without history: expected counts of 1024 cells, got 1023" in caplog.text


def test_a_threshold_that_is_off_has_no_martingale() -> None:
    windows = made(1e300)
    record(windows, OLD, None, [1 / 1000] * 400, 0.0)
    assert seen(windows).martingale is None
    assert [*seen(windows).alarm_by] == ["p-values"]


def test_an_alarm_of_a_martingale_ends_where_it_is_turned_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "windows.json"
    for threshold, now, since in ((1000.0, 1.0, 1.0), (1e300, 2.0, None), (1000.0, 3.0, 3.0)):
        windows = made(threshold)
        storage.load(windows, path)
        # The newest images are no alarm of the other tests.
        record(windows, OLD, None, STRANGE + USUAL, 0.0)
        status = seen(windows, now)
        assert (status.alarm, status.alarm_since) == (since is not None, since), threshold
        assert windows.alarms(DIGITS, "abc") == (since is not None)
        storage.save(windows, path)
    assert "drift of digits:1 has ended" in caplog.messages
