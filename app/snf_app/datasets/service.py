"""Datasets: the answers about them, the form that uploads one, and what creates one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from snf_app.http.admission import FairShares
from snf_app.http.errors import Problem, invalid, unsupported_media_type
from snf_app.http.uploads import UploadBody, UploadFolders, UploadWatch, note_target, upload_slot
from snf_app.scoring.request_images import MULTIPART
from snf_client.schemas.base import NAME_RULE
from snf_client.schemas.datasets import DatasetDetail, DatasetEntry, ReferenceRequest
from snf_client.schemas.training import ImageOptions
from snf_models.datasets import DatasetStore, DatasetSummary, Source, dataset_names, summarize
from snf_models.datasets.storage import NearDuplicates
from snf_models.datasets.store import NAMES, builtin_file, check_stored, summarize_report
from snf_models.disk import DiskQuota, make_folder
from snf_models.errors import ModelsError
from snf_models.locations.location import allowed_location
from snf_models.naming import is_name
from snf_worker.sandbox.uploads import ingest, refer
from snf_worker.settings import Settings

NOTHING_KNOWN: dict[str, object] = {
    "image_shape": [],
    "smallest": [],
    "largest": [],
    **dict.fromkeys(("images", "bytes", "train", "statistics", "calibration", "test", "folds"), 0),
    "created": None,
    "report": None,
    "reference": None,
}
"""Fields of a dataset of which nothing is known yet."""


def entries(store: DatasetStore, data_dir: Path | None, names: Sequence[str] | None = None) -> list[DatasetEntry]:
    """Return summaries, by default of all; of an unusable dataset with zero counts and the reason in ``problem``."""
    result = []
    for name in dataset_names(data_dir, store) if names is None else names:
        try:
            fields = _fields(name, store, data_dir)
        except ModelsError as error:
            origin = "built-in" if name in NAMES else "stored"
            fields = NOTHING_KNOWN | {"name": name, "origin": origin, "problem": error.detail}
        result.append(DatasetEntry.model_validate(fields))
    return result


def detail(name: str, store: DatasetStore, data_dir: Path | None) -> DatasetDetail:
    """Return a dataset with its report; raise ``DatasetNotFound`` or ``DatasetUnfit``."""
    fields = _fields(name, store, data_dir)
    links = {"self": f"/v1/datasets/{name}"}
    if fields["report"] is not None:
        links["contact_sheet"] = f"/v1/datasets/{name}/contact-sheet"
    return DatasetDetail.model_validate(fields | {"links": links})


def _fields(name: str, store: DatasetStore, data_dir: Path | None) -> dict[str, object]:
    """Return what ``DatasetDetail`` has beside its links; ``DatasetEntry`` takes its own part of it."""
    path = builtin_file(name, data_dir)
    fields = NOTHING_KNOWN | {"name": name, "origin": "built-in"}
    if path is not None:
        summary = summarize(name, data_dir, store)
        size = list(summary.image_shape[:0:-1])
        return fields | _counts(summary) | {"smallest": size, "largest": size, "bytes": path.stat().st_size}
    check_stored(name, data_dir, store)
    record = store.reference(name)
    fields["origin"] = "stored" if record is None else "reference"
    if record is not None:
        known = record.model_dump(include={"images", "bytes", "created", "location"})
        fields |= {"reference": record, **known}
        if not store.is_inspected(name):
            return fields
    report = store.report(name)
    return (
        fields
        | _counts(summarize_report(report, ImageOptions()))
        | {
            "report": report,
            "smallest": list(report.facts.smallest),
            "largest": list(report.facts.largest),
            "bytes": report.bytes,
            "created": report.created,
        }
    )


def _counts(summary: DatasetSummary) -> dict[str, object]:
    parts = {part: getattr(summary, part) for part in ("train", "statistics", "calibration", "test")}
    return {"images": sum(parts.values()), "image_shape": list(summary.image_shape), "folds": summary.folds, **parts}


NAME, FILE, NEAR_DUPLICATES = "name", "file", "near_duplicates"
MAX_FILES = 100_000  # most files in a form, each of which is a file on disk; an archive may contain more
MAX_NAME_BYTES = 64


class DatasetForm:
    """Parser that calls ``check_name`` as the name arrives and ``take`` before bytes are written; raises 4xx."""

    def __init__(
        self, content_type: str | None, folder: Path, check_name: Callable[[str], None], take: Callable[[int], None]
    ) -> None:
        kind, options = parse_options_header(content_type)
        if kind != MULTIPART.encode():
            raise unsupported_media_type(kind.decode(errors="replace"), [MULTIPART])
        self._folder = folder
        self._check_name = check_name
        self._take = take
        self._texts: dict[str, str | None] = {NAME: None, NEAR_DUPLICATES: None}
        self._sources: list[Source] = []
        self._ended = False
        self._header, self._value = b"", b""
        self._disposition = self._text = b""
        self._field = ""
        self._file: BinaryIO | None = None
        self._open = ExitStack()
        if not options.get(b"boundary"):
            raise _malformed("its content type names no boundary")
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_content,
                    "on_part_data": self._content,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def write(self, data: bytes) -> None:
        """Parse the next bytes of the multipart form, and write the contents of uploaded files to disk."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def close(self) -> None:
        self._open.close()

    def finish(self) -> tuple[str, list[Source], NearDuplicates]:
        """Return name, files and what to do with near duplicates; raise 400 or 422 if the form is incomplete."""
        self.close()
        if not self._ended:
            raise _malformed("it ends before its last boundary")
        name = self._texts[NAME]
        if name is None:
            raise invalid(f"/body/{NAME}", "expected the name of the dataset, got none")
        if not self._sources:
            raise invalid(f"/body/{FILE}", "expected at least one file, got none")
        near_duplicates: NearDuplicates = "drop" if self._texts[NEAR_DUPLICATES] == "drop" else "keep"
        return name, self._sources, near_duplicates

    def _begin_part(self) -> None:
        self._disposition = self._text = self._header = self._value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._field = options.get(b"name", b"").decode(errors="replace")
        filename = options.get(b"filename")
        if self._field not in (FILE, *self._texts):
            known = f"{NAME!r}, {FILE!r} or {NEAR_DUPLICATES!r}"
            raise invalid(f"/body/{self._field}", f"unknown form field; expected {known}")
        if self._field == FILE:
            if filename is None:
                raise invalid(f"/body/{FILE}", "expected a file with a file name, got text")
            self._begin_file(filename)
        elif filename is not None:
            raise invalid(f"/body/{self._field}", "expected text, got a file")
        elif self._texts[self._field] is not None:
            raise invalid(f"/body/{self._field}", "expected a single value, got two")

    def _begin_file(self, filename: bytes) -> None:
        if len(self._sources) == MAX_FILES:
            raise Problem("too-many-files", f"a form may carry {MAX_FILES} files; send an archive of them")
        path = self._folder / str(len(self._sources))
        self._file = self._open.enter_context(path.open("xb"))
        self._sources.append(Source(path, filename.decode(errors="surrogateescape")))

    def _content(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._take(end - start)
            self._file.write(memoryview(data)[start:end])
        else:
            self._text += data[start:end]
            if len(self._text) > MAX_NAME_BYTES:
                raise invalid(f"/body/{self._field}", f"expected at most {MAX_NAME_BYTES} characters")

    def _end_part(self) -> None:
        if self._file is not None:
            self._file = None
            self._open.close()
            return
        text = self._texts[self._field] = self._text.decode(errors="replace")
        if self._field == NEAR_DUPLICATES:
            if text not in ("keep", "drop"):
                raise invalid(f"/body/{NEAR_DUPLICATES}", f"expected 'keep' or 'drop', got {text!r}")
        elif not is_name(text):
            raise invalid(f"/body/{NAME}", f"expected {NAME_RULE}")
        else:
            self._check_name(text)

    def _end(self) -> None:
        self._ended = True


def _malformed(detail: str) -> Problem:
    return Problem("malformed-form", f"{MULTIPART}: {detail}")


log = logging.getLogger(__name__)


class DatasetUploads:
    """Service that creates datasets; it limits how many each caller may create at once."""

    def __init__(self, settings: Settings, store: DatasetStore, draining: threading.Event) -> None:
        self._settings = settings
        self._store = store
        self._folders = UploadFolders(settings.uploads_dir, store.root)
        self._slots = FairShares(settings.max_dataset_uploads)
        self._draining = draining
        self._stopping = threading.Event()

    def start(self) -> None:
        """Delete uploads that a killed process left; a failure is only logged."""
        try:
            self._folders.sweep()
        except OSError as error:
            # Scoring works without the folder.
            log.error("leftovers of uploads cannot be removed: %s", error)

    def stop(self) -> None:
        """Abort validation and indexing with 503; transfers end when the service starts to drain."""
        self._stopping.set()

    def receive(self, request: Request) -> str:
        """Store a multipart upload as a dataset and return its name, in a thread of the framework."""
        with upload_slot(self._slots, request), self._folders.new() as folder:
            make_folder(self._store.root)
            room = DiskQuota(self._store.root, self._settings.dataset_quota_bytes)
            body = UploadBody(request, self._settings.max_dataset_bytes, self._draining)
            room.require(body.declared)
            kind = request.headers.get("content-type")
            # The name is checked again at the end; this check spares a long upload in vain.
            with closing(DatasetForm(kind, folder, self._store.check_free, room.take)) as form:
                for chunk in body.chunks():
                    form.write(chunk)
                name, sources, near_duplicates = form.finish()
            note_target(folder, name)
            ingest(self._store, name, sources, self._settings, UploadWatch(request, self._stopping), near_duplicates)
        return name

    def refer(self, request: Request, reference: ReferenceRequest) -> None:
        """Create a dataset of images at a location, without copying, in a thread of the framework."""
        location = allowed_location(reference.location, self._settings.allowed_locations, self._settings.home)
        self._store.check_free(reference.name)
        with upload_slot(self._slots, request), self._folders.new() as folder:
            note_target(folder, reference.name)
            refer(
                self._store,
                reference.name,
                location,
                self._settings,
                UploadWatch(request, self._stopping),
                column=reference.column,
                inspect=reference.inspect,
                by_request=True,
            )
