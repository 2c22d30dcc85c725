"""The windows of recent p-values: bounded, judged when somebody looks, and carried over a restart."""

import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from app.drift import judge as drift_judge
from app.drift import storage as drift_file
from app.drift import windows as drift_windows
from app.drift.window import Key, WindowReference
from app.drift.windows import DriftWindows

DIGITS = Key("digits", 1, 0)
REFERENCE = WindowReference("abc", 999, 1 / 1000)
USUAL = [float(p) for p in (1 + np.random.default_rng(0).integers(0, 1000, 60)) / 1000]
STRANGE = [0.001] * 60


OFF = 1e300
"""A threshold that no capital reaches, for tests of the Kolmogorov-Smirnov alarms."""


def made(images: int = 100, min_images: int = 20, sources: int = 3, threshold: float = OFF) -> DriftWindows:
    return DriftWindows(images=images, min_images=min_images, level=1e-4, threshold=threshold, sources=sources)


def sources(windows: DriftWindows, key: Key = DIGITS) -> list[str | None]:
    return [seen.source for seen in windows.status(key, 0.0)]


def test_nothing_is_judged_before_there_are_images_enough() -> None:
    windows = made()
    assert windows.status(DIGITS, 0.0) == []
    windows.record(DIGITS, REFERENCE, None, STRANGE[:19], 5.0)
    (seen,) = windows.status(DIGITS, 6.0)
    assert (seen.source, seen.images, seen.statistic, seen.p_value, seen.alarm) == (None, 19, None, None, False)
    assert (seen.low_share, seen.since, seen.alarm_since) == (1.0, 5.0, None)
    windows.record(DIGITS, REFERENCE, None, STRANGE[:1], 7.0)
    (seen,) = windows.status(DIGITS, 8.0)
    assert seen.alarm
    assert (seen.images, seen.statistic, seen.since, seen.alarm_since) == (20, pytest.approx(0.999), 5.0, 8.0)


def test_every_image_counts_once_in_all_and_once_in_its_source() -> None:
    windows = made()
    windows.record(DIGITS, REFERENCE, "left", USUAL[:30], 1.0)
    windows.record(DIGITS, REFERENCE, "right", STRANGE[:20], 2.0)
    windows.record(DIGITS, REFERENCE, None, USUAL[30:40], 3.0)
    seen = {one.source: one for one in windows.status(DIGITS, 4.0)}
    assert {source: one.images for source, one in seen.items()} == {None: 60, "left": 30, "right": 20}
    assert not seen["left"].alarm
    assert seen["right"].alarm


def test_the_newest_images_count_and_alarms_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    windows = made(images=60)
    with caplog.at_level(logging.WARNING):
        windows.record(DIGITS, REFERENCE, "left", STRANGE, 1.0)
        first = windows.status(DIGITS, 2.0)
        assert windows.status(DIGITS, 3.0) == first
        windows.record(DIGITS, REFERENCE, "left", STRANGE, 4.0)
        assert [(one.alarm, one.since, one.alarm_since) for one in windows.status(DIGITS, 5.0)] == [
            (True, 4.0, 2.0)
        ] * 2
        assert len(caplog.records) == 2
        windows.record(DIGITS, REFERENCE, "left", USUAL, 6.0)
        assert [(one.images, one.alarm, one.alarm_since) for one in windows.status(DIGITS, 7.0)] == [
            (60, False, None)
        ] * 2
        windows.status(DIGITS, 8.0)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("digits:1 drifts: its last 60 images")
    assert said[1].startswith("digits:1 from left drifts")
    assert said[2:] == ["drift of digits:1 has ended", "drift of digits:1 from left has ended"]


def test_an_alarm_on_the_edge_does_not_come_and_go() -> None:
    fresh, lasting = made(images=60), made(images=60)
    # 16 of 60 too small: a p-value of drift between the threshold and ten times that.
    edge = [0.001] * 16 + [(i + 0.5) / 44 for i in range(44)]
    for windows in (fresh, lasting):
        windows.record(DIGITS, REFERENCE, None, STRANGE if windows is lasting else USUAL, 0.0)
        windows.status(DIGITS, 1.0)
        windows.record(DIGITS, REFERENCE, None, edge, 2.0)
    (calm,), (alarmed,) = fresh.status(DIGITS, 3.0), lasting.status(DIGITS, 3.0)
    assert calm.p_value == alarmed.p_value
    assert 1e-4 < alarmed.p_value < 1e-3
    assert (calm.alarm, alarmed.alarm, alarmed.alarm_since) == (False, True, 1.0)
    lasting.record(DIGITS, REFERENCE, None, USUAL, 4.0)
    assert not lasting.status(DIGITS, 5.0)[0].alarm


LEVELS = WindowReference("abc", 999, 1 / 1000, tuple(4 if 200 <= level < 250 else 0 for level in range(256)))


def test_weaker_light_is_an_alarm_where_p_values_are_usual(caplog: pytest.LogCaptureFixture) -> None:
    windows = made()
    usual = [200 + i % 50 for i in range(60)]
    windows.record(DIGITS, LEVELS, "left", USUAL, 1.0, usual)
    windows.record(DIGITS, LEVELS, "right", USUAL, 1.0, [level - 30 for level in usual])
    _, left, right = windows.status(DIGITS, 2.0)
    assert left.white_level is not None
    assert (left.alarm, left.white_level.statistic, left.white_level.usual) == (
        False,
        pytest.approx(1 / 3 - 1 / 5),
        224,
    )
    assert right.white_level is not None
    assert (right.alarm, right.white_level.median) == (True, 189)
    assert right.p_value == left.p_value
    assert "the light of its last 60 images differs" in caplog.messages[-1]
    assert "white level 189, usually 224" in caplog.messages[-1]


def test_each_of_two_tests_has_half_of_the_false_alarms() -> None:
    p_values = [0.4 + 0.0001 * i for i in range(20)]
    once = made()
    once.record(DIGITS, REFERENCE, None, p_values, 1.0)
    (alone,) = once.status(DIGITS, 1.0)
    assert alone.p_value is not None
    levels = [200 + i % 50 for i in range(20)]
    for level, raised in ((1.5 * alone.p_value, False), (2.5 * alone.p_value, True)):
        both = DriftWindows(images=100, min_images=20, level=level, threshold=OFF, sources=3)
        both.record(DIGITS, LEVELS, None, p_values, 1.0, levels)
        assert both.status(DIGITS, 1.0)[0].alarm == raised


def test_a_window_is_judged_once_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    exact = drift_judge.drift_test
    monkeypatch.setattr(drift_judge, "drift_test", lambda p, *rest: judged.append(len(p)) or exact(p, *rest))
    windows = made()
    for _ in range(2):
        windows.record(DIGITS, REFERENCE, None, USUAL[:30], 0.0)
    assert judged == []
    for _ in range(3):
        windows.status(DIGITS, 0.0)
    assert judged == [60]


def test_alarms_are_counted_without_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = made()
    windows.record(DIGITS, REFERENCE, "left", STRANGE, 1.0)
    windows.record(DIGITS, REFERENCE, "right", USUAL, 1.0)
    assert windows.alarms(DIGITS, "abc") == 0, "they are tested in the background"
    assert sum(seen.alarm for seen in windows.status(DIGITS, 2.0)) == windows.alarms(DIGITS, "abc") == 2
    monkeypatch.setattr(drift_judge, "drift_test", lambda *_: pytest.fail("tested"))
    windows.record(DIGITS, REFERENCE, "right", USUAL, 3.0)
    assert windows.alarms(DIGITS, "abc") == 2
    assert windows.alarms(DIGITS, "other weights") == windows.alarms(Key("letters", 1, 0), "abc") == 0


def test_a_source_with_an_alarm_is_dropped_after_those_without() -> None:
    windows = made(sources=3)
    for source, p_values in (("a", STRANGE), ("b", USUAL), ("c", USUAL), ("d", USUAL)):
        windows.record(DIGITS, REFERENCE, source, p_values * 2, 0.0)
        windows.status(DIGITS, 0.0)
    assert sources(windows) == [None, "a", "c", "d"]


def test_sources_and_models_are_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    windows = made(sources=2)
    for source in ("a", "b", "a", "c"):
        windows.record(DIGITS, REFERENCE, source, STRANGE[:20], 0.0)
        windows.status(DIGITS, 0.0)
    assert sources(windows) == [None, "a", "c"]
    assert caplog.messages[-2] == "drift of digits:1 from b has ended: its window was dropped"
    monkeypatch.setattr(drift_windows, "MAX_MODELS", 2)
    for name in ("shoes", "digits", "bags"):
        windows.record(Key(name, 1, 0), REFERENCE, None, USUAL, 0.0)
    assert windows.models() == [DIGITS, Key("bags", 1, 0)]


def test_a_model_in_the_place_of_another_begins_anew() -> None:
    windows = made()
    windows.record(DIGITS, REFERENCE, "left", USUAL, 0.0)
    assert windows.status(DIGITS, 0.0, "xyz") == []
    windows.record(DIGITS, WindowReference("xyz", 999, 1 / 1000), None, USUAL[:5], 0.0)
    assert windows.status(DIGITS, 0.0, "abc") == []
    assert [(one.source, one.images) for one in windows.status(DIGITS, 0.0, "xyz")] == [(None, 5)]
    # Another version, or another calibration, has windows of its own.
    assert windows.status(Key("digits", 1, 1), 0.0) == windows.status(Key("digits", 2, 0), 0.0) == []


def test_many_threads_lose_nothing() -> None:
    windows = made(images=10_000)

    def work(i: int) -> None:
        for _ in range(100):
            windows.record(DIGITS, REFERENCE, f"camera {i % 2}", USUAL[:5], 0.0)
            windows.status(DIGITS, 0.0)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.source: one.images for one in windows.status(DIGITS, 0.0)} == {
        None: 2000, "camera 0": 1000, "camera 1": 1000
    }  # fmt: skip


def test_what_is_kept_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "drift" / "windows.json"
    windows = made()
    for i, p in enumerate(USUAL):
        windows.record(DIGITS, LEVELS, "left", [p], 1000.25 + i, [200 + i % 50])
    windows.record(DIGITS, LEVELS, "right", STRANGE, 2000.0, [180] * len(STRANGE))
    before = windows.status(DIGITS, 3000.0)
    drift_file.save(windows, path)
    caplog.clear()
    again = made()
    drift_file.load(again, path)
    assert again.status(DIGITS, 4000.0) == before
    assert caplog.messages == []
    # Fewer may be kept now: the newest images, and the sources used last.
    small = made(images=30, sources=1)
    drift_file.load(small, path)
    assert [(one.source, one.images, one.since) for one in small.status(DIGITS, 5000.0)] == [
        (None, 30, pytest.approx(2000, abs=0.5)),
        ("right", 30, 2000),
    ]


def test_a_file_without_white_levels_is_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.json"
    window = {"source": "left", "start": 1.0, "seconds": [0] * 60, "p_values": STRANGE, "alarm_since": None}
    model = {"name": "digits", "version": 1, "calibration": 0, "weights": "abc", "images": 999, "smallest_p": 0.001}
    path.write_text(json.dumps({"format_version": 1, "models": [model | {"windows": [window]}]}))
    windows = made()
    drift_file.load(windows, path)
    (seen,) = windows.status(DIGITS, 2.0)
    assert (seen.images, seen.alarm, seen.white_level) == (60, True, None)


def test_an_empty_memory_is_a_file_too(tmp_path: Path) -> None:
    drift_file.save(made(), tmp_path / "windows.json")
    drift_file.load(made(), tmp_path / "windows.json")


@pytest.mark.parametrize("content", ["", "{", '{"models": 3}', '{"format_version": 4, "models": []}', "[]"])
def test_a_damaged_file_is_logged_and_left(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "windows.json"
    path.write_text(content)
    windows = made()
    drift_file.load(windows, path)
    assert windows.models() == []
    assert "is damaged, so drift starts without history" in caplog.text
