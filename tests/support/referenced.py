"""The same real digits at a location in each of the forms that a dataset by reference may have."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from snf_models.datasets import DatasetStore
from snf_models.datasets.store import NewReference, fill_reference
from snf_models.locations.location import Location
from tests.support.paths import ROOT

Form = Literal["folder", "tar", "parquet", "parquet-struct"]
FORMS: tuple[Form, ...] = ("folder", "tar", "parquet", "parquet-struct")
NamedFile = tuple[str, bytes]


def digits(count: int = 60) -> list[NamedFile]:
    """Return names and contents of PNG files of real digits, sorted by name; each name is there once."""
    files = sorted((ROOT / "tests" / "data" / "mnist").glob("*.png"))
    return [(f"{place:05d}.png", files[place % len(files)].read_bytes()) for place in range(count)]


def tar_of(files: Sequence[NamedFile]) -> bytes:
    """Return a tar archive of files."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def parquet_of(table: pa.Table, rows: int = 17) -> bytes:
    """Return a Parquet file of a table, in row groups of 17 rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=rows)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def put(location: Location, form: Form, files: Sequence[NamedFile], shard: int = 25) -> list[str]:
    """Write images to a location in one form, in several files; return the names that they have as a dataset."""
    shards = [files[start : start + shard] for start in range(0, len(files), shard)]
    if form == "folder":
        for name, content in files:
            location.child(f"lot {name[0]}/{name}").write(content)
        return [f"lot {name[0]}/{name}" for name, _ in files]
    if form == "tar":
        for number, some in enumerate(shards):
            labelled = [part for name, content in some for part in ((f"{name[:-4]}.cls", b"7"), (name, content))]
            location.child(f"{number:02d}.tar").write(tar_of(labelled))
        return [f"{number:02d}.tar/{name}" for number, some in enumerate(shards) for name, _ in some]
    for number, some in enumerate(shards):
        names, contents = [name for name, _ in some], [content for _, content in some]
        if form == "parquet":
            table = pa.table({"label": [7] * len(some), "image": pa.array(contents, pa.binary()), "name": names})
        else:
            structs = [{"bytes": content, "path": name} for name, content in some]
            table = pa.table({"picture": structs, "label": [7] * len(some)})
        location.child(f"{number:02d}.parquet").write(parquet_of(table))
    location.child("_SUCCESS").write(b"")
    return [f"{number:02d}.parquet/{name}" for number, some in enumerate(shards) for name, _ in some]


def refer_to(
    store: DatasetStore, name: str, location: Location, *, inspect: bool = False, by_request: bool = False
) -> None:
    """Create a dataset by reference in this process."""
    with store.creating(name) as folder:
        fill_reference(folder, NewReference(name, location.url, None, inspect, store.quota, by_request))
