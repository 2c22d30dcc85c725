"""One of two processes that torchrun starts: ``torchrun -m tests.models.training.torchrun_member FOLDER``.

It writes what torchrun gave it to ``FOLDER/RANK.json``. Then the second one dies, and the first one waits to be ended.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    (folder / f"{rank}.part").write_text(json.dumps({name: os.environ[name] for name in VARIABLES}))
    (folder / f"{rank}.part").rename(folder / f"{rank}.json")
    if rank == "0":
        signal.pause()
    while not (folder / "0.json").exists():
        time.sleep(0.01)
    raise SystemExit(9)
