import ipaddress
import math
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

HostName = Annotated[str, Field(pattern=r"^(\*|[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])$")]
Network = Annotated[str, AfterValidator(lambda text: str(ipaddress.ip_network(text, strict=False)))]
Origin = Annotated[str, Field(pattern=r"^https?://[a-z0-9_.\[\]:-]{1,260}$")]


MIN_KEY_CHARACTERS = 16


def split_list(value: object) -> object:
    """Split comma-separated text into its parts without blanks and empty parts; return other values unchanged."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _long_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    for number, key in enumerate(keys, 1):
        if len(key) < MIN_KEY_CHARACTERS:
            raise ValueError(
                f"expected keys of at least {MIN_KEY_CHARACTERS} characters that cannot be guessed, got {len(key)} "
                f"characters as number {number}; `snf keys create NAME --role admin` makes one"
            )
    return keys


class ServiceSettings(BaseSettings):
    """Settings of the HTTP service, such as port, timeouts and limits, from ``SNF_*`` environment variables."""

    model_config = SettingsConfigDict(
        env_prefix="SNF_",
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    host: str = Field(default="127.0.0.1", description="Address the service listens on.")
    port: int = Field(default=8000, ge=1, le=65535, description="TCP port the service listens on.")
    api_keys: Annotated[tuple[str, ...], NoDecode, AfterValidator(_long_keys), BeforeValidator(split_list)] = Field(
        default=(),
        repr=False,
        description="Keys with the role admin of at least 16 characters, separated by commas, in addition to those of "
        "`snf keys`. Without any "
        "key the service is open on loopback. On another address it creates a key and writes it to `home/api-key`.",
    )
    access_log: bool = Field(
        default=False, description="Write a line for every request to `home/logs/access.jsonl`, as JSON."
    )
    trusted_bind: bool = Field(
        default=False,
        description="Require no key on an address other than loopback, because something else protects the port.",
    )
    allowed_hosts: Annotated[tuple[HostName, ...], NoDecode, BeforeValidator(split_list)] = Field(
        default=(),
        description="Host names of the service that callers may use, without ports and separated by commas, besides "
        "loopback names and `host`; `*`: any. Unset: any name if callers need a key, no other name if not.",
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(split_list)] = Field(
        default=(),
        description="Origins (`https://host[:port]`), separated by commas, whose web pages may call this service.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split_list)] = Field(
        default=(),
        description="Addresses or networks of reverse proxies, separated by commas, whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` headers count; the headers of all other callers are ignored.",
    )
    max_connections: int = Field(
        default=1024,
        ge=16,
        le=65536,
        description="Largest number of connections, as far as the limit on open files allows; one address gets half.",
    )
    header_timeout_s: float = Field(
        default=10.0, gt=0, description="Time within which the headers of a request must arrive, in seconds."
    )
    body_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="Longest wait for the next bytes of a request's body, in seconds; after it the answer is 408.",
    )
    min_body_rate: int = Field(
        default=1024,
        ge=0,
        description="Lowest rate of a request's body in bytes per second, averaged over the waiting time after the "
        "first `body_timeout_s`; 0: no limit.",
    )
    send_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="Time after which a client that reads nothing of its answer is disconnected, in seconds.",
    )
    queue_images: int = Field(
        default=4096,
        ge=1,
        description="Images that may wait for scoring, each counted once per draw; more are refused with 429. A caller "
        "may hold at most as much as stays free for others: half if it is alone, or a single request.",
    )
    queue_requests: int = Field(
        default=128,
        ge=16,
        le=65536,
        description="Requests that may wait for scoring to begin, those that cannot share a batch counted as 8; more "
        "are refused with 429. A caller may hold at most as many as stay free for others: half if it is alone. Raise "
        "it for many clients with the same key; each of them then waits longer.",
    )
    max_upload_bytes: int = Field(
        default=256 * 2**20, ge=1024, description="Largest request body of the service, in bytes."
    )
    max_bytes_in_flight: int = Field(
        default=512 * 2**20,
        ge=1024,
        description="Largest sum of the bodies of all open requests, in bytes; more are refused with 429. A caller "
        "may hold at most as much as stays free for others.",
    )
    max_images_per_request: int = Field(
        default=1024, ge=1, description="Largest number of images in a scoring request."
    )
    max_image_pixels: int = Field(
        default=100_000_000,
        ge=2**10,
        description="Largest number of pixels of an image file, in every process; larger ones are refused. Decoding "
        "takes up to 16 bytes of memory a pixel. Large images are decoded at the same time only while they "
        "have no more pixels than this together.",
    )
    max_dataset_bytes: int = Field(
        default=20 * 2**30, ge=1024, description="Largest upload of a dataset, in bytes; it is streamed to disk."
    )
    max_model_bytes: int = Field(
        default=4 * 2**30, ge=1024, description="Largest upload of a model, in bytes; it is streamed to disk."
    )
    dataset_quota_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Largest size of all datasets under `home`, in bytes; unset: limited by the disk.",
    )
    max_dataset_uploads: int = Field(
        default=8,
        ge=1,
        le=16,
        description="Largest number of dataset uploads at once, of which one caller gets half; more are refused with "
        "429.",
    )
    ingest_memory_bytes: int = Field(
        default=1536 * 2**20,
        ge=512 * 2**20,
        description="Largest memory of the process that reads an uploaded dataset, in bytes; an upload that needs more "
        "is refused. Linux only.",
    )
    ingest_seconds: int = Field(
        default=60,
        ge=10,
        le=86_400,
        description="Largest processor time of the process that reads an uploaded dataset, in seconds, plus 10 s for "
        "each MB of the upload. In real time it may take four times as long.",
    )
    request_timeout_s: float = Field(
        default=30.0, gt=0, description="Deadline of a request that does not set one, in seconds."
    )
    drift_martingale: float = Field(
        default=1000.0,
        gt=1,
        le=1e300,
        description="Capital of the test of drift that raises an alarm, 1 at its start. Without drift it is ever "
        "reached by at most 1 of this many streams of images. 1e300 turns the alarms off.",
    )
    drift_sources: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Largest number of sources of a model that are tested for drift each; the least recently used "
        "source is dropped first.",
    )
    max_jobs: int = Field(
        default=10_000,
        ge=1,
        description="Largest number of unfinished jobs: queued, running or paused; more are refused with 429.",
    )
    max_jobs_per_caller: int = Field(
        default=1_000, ge=1, description="The same for the jobs of one caller: a key, or an address without a key."
    )
    max_event_streams: int = Field(
        default=256,
        ge=1,
        description="Largest number of open event streams of jobs, of which one caller gets half; more are refused "
        "with 429.",
    )

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        # Browsers send both in lower case.
        if isinstance(value, str):
            return value.lower()
        return tuple(str(part).lower() for part in value) if isinstance(value, tuple) else value

    @model_validator(mode="after")
    def _consistent_limits(self) -> Self:
        if self.max_bytes_in_flight < self.max_upload_bytes:
            raise ValueError(
                f"all open requests together must be allowed at least one of the largest bodies, got "
                f"{self.max_bytes_in_flight} bytes for all and {self.max_upload_bytes} bytes for one; raise "
                "SNF_MAX_BYTES_IN_FLIGHT"
            )
        return self

    @property
    def drain_seconds(self) -> int:
        """Seconds that open requests get to finish when the service stops: the request timeout plus 5."""
        return math.ceil(self.request_timeout_s) + 5
