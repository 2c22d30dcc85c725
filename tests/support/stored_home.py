"""Stored homes, and a program that makes one: ``python -m tests.support.stored_home tests/data/home/NAME.tar.xz``.

A home that is made has the dataset ``parts`` of 8x8 pixels of 400 digits, and the model ``tiny`` of a few kilobytes
with two calibrations, and a second version by ``snf train``. There are a drift window, a detection limit, a table of
scores, and a paused training with its checkpoint.
"""

import io
import json
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.end_to_end.support.service import await_job, running, snf
from tests.models.helpers import real_images
from tests.support.paths import DATA

LEFT_OUT = ("cache", "logs", "*.log", "*.lock", "lock", "reserve", "server", "socket")
ARCHITECTURE: dict[str, Any] = {
    "name": "tiny",
    "levels": [
        {"steps": [{"type": "actnorm"}, {"type": "self-normalizing-1x1"}, {"type": "affine-coupling", "width": 4}]}
    ],
    "training": {"precision": "float32", "warmup_steps": 0},
}
TRAINING: dict[str, Any] = {
    "type": "train",
    "dataset": "parts",
    "architecture": ARCHITECTURE,
    "parameters": {"max_steps": 300, "validations": 3, "batch_size": 32, "validation_images": 40},
}


def unpack(name: str, folder: Path) -> Path:
    """Unpack a stored home, such as ``2026-12.tar.xz``, into an empty folder; return the folder."""
    with tarfile.open(DATA / "home" / name) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later have it
        archive.extractall(folder)
    return folder


def fill(client: httpx.Client, home: Path) -> None:
    """Upload the dataset, and run the jobs."""
    array = io.BytesIO()
    np.save(array, real_images(400, 8)[:, 0])
    upload = client.post("/v1/datasets", data={"name": "parts"}, files={"file": ("parts.npy", array.getvalue())})
    assert upload.status_code == 201, upload.text
    finish(client, TRAINING | {"model": "tiny", "promote": True})
    finish(client, {"type": "calibrate", "model": "tiny", "dataset": "parts", "parameters": {"activate": True}})
    finish(client, {"type": "score", "model": "tiny", "dataset": "parts", "parameters": {}})
    finish(client, {"type": "limit", "model": "tiny", "dataset": "parts", "parameters": {"images": 29}})
    body, headers = array.getvalue(), {"content-type": "application/x-npy"}
    client.post("/v1/models/tiny/score?source=line-1", content=body, headers=headers).raise_for_status()
    (file := home / "tiny.json").write_text(json.dumps(ARCHITECTURE))
    done = snf(home, "train", "--data", "parts", "--architecture", str(file), "--name", "tiny", "--max-steps", "20")
    assert done.returncode == 0, done.stderr
    file.unlink()
    more = TRAINING["parameters"] | {"max_steps": 1500, "checkpoint_seconds": 0.5}
    job = submit(client, TRAINING | {"model": "tiny", "parameters": more})
    while client.get(f"/v1/jobs/{job}").json()["checkpoint_step"] is None:
        time.sleep(0.05)
    client.post(f"/v1/jobs/{job}/pause").raise_for_status()
    await_job(client, job, "paused")


def submit(client: httpx.Client, request: dict[str, Any]) -> str:
    answer = client.post("/v1/jobs", json=request)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def finish(client: httpx.Client, request: dict[str, Any]) -> None:
    await_job(client, submit(client, request), "succeeded")


def pack(home: Path, archive: Path) -> None:
    """Write an archive of a home, without times, owners, logs, caches and locks."""
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(home.rglob("*")):
            name = path.relative_to(home)
            if path.is_symlink() or any(part.match(pattern) for part in (name, *name.parents) for pattern in LEFT_OUT):
                continue
            if path.name == "contact_sheet.png":  # half of the archive otherwise
                Image.open(path).convert("L").quantize(8).save(path, optimize=True)
            member = packed.gettarinfo(path, str(name))
            member.uid = member.gid = member.mtime = 0
            member.uname = member.gname = ""
            packed.addfile(member, path.open("rb") if path.is_file() else None)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="snf-home-") as folder:
        home = Path(folder)
        with running("snf_app.cli.main", "up", home=home, shipped=False) as client:
            fill(client, home)
        pack(home, Path(sys.argv[1]))
