"""The example that scores by Ray Data, as users run it: rows are those of a scorer to the bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from snf_models.scorer import Scorer, load_model
from tests.support.compiled_cache import compiled, share_compiled_with_user
from tests.support.paths import DIGITS, ROOT
from tests.support.ray_cluster import ENVIRONMENT, RayCluster
from tests.support.unmeasured import unmeasured


@pytest.fixture(scope="module")
def scorer(artifact: Path) -> Scorer:
    """Opened once before the example opens it: its processes find what it compiled."""
    return load_model(artifact, options=compiled())


@pytest.mark.timeout(300)
def test_a_parquet_file_of_images_is_scored(
    artifact: Path, scorer: Scorer, tmp_path: Path, ray_cluster: RayCluster
) -> None:
    images: list[bytes | None] = [path.read_bytes() for path in DIGITS]
    images[3], images[5] = b"no image", None
    names = [path.name for path in DIGITS]
    parquet.write_table(pa.table({"name": names, "image": pa.array(images, pa.binary())}), tmp_path / "images.parquet")
    command = [
        sys.executable,
        ROOT / "examples" / "ray_scores.py",
        tmp_path / "images.parquet",
        artifact,
        tmp_path / "out",
    ]
    paths = f"{ENVIRONMENT['PYTHONPATH']}:{os.environ.get('PYTHONPATH', '')}"
    own = {"HOME": str(share_compiled_with_user(tmp_path / "user")), "PYTHONPATH": paths}
    environment = unmeasured() | ENVIRONMENT | own | {"RAY_ADDRESS": ray_cluster.address}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    if done.returncode == -signal.SIGSEGV:
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
