"""The examples that score by Dask, Ray Data and Spark, as users run them: rows are those of a scorer to the bit."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from models.scorer import Scorer
from tests.support.compiled_cache import compiled, share_compiled_with_user
from tests.support.paths import DIGITS, ROOT
from tests.support.ray_cluster import ENVIRONMENT, RayCluster
from tests.support.unmeasured import unmeasured

NO_SPARK = "needs Java and pyspark, which are no part of the tests' installation"
HAS_SPARK = importlib.util.find_spec("pyspark") is not None and shutil.which("java") is not None


@pytest.fixture(scope="module")
def scorer(artifact: Path) -> Scorer:
    """Opened once before the examples open it: their processes find what it compiled."""
    return Scorer.load(artifact, options=compiled())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "engine", ["dask", "ray", pytest.param("spark", marks=pytest.mark.skipif(not HAS_SPARK, reason=NO_SPARK))]
)
def test_a_parquet_file_of_images_is_scored(
    engine: str, artifact: Path, scorer: Scorer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    images: list[bytes | None] = [path.read_bytes() for path in DIGITS]
    images[3], images[5] = b"no image", None
    names = [path.name for path in DIGITS]
    parquet.write_table(pa.table({"name": names, "image": pa.array(images, pa.binary())}), tmp_path / "images.parquet")
    command = [
        sys.executable,
        ROOT / "examples" / f"{engine}_scores.py",
        tmp_path / "images.parquet",
        artifact,
        tmp_path / "out",
    ]
    paths = f"{ENVIRONMENT['PYTHONPATH']}:{os.environ.get('PYTHONPATH', '')}"
    spark = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    own = {"HOME": str(share_compiled_with_user(tmp_path / "user")), "PYTHONPATH": paths}
    environment = unmeasured() | ENVIRONMENT | spark | own
    if engine == "ray":
        cluster: RayCluster = request.getfixturevalue("ray_cluster")
        environment |= {"RAY_ADDRESS": cluster.address}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    if engine == "ray" and done.returncode == -signal.SIGSEGV:
        # Ray's client may crash while its process exits, after the program's end.
        assert done.stdout.endswith("done\n"), done.stdout + done.stderr
    else:
        assert done.returncode == 0, done.stdout + done.stderr
    table = parquet.read_table(tmp_path / "out").to_pydict()
    assert table["name"] == names
    assert [name for name, error in zip(names, table["error"], strict=True) if error] == [names[3], names[5]]
    wanted = scorer({"image": images})
    assert np.array_equal(np.array(table["log_likelihood"], np.float64), wanted["log_likelihood"], equal_nan=True)
    assert table["is_anomaly"] == wanted["is_anomaly"].tolist()
