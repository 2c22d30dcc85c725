"""Run ``snf bulk --engine ray`` by a Ray of this machine: ``python -m tests.end_to_end.support.ray_use HOME``.

Print, as JSON, what this network namespace counted of packets without a route, and addresses other than loopback that
something in it listened on meanwhile.
"""

import ipaddress
import json
import sys
import threading
import time
from pathlib import Path

from tests.end_to_end.support.network_use import raise_loopback, without_route
from tests.end_to_end.support.service import snf_process

LISTENING = "0A"


def listened() -> set[str]:
    """Return the addresses that something listens on."""
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == LISTENING:
                words = bytes.fromhex(local.partition(":")[0])
                # Each word of 4 bytes is in the order of the machine, which is little-endian.
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                address = ipaddress.ip_address(packed)
                addresses.add(str(getattr(address, "ipv4_mapped", None) or address))
    return addresses


def main() -> None:
    """Score while the addresses are watched."""
    home = Path(sys.argv[1])
    raise_loopback()
    before, seen, done = without_route(), set[str](), threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.update(listened())
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    arguments = (
        "bulk",
        "mnist-mini",
        "--out",
        str(home / "scores"),
        "-m",
        "mnist-snf-glow",
        "--engine",
        "ray",
        "--json",
    )
    result = snf_process(home, *arguments, ray_address="local", measured=False)
    done.set()
    watcher.join()
    summary = json.loads(result.stdout) if result.returncode == 0 else result.stderr
    foreign = sorted(address for address in seen if not ipaddress.ip_address(address).is_loopback)
    report = {"summary": summary, "listened": len(seen), "foreign": foreign, "without_route": without_route() - before}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
