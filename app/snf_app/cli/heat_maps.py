# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Folder of heat maps that ``snf score --explain`` writes, with a record of their model and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from snf_app.cli.common import fail
from snf_runtime.errors import USAGE
from snf_worker.process_setup import user_umask

if TYPE_CHECKING:
    from snf_app.cli.judging_model import JudgingModel
    from snf_app.cli.score_tables import ScoreOutput
    from snf_client.scores import ImageResult, ScorePart

RECORD = "heat-maps.json"
MAX_NAME_BYTES = 255
"""Longest name of a file on usual file systems, bytes."""
ADVICE = "choose another folder, or write over them with --force"


class HeatMapRecord(BaseModel):
    """Record of the model, calibration and images of a folder's heat maps, for a repeated command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    calibration: int
    images: list[str]

    @property
    def label(self) -> str:
        """Text such as: heat maps of 3 images by digits:2 with calibration 1."""
        return f"heat maps of {len(self.images)} images by {self.model} with calibration {self.calibration}"

    @property
    def files(self) -> list[str]:
        return [file_name(index, image) for index, image in enumerate(self.images)]


def file_name(index: int, image: str) -> str:
    """Return the PNG file name of an image's heat map, made of the image's index and name.

    A name that would be too long for a file is cut.

    >>> file_name(7, "lot-3/plate.jpg")
    '00007-plate.png'
    """
    start, end = f"{index:05d}-", ".png"
    stem = Path(image).stem.encode()[: MAX_NAME_BYTES - len(start) - len(end)].decode(errors="ignore")
    return f"{start}{stem}{end}"


def earlier_files(folder: Path) -> list[Path]:
    """Return the paths of the heat maps that an earlier command recorded in a folder."""
    return _present(folder, _read(folder / RECORD))


def check_folder(folder: Path, model: JudgingModel, images: Sequence[str], *, force: bool) -> HeatMapRecord:
    """Return the record of new heat maps; exit with code 2 if the folder holds others, unless ``force`` is set."""
    if folder.exists() and not folder.is_dir():
        raise fail(f"--explain: expected a folder for the heat maps, got the file {folder}", USAGE)
    wanted = HeatMapRecord(model=model.ref, calibration=model.calibration, images=list(images))
    held = _read(folder / RECORD)
    if held != wanted and not force and (_present(folder, held) or _present(folder, wanted)):
        got = "files of the same names" if held is None else held.label
        raise fail(f"--explain: {folder} holds {got}, not {wanted.label}; {ADVICE}", USAGE)
    return wanted


class HeatMapWriter:
    """Output that saves heat maps as PNG files, and passes the rest on to another output."""

    def __init__(self, folder: Path, record: HeatMapRecord, output: ScoreOutput) -> None:
        self._folder = folder
        self._record = record
        self._output = output
        self._begun = False

    def add(self, part: ScorePart) -> None:
        if not self._begun:
            # Not before: a command that is refused leaves the folder as it is.
            self._replace_earlier()
            self._begun = True
        self._output.add(part.with_results(map(self._without, part.results)))

    def end(self) -> None:
        self._output.end()

    def _without(self, result: ImageResult) -> ImageResult:
        from snf_client import heat_map_png

        if result.status != "ok" or result.heat_map is None:
            return result
        name = file_name(result.index, result.filename or "image")
        with user_umask():
            (self._folder / name).write_bytes(heat_map_png(result.heat_map))
        heat_map = result.heat_map
        numbers = heat_map.model_fields_set - {"png", "layer", "npy"}
        brief = type(heat_map).model_construct(numbers, **{field: getattr(heat_map, field) for field in numbers})
        return result.model_copy(update={"heat_map": brief})

    def _replace_earlier(self) -> None:
        """Delete earlier heat maps: an image that is not judged this time would keep its own."""
        from snf_models.disk import write_atomically

        for file in {*earlier_files(self._folder), *_present(self._folder, self._record)}:
            file.unlink()
        with user_umask():
            write_atomically(self._folder / RECORD, self._record.model_dump_json(indent=1).encode())


def _present(folder: Path, record: HeatMapRecord | None) -> list[Path]:
    """Return the recorded heat maps that are in the folder."""
    return [] if record is None else [folder / name for name in record.files if (folder / name).exists()]


def _read(path: Path) -> HeatMapRecord | None:
    try:
        return HeatMapRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
