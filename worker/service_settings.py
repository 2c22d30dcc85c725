"""Settings of the HTTP service: who may call, and how much of everything a request or a caller gets."""

import ipaddress
import math
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

HostName = Annotated[str, Field(pattern=r"^(\*|[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])$")]
Network = Annotated[str, AfterValidator(lambda text: str(ipaddress.ip_network(text, strict=False)))]
Origin = Annotated[str, Field(pattern=r"^https?://[a-z0-9_.\[\]:-]{1,260}$")]


def split_list(value: object) -> object:
    """Return the parts of a text separated by commas; anything else as it is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class ServiceSettings(BaseSettings):
    """The part of `worker.settings.Settings` that the HTTP service alone uses."""

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
    api_keys: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)] = Field(
        default=(),
        repr=False,
        description="Keys with the role admin, separated by commas, beside those of `snf keys`. Without any key the "
        "service asks for none on loopback, and elsewhere makes one and keeps its text in `home/api-key`.",
    )
    access_log: bool = Field(
        default=False, description="Write a line for every request to `home/logs/access.jsonl`, as JSON."
    )
    trusted_bind: bool = Field(
        default=False,
        description="Ask for no key on an address other than loopback, because something else guards the port.",
    )
    allowed_hosts: Annotated[tuple[HostName, ...], NoDecode, BeforeValidator(split_list)] = Field(
        default=(),
        description="Host names, without ports and separated by commas, that callers may use for the service besides "
        "loopback names and `host`; `*`: any. Unset: any where callers must show a key, no other one elsewhere.",
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(split_list)] = Field(
        default=(),
        description="Origins (`https://host[:port]`), separated by commas, whose web pages may call this service.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split_list)] = Field(
        default=(),
        description="Addresses or networks of reverse proxies, separated by commas, whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` count; from all others these headers are ignored.",
    )
    max_connections: int = Field(
        default=1024,
        ge=16,
        le=65536,
        description="Most connections at once, as far as the limit on open files allows; one address alone gets half.",
    )
    header_timeout_s: float = Field(
        default=10.0, gt=0, description="Time within which the headers of a request must arrive, in seconds."
    )
    body_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="Longest wait for the next bytes of a request's body, in seconds; past it the answer is 408.",
    )
    min_body_rate: int = Field(
        default=1024,
        ge=0,
        description="Least bytes a second of a request's body, averaged over the time that it is waited for after the "
        "first `body_timeout_s`; 0: no limit.",
    )
    send_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="Time without a byte taken after which a client that does not read its answer is cut off, in "
        "seconds.",
    )
    queue_images: int = Field(
        default=4096,
        ge=1,
        description="Images that may wait for scoring, each counted once a draw; more are refused with 429. One caller "
        "may hold at most what stays free for others, alone half or one request.",
    )
    queue_requests: int = Field(
        default=128,
        ge=16,
        le=65536,
        description="Requests that may wait for the first of their images to be scored, those that share no batch "
        "counted as 8; more are refused with 429. One caller may hold at most what stays free for others, alone half: "
        "more clients of one key at once need more, and make each other wait longer.",
    )
    max_upload_bytes: int = Field(
        default=256 * 2**20, ge=1024, description="Largest request body of the service, in bytes."
    )
    max_bytes_in_flight: int = Field(
        default=512 * 2**20,
        ge=1024,
        description="Largest sum of the bodies of all requests in hand, in bytes; more are refused with 429. A caller "
        "holds at most as much as stays free for all others.",
    )
    max_images_per_request: int = Field(default=1024, ge=1, description="Most images in one scoring request.")
    max_dataset_bytes: int = Field(
        default=20 * 2**30, ge=1024, description="Largest upload of a dataset, in bytes; it is streamed to disk."
    )
    max_model_bytes: int = Field(
        default=4 * 2**30, ge=1024, description="Largest upload of a model, in bytes; it is streamed to disk."
    )
    dataset_quota_bytes: int | None = Field(
        default=None, ge=0, description="Most bytes that all datasets under `home` may take; unset: what the disk has."
    )
    max_dataset_uploads: int = Field(
        default=8,
        ge=1,
        le=16,
        description="Most uploads of datasets at once, of which one caller alone gets half; more are refused with 429.",
    )
    ingest_memory_bytes: int = Field(
        default=1536 * 2**20,
        ge=512 * 2**20,
        description="Most memory of the process that reads an uploaded dataset, in bytes; an upload that needs more is "
        "refused. Linux only.",
    )
    ingest_seconds: int = Field(
        default=60,
        ge=10,
        le=86_400,
        description="Most processor time of that process, in seconds, besides 10 s for each MB of the upload; it may "
        "take four times that on the clock.",
    )
    request_timeout_s: float = Field(
        default=30.0, gt=0, description="Deadline of a request that names none, in seconds."
    )
    drift_images: int = Field(
        default=500,
        ge=10,
        le=10_000,
        description="Newest images of a model, and of each source, that are compared with its calibration images.",
    )
    drift_min_images: int = Field(
        default=50, ge=10, description="Images that a window must have before drift is judged at all."
    )
    drift_alarm: float = Field(
        default=1e-4,
        gt=0,
        lt=1,
        description="Drift is an alarm where its p-value is at most this. Small, because the window is looked at again "
        "and again: without drift, 1e-4 raises up to about four alarms in a million images, 1e-3 seventeen.",
    )
    drift_sources: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Sources of a model that are watched on their own; the least recently used one is forgotten first.",
    )
    max_event_streams: int = Field(
        default=256,
        ge=1,
        description="Most event streams of jobs that are open at once, of which one caller alone gets half; more are "
        "refused with 429.",
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
                f"the bodies in flight must hold the largest one: {self.max_bytes_in_flight} bytes, "
                f"largest body {self.max_upload_bytes} bytes"
            )
        if self.drift_min_images > self.drift_images:
            raise ValueError(
                f"the window of drift must hold the images that a verdict needs: {self.drift_images} images, "
                f"needed {self.drift_min_images}"
            )
        return self

    @property
    def drain_seconds(self) -> int:
        """Time that requests in flight get when the service stops: their deadline, and a little to answer."""
        return math.ceil(self.request_timeout_s) + 5
