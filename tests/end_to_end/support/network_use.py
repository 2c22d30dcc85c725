"""Start everything, score, train and open the console: ``python -m tests.end_to_end.support.network_use HOME``.

Print what this network namespace counted of packets without a route, as JSON.
"""

import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path

from tests.end_to_end.support.jobs import SMALL
from tests.end_to_end.support.service import MNIST, await_job, running, score_one
from tests.support.paths import DIGITS

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
TRAINING = {
    "type": "train",
    "dataset": "digits",
    "architecture": SMALL,
    "model": "first",
    "parameters": {"max_steps": 1, "validations": 1, "batch_size": 8, "validation_images": 5},
}


def raise_loopback() -> None:
    """Bring up the loopback device of a new network namespace."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH", b"lo", IFF_UP) + bytes(14))


def without_route() -> int:
    """Return how many times something in this namespace asked for a host that no route leads to."""
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    ipv4 = int(dict(zip(*lines, strict=True))["OutNoRoutes"])
    ipv6 = [line.split()[1] for line in Path("/proc/net/snmp6").read_text().splitlines() if "Ip6OutNoRoutes" in line]
    return ipv4 + sum(map(int, ipv6))


def main() -> None:
    """Use the product as its users do."""
    home, alone = Path(sys.argv[1]), os.environ.get("NETWORK_ALONE") == "1"
    if alone:
        raise_loopback()
    before = without_route() if alone else 0
    with running("snf_app.cli.main", "up", home=home, shipped=MNIST) as client:
        score_one(client, MNIST, DIGITS[0].read_bytes())
        for path in ("/", "/docs", "/metrics"):
            client.get(path, follow_redirects=True).raise_for_status()
        files = [("file", (path.name, path.read_bytes())) for path in DIGITS]
        uploaded = client.post("/v1/datasets", data={"name": "digits"}, files=files)
        assert uploaded.status_code == 201, uploaded.text
        job = client.post("/v1/jobs", json=TRAINING).json()["id"]
        await_job(client, job, "succeeded")
        score_one(client, "first:1", DIGITS[0].read_bytes())
    print(json.dumps({"without_route": without_route() - before if alone else None}))


if __name__ == "__main__":
    main()
