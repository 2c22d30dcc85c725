"""Health check of the workers of this machine or container, by what they announce."""

import socket

from worker.broker.embedded import redis_client
from worker.errors import BrokerDown
from worker.jobs.worker_registry import Presence, WorkerState
from worker.launch.workers import worker_parts
from worker.settings import Settings


def check_workers(settings: Settings) -> tuple[bool, str]:
    """Return whether every worker that these settings ask for is alive and receives jobs, and a line that says so.

    In an outage of the broker no worker can announce itself. They count as healthy, because to restart them would not
    mend the broker and would interrupt what they train. Raises `ValueError` where no device can serve a wanted queue.
    """
    client = redis_client(settings)
    try:
        found = Presence(client, settings.key_prefix).workers()
    except BrokerDown as problem:
        return True, f"cannot be checked: {problem.detail}"
    finally:
        client.close()
    here = {worker.device: worker for worker in found if worker.name.startswith(f"{socket.gethostname()}:")}
    wanted = [device for part in worker_parts(settings) for device in part.settings.devices]
    problems = [f"no worker of {device} is alive on this machine" for device in wanted if device not in here]
    problems += [
        f"worker {here[device].name} receives no messages"
        for device in wanted
        if device in here and here[device].state is WorkerState.NOT_RECEIVING
    ]
    if problems:
        return False, "; ".join(problems)
    return True, "; ".join(f"{here[device].name} ({device}): {here[device].state}" for device in wanted)
