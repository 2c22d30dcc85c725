"""A hundred kinds of files by every way in: the same is done to a file everywhere, and none is passed over.

``pytest tests/end_to_end/test_file_kinds.py --write-docs`` writes the table of tests/tables/file-kinds.md anew.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from snf_client import images
from snf_runtime.images import files
from tests.end_to_end.support.service import environment, running
from tests.support import ways_in
from tests.support.documents import check_table
from tests.support.file_kinds import FileKind, file_kinds
from tests.support.paths import ROOT
from tests.support.ways_in import COUNTED, Cells

KINDS = {kind.name: kind for kind in file_kinds()}
DIRECT = ("HTTP", "client")
FOLDERS = ("console", "`snf score`", "`snf score --url`", "`--out`", "watch folder")
STORES = ("dataset, folder", "dataset, zip")
JOB = "scoring job"


@dataclass(frozen=True)
class Seen:
    """What became of every file by every way in, and what commands said and counted of all files together."""

    cells: dict[str, Cells]
    exit_codes: dict[str, int]
    said: dict[str, str]
    skipped: dict[str, int]


@pytest.fixture(scope="module")
def seen(artifact: Path, module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder, out = tmp_path_factory.mktemp("incoming"), tmp_path_factory.mktemp("out")
    kinds = list(KINDS.values())
    for kind in kinds:
        (folder / kind.name).parent.mkdir(exist_ok=True)
        (folder / kind.name).write_bytes(kind.data)
    with (
        running("snf_app.cli.main", "serve", home=module_home, shipped=False) as service,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment(module_home, shipped=False).items():
            if name.startswith("SNF_"):
                patch.setenv(name, value)
        yield _seen(service, kinds, folder, out, module_home, artifact)


def _seen(service: httpx.Client, kinds: list[FileKind], folder: Path, out: Path, home: Path, artifact: Path) -> Seen:
    url = str(service.base_url)
    here, here_done = ways_in.by_command(folder, kinds)
    there, there_done = ways_in.by_command(folder, kinds, "--url", url)
    table, table_done = ways_in.by_table(folder, kinds, out / "scores.parquet")
    watched, watch_said = ways_in.by_watching(url, folder, kinds, out / "scores.csv")
    uploaded, skipped = ways_in.by_upload(url, folder, kinds, "from-folder")
    archived, skipped_in_zip = ways_in.by_archive(service, kinds, "from-zip")
    cells = {
        "HTTP": ways_in.by_http(service, kinds),
        "client": ways_in.by_client(url, folder, kinds),
        "console": ways_in.by_console(service, kinds),
        "`snf score`": here,
        "`snf score --url`": there,
        "`--out`": table,
        "watch folder": watched,
        "dataset, folder": uploaded,
        "dataset, zip": archived,
        JOB: ways_in.by_job(home, artifact, "from-folder", out / "part.parquet"),
    }
    done = {"`snf score`": here_done, "`snf score --url`": there_done, "`--out`": table_done}
    return Seen(
        cells,
        {way: result.exit_code for way, result in done.items()},
        {way: result.stderr for way, result in done.items()} | {"watch folder": watch_said},
        {"dataset, folder": skipped, "dataset, zip": skipped_in_zip},
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_treated_the_same_by_every_way_in(name: str, seen: Seen) -> None:
    kind = KINDS[name]
    for way in (*DIRECT, *FOLDERS):
        cell = seen.cells[way][name]
        if kind.is_counted and way in FOLDERS:
            assert cell.outcome == COUNTED, way
            continue
        assert (cell.outcome, kind.said in cell.said) == (kind.outcome, True), (way, cell)
    for way in STORES:
        cell = seen.cells[way][name]
        stored = kind.outcome != "refused" or kind.fits_a_dataset
        assert cell.outcome == (COUNTED if kind.is_counted else "stored" if stored else "refused"), (way, cell)
    if seen.cells["dataset, folder"][name].outcome == "stored":
        cell = seen.cells[JOB][name]
        assert (cell.outcome, kind.said in cell.said) == (kind.outcome, True), cell
    else:
        assert name not in seen.cells[JOB]
    scores = [cells[name].log_likelihood for cells in seen.cells.values() if name in cells]
    known = [score for score in scores if score is not None]
    assert known == pytest.approx([known[0]] * len(known), abs=1e-3) if known else kind.outcome == "refused"


def test_what_is_counted_is_said(seen: Seen) -> None:
    counted = [kind for kind in KINDS.values() if kind.is_counted]
    given = [kind for kind in KINDS.values() if not kind.is_counted]
    judged = sum(kind.outcome != "refused" for kind in given)
    assert len(counted) >= 8
    for way, code in seen.exit_codes.items():
        assert code == 4, way
        assert f"{judged} images judged, " in seen.said[way]
        assert f"{len(given) - judged} not judged" in seen.said[way]
    for way, said in seen.said.items():
        assert f"{len(counted)} files were skipped" in said, way
    assert seen.skipped == dict.fromkeys(STORES, len(counted))


def test_client_and_console_have_the_same_policy() -> None:
    assert files.TEXT_SUFFIXES == images.TEXT_SUFFIXES
    assert (files.SYSTEM_FILES, files.SYSTEM_FOLDER) == (images.SYSTEM_FILES, images.SYSTEM_FOLDER)
    found = re.search(r'^export const TYPES = "(.+)";$', ways_in.SOURCE, re.MULTILINE)
    assert found
    assert frozenset(found[1].split(",")) == images.IMAGE_SUFFIXES
    for name in ("a/.b/c.png", "__MACOSX/a.png", "Thumbs.DB", "desktop.ini", "a.b", "a.png", "a", "atxt", "a.txt.png"):
        assert files.is_no_image(name) == ways_in.console_skips(name) == images.is_no_image(Path(name)), name
    for suffix in (*files.TEXT_SUFFIXES, *images.IMAGE_SUFFIXES):
        for name in (f"a{suffix}", f"a/b{suffix.upper()}"):
            assert files.is_no_image(name) == ways_in.console_skips(name) == images.is_no_image(Path(name)), name


def test_the_document_shows_what_happens(seen: Seen, request: pytest.FixtureRequest) -> None:
    check_table(ROOT / "tests" / "tables" / "file-kinds.md", _markdown(seen), request.config)


def _markdown(seen: Seen) -> str:
    """The table as Markdown: ways that never differ share a column."""
    columns = {"HTTP, client": "HTTP", "folders": "`snf score`", "dataset": "dataset, folder", JOB: JOB}
    rows = [f"| file | what it is | {' | '.join(columns)} | what is said |", f"|{'---|' * (len(columns) + 3)}"]
    for name, kind in KINDS.items():
        cells = [seen.cells[way].get(name) for way in columns.values()]
        said = seen.cells["HTTP"][name].said
        shown = (cell.outcome if cell is not None else "-" for cell in cells)
        rows.append(f"| `{name}` | {kind.what} | {' | '.join(shown)} | {said} |")
    return "\n".join(rows) + "\n"
