"""Detection, without PyTorch, of the devices that run jobs. Each device has its own worker process."""

import shutil
import subprocess
from collections.abc import Sequence

from snf_worker.queues import DeviceKind, Queue

AUTO, CPU, CUDA = "auto", "cpu", "cuda"


def find_devices(wanted: Sequence[str]) -> list[str]:
    """Return the names of the wanted devices, with ``auto`` replaced by all GPUs and the CPU.

    GPUs are the NVIDIA GPUs that ``nvidia-smi`` lists.

    >>> find_devices(["cuda:1", "cpu", "cpu"])
    ['cuda:1', 'cpu']
    """
    devices: list[str] = []
    for name in wanted:
        devices += [*_gpus(), CPU] if name == AUTO else [name]
    return list(dict.fromkeys(devices))


def kind_of(device: str) -> DeviceKind:
    return "cuda" if device.startswith(CUDA) else "cpu"


def queues_of(device: str) -> list[Queue]:
    """Return the queues that a device serves: the training queue for its kind of device, and the scoring queue."""
    return [Queue.TRAIN_GPU if kind_of(device) == CUDA else Queue.TRAIN_CPU, Queue.SCORE]


def process_name(device: str) -> str:
    """Return the name of a device's worker process for messages and log files, such as ``worker-cuda-0``.

    >>> process_name("cpu"), process_name("cuda:0")
    ('worker', 'worker-cuda-0')
    """
    return "worker" if device == CPU else f"worker-{device.replace(':', '-')}"


def variables(device: str) -> dict[str, str]:
    """Return the ``CUDA_VISIBLE_DEVICES`` that lets a child process use only this GPU, or none for ``cpu``."""
    return {"CUDA_VISIBLE_DEVICES": device.partition(":")[2] if kind_of(device) == CUDA else ""}


def _gpus() -> list[str]:
    query = shutil.which("nvidia-smi")
    if query is None:
        return []
    try:
        answer = subprocess.run(
            [query, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return []  # a driver that does not answer has no usable GPU
    return [f"cuda:{index.strip()}" for index in answer.stdout.split() if index.strip().isdigit()]
