"""The command line of the runner: exit codes, also of crashes, and refused arguments. Only Model.load is replaced."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from snf_client.images import files_in
from snf_runtime import Model
from snf_runtime.__main__ import INTERRUPTED, main
from snf_runtime.anomaly.calibration import threshold
from snf_runtime.anomaly.detection import NotJudged
from snf_runtime.errors import FAILED, NOT_JUDGED, USAGE, EngineUnavailable
from snf_runtime.images.files import image_files
from snf_runtime.parallelism import thread_count
from tests.support.exports import exported_pixels
from tests.support.paths import DIGITS, ROOT
from tests.support.programs import interruptible


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.load(exported_pixels(tmp_path_factory), threads=1)


@pytest.fixture
def loaded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "load", lambda *_: model)


@pytest.mark.usefixtures("loaded")
def test_a_full_disk_is_no_anomaly(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full, monkeypatch.context() as context:
        context.setattr(sys, "stdout", full)
        assert main(["model", str(DIGITS[0])]) == FAILED
    assert capfd.readouterr().err == "snf-density-runtime: the output cannot be written: No space left on device\n"


@pytest.mark.usefixtures("loaded")
def test_names_of_files_forge_no_lines_and_need_no_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = tmp_path / "ä\n0.5 normal \x1b[2Jother.png", tmp_path / "text\r.png"
    good.write_bytes(DIGITS[0].read_bytes())
    bad.write_text("no image")
    output = io.BytesIO()
    with monkeypatch.context() as context:
        context.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
        assert main(["model", str(good), str(bad)]) == NOT_JUDGED
        lines = output.getvalue().decode("ascii").splitlines()
    assert len(lines) == 3
    assert lines[1].endswith(rf"{tmp_path}/\xe4\n0.5 normal \x1b[2Jother.png")
    assert rf"{tmp_path}/text\r.png: expected one of" in lines[2]


@pytest.mark.usefixtures("loaded")
def test_a_folder_that_cannot_be_listed_is_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, listed = tmp_path / "locked", os.scandir
    locked.mkdir()

    def scandir(path: str | Path) -> object:
        if Path(path) == locked:  # as of another user; the tests may run as root, who may list all
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert image_files(locked) == (files_in(locked).files, []) == ([locked], [])
    assert main(["model", str(DIGITS[0]), str(locked)]) == NOT_JUDGED
    output = capsys.readouterr()
    assert f"{locked}: expected a plain file, no folder or pipe" in output.out
    assert output.err == "1 image judged, 0 anomalies, 1 not judged\n"


def test_an_interruption_ends_without_a_traceback(tmp_path_factory: pytest.TempPathFactory) -> None:
    line = interruptible("-m", "snf_runtime", str(exported_pixels(tmp_path_factory)), *[str(DIGITS[0])] * 9999)
    runner = subprocess.Popen(line, cwd=ROOT / "runtime", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    assert [bool(runner.stdout.readline()) for _ in range(2)] == [True, True]
    runner.send_signal(signal.SIGINT)
    assert runner.communicate(timeout=60)[1] == "snf-density-runtime: interrupted\n"
    assert runner.returncode == INTERRUPTED


def test_a_crash_is_no_anomaly(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "load", lambda *_: 1 / 0)
    assert main(["model", str(DIGITS[0])]) == FAILED
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_wrong_settings_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["model", "a" * 300]) == USAGE
    assert "cannot be opened: File name too long" in capsys.readouterr().err
    monkeypatch.setenv("OMP_NUM_THREADS", "2000")
    assert main(["model", str(DIGITS[0])]) == FAILED
    assert "expected OMP_NUM_THREADS from 1 to 1024, got 2000" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-m", "snf_runtime", "model", str(DIGITS[0])],
        cwd=ROOT / "runtime", env={**os.environ, "SNF_MAX_IMAGE_PIXELS": "abc"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == FAILED
    assert "expected SNF_MAX_IMAGE_PIXELS to be a whole number from 1 to 10^18, got abc" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--alpha", "1", "expected a rate above 0 and below 1, got 1"),
        ("--alpha", "0", "expected a rate above 0 and below 1, got 0"),
        ("--alpha", "nan", "expected a rate above 0 and below 1, got nan"),
        ("--alpha", "abc", "expected a rate above 0 and below 1, got abc"),
        ("--draws", "0", "expected a whole number from 1 to 256, got 0"),
        ("--threads", "two", "expected a whole number from 1 to 256, got two"),
    ],
)
def test_numbers_out_of_range_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["model", "image.png", option, value])
    assert stopped.value.code == USAGE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda model: model.judge([], 0.0), "expected a false-alarm rate above 0 and below 1, got 0.0"),
        (lambda model: model.judge([], 1.0), "expected a false-alarm rate above 0 and below 1, got 1.0"),
        (lambda model: model.judge([], 2.0), "expected a false-alarm rate above 0 and below 1, got 2.0"),
        (lambda model: model.judge([], float("nan")), "expected a false-alarm rate above 0 and below 1, got nan"),
        (lambda model: model.judge([], draws=0), "expected at least 1 draw, got 0"),
        (lambda _: Model.load("model", threads=0), "expected threads from 1 to 1024, got 0"),
        (lambda _: Model.load("model", threads=-1), "expected threads from 1 to 1024, got -1"),
        (lambda _: threshold(np.arange(9.0), 1.0), "expected a false-alarm rate from 1/10 to below 1, got 1.0"),
        (lambda _: threshold(np.arange(9.0), 0.05), "expected a false-alarm rate from 1/10 to below 1, got 0.05"),
    ],
    ids=["0", "1", "2", "nan", "draws", "no-threads", "fewer-threads", "all-flagged", "none-flagged"],
)
def test_arguments_are_checked_before_the_first_image(
    model: Model, judge: Callable[[Model], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        judge(model)


def test_a_path_that_cannot_be_does_not_end_the_others(model: Model) -> None:
    bad, good = model.judge(["a\0.png", DIGITS[0]])
    assert isinstance(bad, NotJudged)
    assert (bad.error, bad.detail) == ("unreadable-image", "embedded null byte")
    assert not isinstance(good, NotJudged)


def test_threads_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, count in (("4,2", 4), (" 3 ", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert (thread_count(None), thread_count(7)) == (count, 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert thread_count(None) >= 1
    for text in ("abc", "0", "-1", "1.5", ",2"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        with pytest.raises(EngineUnavailable, match="expected OMP_NUM_THREADS from 1 to 1024, got"):
            thread_count(None)
