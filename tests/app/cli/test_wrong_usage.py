"""Wrong usages of the command line: each says what is wrong, and its exit code tells a script whose fault it is."""

import errno
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
from typer.testing import CliRunner

from snf_app.cli import main
from snf_runtime.errors import ANOMALY, FAILED, NOT_JUDGED, USAGE
from tests.support.compiled_cache import share_compiled
from tests.support.paths import DIGITS

DEAD = "http://127.0.0.1:1"
WRONG = [
    ("score", USAGE, "expected either image files or folders, or a --dataset"),
    ("score missing.png", USAGE, "missing.png does not exist"),
    ("score empty", USAGE, "no image was found in the given folders"),
    ("score texts", USAGE, "1 file was skipped, as hidden files, files of systems and texts are: notes.txt"),
    ("score text.png", NOT_JUDGED, "0 images judged, 0 anomalies, 1 not judged"),
    ("score digit.png text.png", NOT_JUDGED, "1 image judged, 0 anomalies, 1 not judged"),
    ("score digit.png text.png --alpha 1 --fail-on-anomaly", NOT_JUDGED, "1 image judged, 1 anomaly, 1 not judged"),
    ("score digit.png --alpha 1 --fail-on-anomaly", ANOMALY, "1 image judged, 1 anomaly, 0 not judged"),
    ("score digit.png pipe.png", NOT_JUDGED, "1 image judged, 0 anomalies, 1 not judged"),
    ("score folder-with-a-link", NOT_JUDGED, "1 image judged, 0 anomalies, 1 not judged"),
    ("score digit.png text.png --out scores.parquet", NOT_JUDGED, "1 image judged, 0 anomalies, 1 not judged"),
    ("score digit.png -m cifar10-snf-glow", NOT_JUDGED, "0 images judged, 0 anomalies, 1 not judged"),
    ("score digit.png --alpha 2", USAGE, "Input should be less than or equal to 1"),
    ("score digit.png --alpha 1e-9", USAGE, "alpha = 1e-09 is not attainable: with 5000 calibration images"),
    ("score digit.png --explain text.png", USAGE, "--explain: expected a folder for the heat maps, got the file"),
    ("score digit.png -m mnist-snf-glw", USAGE, "no model 'mnist-snf-glw'; did you mean mnist-snf-glow? There are:"),
    ("score digit.png -m mnist-snf-glow:9", USAGE, "mnist-snf-glow has no version 9"),
    ("score digit.png -m ../digits", USAGE, "expected name, name:version or name@alias"),
    ("score digit.png --explain maps", USAGE, "--explain: maps holds heat maps already, such as 00000-digit.png"),
    ("score digit.png --source line-1", USAGE, "--source needs image files and a service that watches drift"),
    ("score digit.png --out scores.txt", USAGE, "--out: expected a file that ends in .parquet, .csv or .jsonl, got"),
    ("score digit.png --out folder.csv", USAGE, "--out: expected a file in a folder that exists, got folder.csv"),
    ("models drift mnist-snf-glow --source line-1", USAGE, "--source names what is acknowledged: add --acknowledge"),
    ("score digit.png --out missing/scores.parquet", USAGE, "--out: expected a file in a folder that exists"),
    ("score digit.png --out foreign.csv", USAGE, "--out: foreign.csv exists already; choose another name"),
    (f"score digit.png --out s.parquet --url {DEAD}", FAILED, f"{DEAD} does not answer"),
    ("score digit.png --out s.parquet --draws 2", USAGE, "--out cannot be combined with --draws"),
    ("score --dataset lots", USAGE, "--dataset needs --out, the file for the table of scores"),
    ("score digit.png --url ftp://example", USAGE, "expected an address such as http://127.0.0.1:8000"),
    (f"score digit.png --url {DEAD}", FAILED, f"{DEAD} does not answer"),
    ("score digit.png --verbose", USAGE, "No such option: --verbose"),
    ("train --data mnist-min", USAGE, "there is no dataset 'mnist-min'; did you mean mnist-mini? There are:"),
    ("train --data mnist-mini --preset snf-glow-smal", USAGE, "did you mean snf-glow-small?"),
    ("train --data mnist-mini --set max_step=5", USAGE, "unknown parameter max_step; did you mean max_steps?"),
    ("train --data mnist-mini --set backbone=x", USAGE, "backbone: it has no effect on snf-glow-small"),
    (f"train --data mnist-mini --restart --url {DEAD}", USAGE, "--restart: for a training in this process"),
    (f"train --data mnist-mini --url {DEAD}", FAILED, f"{DEAD} does not answer"),
    ("train --data mnist-mini --detach", USAGE, "--detach: for a job of a service, needs --url"),
    ("train --data mnist-mini --set colour=red", USAGE, "colour: expected 'exact', 'grey' or 'rgb', got 'red'"),
    ("train --data mnist-mini --architecture none.json", USAGE, "none.json cannot be read"),
    ("train --data mnist-mini --architecture foreign.csv --preset huge", USAGE, "--preset or --architecture, got both"),
    ("train --data mnist-mini --set steps", USAGE, "--set: expected NAME=VALUE, got 'steps'"),
    ("train --data mnist-mini --set max_steps=-1", USAGE, "max_steps: expected a value greater than or equal to 1"),
    ("evaluate -m mnist-snf-glow", USAGE, "Missing option '--normal'"),
    ("evaluate -m mnist-snf-glow -n mnist-mini", USAGE, "name datasets in `against`, or ask for `corruptions`"),
    ("sample --out grid.gif", USAGE, "--out: expected a file that ends in .png, .npy or .zip, got grid.gif"),
    ("sample --out text.png", USAGE, "--out: text.png exists already; choose another name, or write over it with"),
    ("evaluate -m mnist-snf-glow -n mnist-mini --corruptions --out r.pdf", USAGE, "that ends in .html, got r.pdf"),
    ("limit mnist-snf-glow --out limit.png", USAGE, "--out: expected a file that ends in .svg, got limit.png"),
    ("recommend mnist-mini --set image_sise=32", USAGE, "unknown parameter image_sise; did you mean image_size?"),
    ("models export mnist-snf-glow text.png", USAGE, "--out: expected a file that ends in .tar, got text.png"),
    ("models import copy text.png", USAGE, "the archive is cut off or damaged"),
    ("bulk texts --out scores", USAGE, "there is no image at file://"),
    ("bulk texts --out texts/scores", USAGE, "--out: expected a folder outside of the images at file://"),
    ("bulk mnist-mini --out scores --engine ray --processes 2", USAGE, "--processes: of the engine local; a Ray"),
    ("bulk mnist-mini --out texts", USAGE, "holds notes.txt; expected no files, or parts of these scores"),
    (
        "bulk mnist-mini --out scores --model file:///nothing",
        USAGE,
        "there is nothing at file:///nothing/manifest.json",
    ),
    ("models delete mnist-snf-glow:1", USAGE, "mnist-snf-glow:1 ships with the product and cannot be removed"),
    ("models delete mnist-snf-glow:1 1", USAGE, "expected either a version, as in NAME:3, or --all"),
    ("models delete mnist-snf-glow:x", USAGE, "expected NAME:VERSION, such as mnist-snf-glow:3, got mnist-snf-glow:x"),
    ("models alias mnist-snf-glow live --remove", USAGE, "it points at version 1: move it instead"),
    ("datasets delete mnist-mini", USAGE, "mnist-mini came with the product"),
    ("datasets upload Bad/Name digit.png", USAGE, "expected 1 to 64 of a-z 0-9 . _ - with a letter or digit first"),
    ("datasets upload lots folder-with-a-link", USAGE, "cannot be read: it is no plain file; remove it"),
    ("datasets refer lots missing", USAGE, "there is nothing at file://"),
    ("datasets refer lots texts", USAGE, "there is no image at file://"),
    ("datasets refer lots http://host/lots", USAGE, "expected a URL of s3://, gs://, az://, file://"),
    ("jobs submit fly dataset=lots", USAGE, "'fly' is not one of 'train', 'score', 'calibrate', 'evaluate', 'limit',"),
    ("jobs submit score model=mnist-snf-glow", USAGE, "dataset: a value is required, and none was given"),
    ("jobs submit score --file foreign.csv", USAGE, "foreign.csv: expected JSON"),
    ("jobs list --status done", USAGE, "'succeeded', 'partial', 'failed', 'cancelled'"),
    ("runs compare 01", USAGE, "expected 2 to 8 different runs, got 1"),
    ("runs export 01 out --to mlflow", USAGE, "--to: expected tensorboard, got mlflow"),
    ("presets show snf-features", USAGE, "no architecture file"),
    ("presets show snf-glow-tiny --image-shape 28x28", USAGE, "28x28"),
    ("keys create Ann --role read", USAGE, "NAME: expected"),
    ("keys create bob --role read --expires soon", USAGE, "--expires: expected a time such as 90d"),
    ("keys create bob --role read --images many", USAGE, "--images: expected a rate such as 600/minute"),
    ("worker --queues slow", USAGE, "expected 'train-cpu', 'train-gpu' or 'score', got 'slow'"),
    ("models import copy missing.tar", USAGE, "expected a tar file, or a URL such as s3://bucket/folder, got missing"),
    ("models export mnist-snf-glow http://host/model", USAGE, "expected a URL of s3://, gs://, az://, file://"),
    ("bulk missing --out scores", USAGE, "expected a path, a URL or a dataset, got 'missing'; there are:"),
    ("models use-calibration mnist-snf-glow 99", USAGE, "mnist-snf-glow:1 has no calibration 99; it has: 0"),
    ("datasets show nothing", USAGE, "there is no dataset 'nothing'; there are:"),
    ("keys create bob --role king", USAGE, "there is no role 'king'; there are: read, score, train, admin"),
    ("scores", USAGE, "No such command 'scores'"),
    (f"--url {DEAD} models", USAGE, "--url belongs to a command: snf COMMAND --url ADDRESS"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the commands run, with the files that they name."""
    place = tmp_path_factory.mktemp("place")
    for name in ("empty", "texts", "folder-with-a-link", "folder.csv", "maps"):
        (place / name).mkdir()
    (place / "texts" / "notes.txt").write_text("notes")
    (place / "text.png").write_text("no image")
    (place / "maps" / "00000-digit.png").write_text("of another program")
    (place / "foreign.csv").write_text("part,price\nbolt,1\n")
    (place / "digit.png").write_bytes(DIGITS[0].read_bytes())
    (place / "folder-with-a-link" / "digit.png").write_bytes(DIGITS[0].read_bytes())
    (place / "folder-with-a-link" / "link.png").symlink_to("nowhere.png")
    os.mkfifo(place / "pipe.png")
    home = share_compiled(tmp_path_factory.mktemp("home"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SNF_")}
    clean |= {"SNF_HOME": str(home), "REDIS_URL": "", "COLUMNS": "200"}
    clean |= {"SNF_ENGINE": "torch"}  # starts in the least time
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        with patch.dict(os.environ, clean, clear=True):
            yield place


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("command", "code", "message"), WRONG, ids=[command for command, _, _ in WRONG])
def test_a_wrong_usage_says_what_is_wrong(command: str, code: int, message: str) -> None:
    with patch.dict(os.environ):  # options of `worker` and `serve` become variables
        done = CliRunner().invoke(main.cli, shlex.split(command))
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", done.stderr).split())
    assert done.exit_code == code
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["keys list", "keys create bob --role read", "backbones", "presets layers"])
def test_a_command_of_this_machine_alone_says_so_where_a_service_is_named(command: str) -> None:
    with patch.dict(os.environ, {"SNF_URL": DEAD}):
        done = CliRunner().invoke(main.cli, command.split())
    assert done.exit_code == USAGE
    assert f"works on this machine alone, not on SNF_URL={DEAD}" in done.stderr
    assert done.stdout == ""


@pytest.mark.usefixtures("folder")
def test_a_refused_file_is_as_it_was_until_it_is_forced(folder: Path) -> None:
    table = folder / "forced.csv"
    table.write_text("part,price\n")
    assert CliRunner().invoke(main.cli, ["score", "digit.png", "--out", "forced.csv"]).exit_code == USAGE
    assert table.read_text() == "part,price\n"
    assert CliRunner().invoke(main.cli, ["score", "digit.png", "--out", "forced.csv", "--force"]).exit_code == 0
    assert table.read_text().startswith("path,log_likelihood,")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("a fault of the program"), "a fault of the program"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/home/snf"),
            "snf: There is no room on the disk: [Errno 28]",
        ),
    ],
)
def test_an_unexpected_error_is_no_anomaly(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "cli", Mock(side_effect=error))
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == FAILED
    told = capsys.readouterr().err
    assert said in told
    assert ("Traceback" in told) == isinstance(error, RuntimeError)
