"""The runner: ``python -m snf_runtime FOLDER PATH...`` judges image files by an exported model."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snf_runtime.anomaly.detection import FileVerdict, NotJudged
from snf_runtime.errors import FAILED, USAGE, ErrorKind, JudgedCounts, ModelsError

NAME = "snf-density-runtime"
INTERRUPTED = 130
HEADER = f"{'p-value':>9}  {'statistic':>10}  {'log-likelihood':>15}  verdict  image"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge image files by an exported model, as the command line asks, and return the exit code.

    An unexpected error is printed with its traceback and gives 3: Python's own code 1 means an anomaly here.
    """
    asked = _parser().parse_args(arguments)
    logging.basicConfig(format=f"{NAME}: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may have letters that the terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(asked)
    except ModelsError as error:
        wrong_usage = error.kind in (ErrorKind.INVALID, ErrorKind.NOT_FOUND)
        return _fail(f"{error.title}: {error.detail}", USAGE if wrong_usage else FAILED)
    except BrokenPipeError:  # such as of `head`
        _discard_output()
        return FAILED
    except _OutputFailed as error:
        _discard_output()
        return _fail(f"the output cannot be written: {error}", FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return FAILED


class _OutputFailed(Exception):
    """Raised where the output takes no more lines, such as on a full disk."""


def _discard_output() -> None:
    # Python would fail again at the end, when it writes what is left.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Score and judge image files by a model that `snf export` wrote.",
        epilog="Exit codes: 0 every file was judged; 1 an anomaly, with --fail-on-anomaly; 2 wrong usage; 3 the model "
        "cannot be used; 4 at least one file was not judged, whatever else was found; 130 interrupted by Ctrl-C.",
    )
    parser.add_argument("model", type=Path, help="folder of the exported model")
    parser.add_argument("paths", type=Path, nargs="+", help="image files, or folders of them")
    parser.add_argument("--alpha", type=_rate, help="false-alarm rate (default: that of the calibration)")
    parser.add_argument("--draws", type=_count, default=1, help="dequantisation draws for each image (default: 1)")
    parser.add_argument("--regions", action="store_true", help="add regions of the anomaly map")
    parser.add_argument("--json", action="store_true", help="print an object in each line")
    parser.add_argument("--threads", type=_count, help="threads (default: OMP_NUM_THREADS, or all cores)")
    parser.add_argument(
        "--fail-on-anomaly", action="store_true", help="exit with 1 if an image is an anomaly and all were judged"
    )
    return parser


def _run(asked: argparse.Namespace) -> int:
    # Below, as it reads settings, which may be wrong.
    from snf_runtime.images.files import image_files  # noqa: PLC0415

    files, skipped = [], []
    for path in asked.paths:
        try:
            is_folder, is_there = path.is_dir(), path.exists()
        except OSError as error:  # such as a name that is too long
            return _fail(f"{path} cannot be opened: {error.strerror}", USAGE)
        if is_folder:
            judged, left_out = image_files(path)
            files += judged
            skipped += left_out
        elif is_there:
            files.append(path)
        else:
            return _fail(f"{path} does not exist", USAGE)
    if skipped:
        print(f"{NAME}: {len(skipped)} hidden files, files of systems and texts were skipped", file=sys.stderr)
    if not files:
        return _fail("no image was found in the given folders", USAGE)
    # OpenVINO takes time to load: wrong usage is answered before.
    from snf_runtime.exported.model import Model  # noqa: PLC0415

    model = Model.load(asked.model, asked.threads)
    results = model.judge(files, asked.alpha, draws=asked.draws, regions=asked.regions)
    counts = _print(results, _json_line if asked.json else _table_line, "" if asked.json else HEADER)
    print(counts.text, file=sys.stderr)
    return counts.exit_code(fail_on_anomaly=asked.fail_on_anomaly)


def _print(
    results: Iterator[FileVerdict | NotJudged], line: Callable[[FileVerdict | NotJudged], str], header: str
) -> JudgedCounts:
    if header:
        _print_line(header)
    judged = anomalies = not_judged = 0
    for result in results:
        if isinstance(result, NotJudged):
            not_judged += 1
        else:
            judged += 1
            anomalies += result.is_anomaly
        _print_line(line(result))
    return JudgedCounts(judged, anomalies, not_judged)


def _print_line(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _OutputFailed(error.strerror) from error


def _json_line(result: FileVerdict | NotJudged) -> str:
    values: dict[str, Any] = asdict(result)
    if isinstance(result, FileVerdict):
        values["reasons"] = [
            {"feature": reason.feature, "z": reason.z, "share": reason.share, "text": reason.text, "box": reason.box}
            for reason in result.reasons
        ]
    return json.dumps(values)


def _table_line(result: FileVerdict | NotJudged) -> str:
    if isinstance(result, NotJudged):
        return _printable(f"{'-':>9}  {'-':>10}  {'-':>15}  error    {result.name}: {result.detail}")
    verdict = "anomaly" if result.is_anomaly else "normal "
    reason = f": {result.reasons[0].text}" if result.is_anomaly and result.reasons else ""
    return _printable(
        f"{result.p_value:9.6f}  {result.statistic:10.3f}  {result.log_likelihood:15.3f}  {verdict}  "
        f"{result.name}{reason}"
    )


def _printable(line: str) -> str:
    """Return a line with escapes in place of control characters, by which a file name could forge other lines."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a rate above 0 and below 1, got {text}")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= 256):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 256, got {text}")
    return int(text)


def _fail(message: str, code: int) -> int:
    print(f"{NAME}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
