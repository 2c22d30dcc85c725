"""Streaming parser of the multipart form of a dataset upload, which writes the files to disk as they arrive."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from snf_app.http.errors import Problem, invalid, unsupported_media_type
from snf_app.scoring.request_images import MULTIPART
from snf_client.schemas.base import NAME_RULE
from snf_models.datasets import Source
from snf_models.datasets.report import NearDuplicates
from snf_models.naming import is_name

NAME, FILE, NEAR_DUPLICATES = "name", "file", "near_duplicates"
MAX_FILES = 100_000
"""Most files in a form, each of which is a file on disk; an archive may contain more."""
MAX_NAME_BYTES = 64


class DatasetForm:
    """Parser that calls ``check_name`` as the name arrives and ``take`` before bytes are written; raises 4xx."""

    def __init__(
        self,
        content_type: str | None,
        folder: Path,
        check_name: Callable[[str], None],
        take: Callable[[int], None],
    ) -> None:
        kind, options = parse_options_header(content_type)
        if kind != MULTIPART.encode():
            raise unsupported_media_type(kind.decode(errors="replace"), [MULTIPART])
        self._folder = folder
        self._check_name = check_name
        self._take = take
        self._name: str | None = None
        self._near_duplicates: NearDuplicates | None = None
        self._sources: list[Source] = []
        self._ended = False
        self._header, self._value = b"", b""
        self._field = b""
        self._text = b""
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
        if self._name is None:
            raise invalid(f"/body/{NAME}", "expected the name of the dataset, got none")
        if not self._sources:
            raise invalid(f"/body/{FILE}", "expected at least one file, got none")
        return self._name, self._sources, self._near_duplicates or "keep"

    def _begin_part(self) -> None:
        self._field = self._text = self._header = self._value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._field = self._value
        self._header = self._value = b""

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._field)
        self._field = options.get(b"name", b"")
        filename = options.get(b"filename")
        match self._field, filename:
            case b"name", None:
                if self._name is not None:
                    raise invalid(f"/body/{NAME}", "expected a single name, got two")
            case b"name", _:
                raise invalid(f"/body/{NAME}", "expected text, got a file")
            case b"near_duplicates", None:
                if self._near_duplicates is not None:
                    raise invalid(f"/body/{NEAR_DUPLICATES}", "expected a single value, got two")
            case b"near_duplicates", _:
                raise invalid(f"/body/{NEAR_DUPLICATES}", "expected text, got a file")
            case b"file", None:
                raise invalid(f"/body/{FILE}", "expected a file with a file name, got text")
            case b"file", bytes():
                self._begin_file(filename)
            case _:
                field = self._field.decode(errors="replace")
                raise invalid(
                    f"/body/{field}", f"unknown form field; expected {NAME!r}, {FILE!r} or {NEAR_DUPLICATES!r}"
                )

    def _begin_file(self, filename: bytes) -> None:
        if len(self._sources) == MAX_FILES:
            raise Problem(
                413, "too-many-files", "Too many files", f"a form may carry {MAX_FILES} files; send an archive of them"
            )
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
                raise invalid(f"/body/{self._field.decode()}", f"expected at most {MAX_NAME_BYTES} characters")

    def _end_part(self) -> None:
        if self._file is not None:
            self._file = None
            self._open.close()
            return
        text = self._text.decode(errors="replace")
        if self._field == NEAR_DUPLICATES.encode():
            self._near_duplicates = _near_duplicates(text)
            return
        if not is_name(text):
            raise invalid(f"/body/{NAME}", f"expected {NAME_RULE}")
        self._name = text
        self._check_name(self._name)

    def _end(self) -> None:
        self._ended = True


def _near_duplicates(text: str) -> NearDuplicates:
    if text == "keep":
        return "keep"
    if text == "drop":
        return "drop"
    raise invalid(f"/body/{NEAR_DUPLICATES}", f"expected 'keep' or 'drop', got {text!r}")


def _malformed(detail: str) -> Problem:
    return Problem(400, "malformed-form", "The form cannot be read", f"{MULTIPART}: {detail}")
