"""Every setting of the product, read from `SNF_*` variables by one validated object."""

import hashlib
import ipaddress
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import AliasChoices, BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from models.scoring.options import EngineName, EngineOptions
from worker.queues import Queue
from worker.service_settings import ServiceSettings, split_list

Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda:[0-9]{1,2})$")]


class Settings(ServiceSettings):
    """Settings of service, worker and trainer; raises `pydantic.ValidationError` for impossible values."""

    home: Path = Field(
        default=Path("var"),
        description="Folder of all state: registry, jobs, datasets, broker data and logs.",
    )
    data_dir: Path | None = Field(
        default=None, description="Folder with data set files to train on besides the built-in ones."
    )
    redis_url: str | None = Field(
        default=None,
        repr=False,
        validation_alias=AliasChoices("SNF_REDIS_URL", "REDIS_URL"),
        description="Redis or Valkey to use; unset: `snf up` starts an embedded server under `home`.",
    )
    key_prefix: str = Field(
        default="snf:",
        pattern=r"^[a-z0-9-]+:$",
        description="Prefix of every key, so that a Redis can be shared.",
    )
    runtime_dir: Path | None = Field(
        default=None, description="Folder of the broker's socket; must be short. Unset: derived from `home`."
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of one scoring engine; unset: every core."
    )
    engine: EngineName = Field(
        default="auto",
        description="What runs the models: openvino (CPU), torch; auto: OpenVINO where it is installed and knows all "
        "layers of a model.",
    )
    scoring_device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda:[0-9]{1,2})$",
        description="Device that scores: cpu or cuda:0, ...",
    )
    train_threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads of one training, shared by its processes; unset: PyTorch decides.",
    )
    train_processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that share every batch of one training on the CPU; one does on a GPU.",
    )
    lease_seconds: float = Field(
        default=30.0, gt=0, description="Life of a worker's lease on a job without a heartbeat, in seconds."
    )
    heartbeat_seconds: float = Field(default=5.0, gt=0, description="Time between two renewals of a lease, in seconds.")
    reconcile_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Time between two sweeps for lost leases and lost messages, in seconds.",
    )
    dispatch_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Time after which a queued job's message may count as lost, in seconds.",
    )
    stop_grace_seconds: float = Field(
        default=20.0,
        gt=0,
        description="Time a trainer gets to write its checkpoint before it is killed, in seconds.",
    )
    stall_seconds: float = Field(
        default=1800.0,
        gt=0,
        description="Time without any sign of progress after which a trainer counts as hung and is killed, in seconds.",
    )
    max_attempts_without_progress: int = Field(
        default=3,
        ge=1,
        validation_alias=AliasChoices(
            "SNF_MAX_ATTEMPTS_WITHOUT_PROGRESS",
            "SNF_MAX_FRUITLESS_ATTEMPTS",  # its name in earlier versions
        ),
        description="Attempts in a row that may end without a new checkpoint before a job fails, be it that the "
        "trainer died or that the worker vanished with it.",
    )
    devices: Annotated[tuple[Device, ...], NoDecode, BeforeValidator(split_list)] = Field(
        default=("auto",),
        min_length=1,
        description="Devices of this machine's workers, separated by commas: cpu, cuda:0, ...; auto: every GPU and "
        "the CPU. Each gets a worker process of its own and runs one job at a time.",
    )
    queues: Annotated[tuple[Queue, ...], NoDecode, BeforeValidator(split_list)] = Field(
        default=(),
        description="Queues that this machine's workers serve, separated by commas: train-cpu, train-gpu, score. "
        "Unset: all that their devices can.",
    )
    train_memory_bytes: int | None = Field(
        default=None,
        ge=256 * 2**20,
        description="Most memory of one training process, in bytes; one that needs more fails as out of memory "
        "instead of pushing the machine to its limit. Linux only.",
    )
    nice: int = Field(
        default=10,
        ge=0,
        le=19,
        description="Niceness of training processes, so that scoring stays responsive.",
    )
    broker_timeout_s: float = Field(
        default=2.0, gt=0, description="Longest wait for one answer of the job store, in seconds."
    )
    idempotency_hours: float = Field(
        default=24.0, gt=0, description="How long an Idempotency-Key is remembered, in hours."
    )
    retention_days: float = Field(
        default=30.0, gt=0, description="How long the record and files of a job that is over are kept, in days."
    )
    log_level: str = Field(
        default="INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        description="Least severe level that is logged.",
    )

    @field_validator("home", "data_dir", "runtime_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # Child processes may have another working folder.
        return value.expanduser().resolve() if value is not None else None

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.retention_days * 24 < self.idempotency_hours:
            raise ValueError(
                f"a job must be kept as long as its Idempotency-Key: {self.retention_days:g} days, "
                f"key {self.idempotency_hours:g} hours"
            )
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"a lease must outlive two heartbeats: lease {self.lease_seconds} s, "
                f"heartbeat {self.heartbeat_seconds} s"
            )
        return self

    @property
    def needs_keys(self) -> bool:
        """Whether only keys under `home` can keep strangers from the service."""
        return not (is_loopback(self.host) or self.api_keys or self.trusted_bind)

    @property
    def has_keys(self) -> bool:
        """Whether callers must show a key now."""
        return bool(self.api_keys) or self.keys_file.exists()

    @property
    def keys_file(self) -> Path:
        """File of the keys that `snf keys` makes, hashed; once it is there, every caller must show one."""
        return self.home / "keys.json"

    @property
    def key_file(self) -> Path:
        """File of the text of the key that the service makes where it needs one and has none."""
        return self.home / "api-key"

    @property
    def kill_after_seconds(self) -> float:
        """Time after which a part that was asked to stop is killed: longer than any of them needs."""
        return max(self.stop_grace_seconds, self.drain_seconds) + 10

    @property
    def jobs_dir(self) -> Path:
        """Folder that holds one folder a job."""
        return self.home / "jobs"

    @property
    def registry_dir(self) -> Path:
        """Folder of the registered models."""
        return self.home / "registry"

    @property
    def engine_options(self) -> EngineOptions:
        """How models are run; compiled ones and measured tiles are kept under `home`."""
        return EngineOptions(self.engine, device=self.scoring_device, threads=self.threads, cache=self.home / "cache")

    @property
    def job_engine_options(self) -> EngineOptions:
        """The same in the processes of jobs."""
        return replace(self.engine_options, threads=self.train_threads)

    @property
    def datasets_dir(self) -> Path:
        """Folder of the datasets that users brought."""
        return self.home / "datasets"

    @property
    def uploads_dir(self) -> Path:
        """Folder of datasets that are still arriving: beside the datasets, so that their quota does not count it."""
        return self.home / "uploads"

    @property
    def drift_file(self) -> Path:
        """File of the recent p-values of every model, so that a restart does not begin anew."""
        return self.home / "drift" / "windows.json"

    @property
    def logs_dir(self) -> Path:
        """Folder of the log files."""
        return self.home / "logs"

    @property
    def runtime_folder(self) -> Path:
        """Short folder for sockets: their path may take 107 bytes at most, and `home` may be deep.

        It follows from `home` alone: another login has other XDG_RUNTIME_DIR and TMPDIR, and must find the same broker.
        """
        if self.runtime_dir is not None:
            return self.runtime_dir
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path("/tmp") / f"snf-{os.getuid()}-{digest}"  # noqa: S108  # made for its owner alone

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these settings, without the keys of callers."""
        found = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None or name == "api_keys":
                continue
            if isinstance(value, tuple):
                value = ",".join(value)
            found[f"SNF_{name.upper()}"] = str(int(value) if isinstance(value, bool) else value)
        # Same precedence in the child: an inherited REDIS_URL must not win over an explicit value.
        found["REDIS_URL"] = self.redis_url or ""
        return found


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings() -> Settings:
    """The settings of this process; raises `pydantic.ValidationError` where a variable is wrong."""
    return Settings()
