"""Rows of real images: tables that other programs read, and scores equal to the bit to those over HTTP."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from pyarrow import dataset as arrow

from benchmarks.by_reference import ways
from benchmarks.by_reference.images import encoded, write_parquet, write_tars
from benchmarks.by_reference.output import scores
from benchmarks.by_reference.rows import Row, verdict
from benchmarks.by_reference.synthetic import Work
from benchmarks.installation import snf_up
from benchmarks.needs import data_dir, extra

with extra("test"):
    import duckdb
    import polars

REAL = 2_000
OVER_HTTP = 500
"""Images of each kind that are scored over HTTP as well."""


def measure(work: Work) -> None:
    """Measure all rows that are wanted."""
    if not work.rows.wants("readers", "tars", "parquet"):
        return
    folder = work.folder / "real"
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(data_dir("mnist") / "mnist.npz", allow_pickle=False) as arrays:
        pixels = arrays["x_test"][:REAL]
    names = [f"{index:08d}" for index in range(REAL)]
    jpegs, pngs = ([encoded(one, kind) for one in pixels] for kind in ("JPEG", "PNG"))
    write_tars(folder / "tars", [f"{name}.jpg" for name in names], jpegs)
    (folder / "parquet").mkdir(exist_ok=True)
    write_parquet(folder / "parquet" / "images.parquet", [f"{name}.png" for name in names], pngs)
    with work.home("real") as home:
        found = {}
        for kind in ("tars", "parquet"):
            out = work.output(kind)
            ways.bulk(home, str(folder / kind), str(out)).wait()
            found[kind] = scores(out)
        with snf_up(home, threads=ways.THREADS) as client:
            for kind, files, ending in (("tars", jpegs, "jpg"), ("parquet", pngs, "png")):
                by_name = {Path(name).name: score for name, score in found[kind].items()}
                wrong = 0
                for name, data in list(zip(names, files, strict=True))[:OVER_HTTP]:
                    answer = client.patient(
                        "POST",
                        f"/v1/models/{ways.MODEL}/score",
                        content=data,
                        headers={"content-type": f"image/{'jpeg' if ending == 'jpg' else 'png'}"},
                    ).raise_for_status()
                    wrong += answer.json()["results"][0]["log_likelihood"] != by_name[f"{name}.{ending}"]
                what = "a WebDataset of JPEGs" if kind == "tars" else "a Parquet file of PNGs"
                work.rows.record(
                    Row(
                        kind,
                        f"log-likelihoods of {what}, {len(by_name):,} real images, beside those over HTTP",
                        f"{wrong} of {OVER_HTTP} differ; {REAL - len(by_name)} images lost",
                        "equal to the bit",
                        verdict(wrong == 0 and len(by_name) == REAL),
                    )
                )
    _readers(work, work.folder / "scores" / "parquet")


def _readers(work: Work, out: Path) -> None:
    columns = ["log_likelihood", "statistic", "is_anomaly"]
    table = arrow.dataset(out, format="parquet").to_table(columns=columns)  # names that begin with _ are left out
    ours = _totals(*(table[name].to_pylist() for name in columns))
    files = str(out / "*.parquet")
    rows = duckdb.connect().execute(f"SELECT {', '.join(columns)} FROM read_parquet('{files}')").fetchall()
    lazy = polars.scan_parquet(files)
    frame = lazy.select(columns).collect()
    theirs = {
        "DuckDB": _totals(*map(list, zip(*rows, strict=True))),
        "Polars": _totals(*(frame[name].to_list() for name in columns)),
    }
    count = "count(*), count(*) FILTER (is_anomaly)"
    counted = {
        "DuckDB": duckdb.connect().execute(f"SELECT {count} FROM read_parquet('{files}')").fetchall()[0],
        "Polars": lazy.select(polars.len(), anomalies=polars.col("is_anomaly").sum()).collect().row(0),
    }
    same = all(found == ours for found in theirs.values()) and all(
        pair == (ours[0], ours[3]) for pair in counted.values()
    )
    work.rows.record(
        Row(
            "readers",
            "the table read by DuckDB, Polars and PyArrow: rows, sums of log-likelihood and statistic, anomalies",
            "; ".join(f"{name}: {found[0]:,} rows, {found[1]!r}" for name, found in theirs.items()),
            "equal to those of PyArrow",
            verdict(same),
            {"pyarrow": ours, **theirs},
        )
    )


def _totals(likelihoods: list[float], statistics: list[float], anomalies: list[bool]) -> tuple[int, float, float, int]:
    # Exact sums do not depend on the order in which a program reads the files.
    return len(likelihoods), math.fsum(likelihoods), math.fsum(statistics), sum(anomalies)
