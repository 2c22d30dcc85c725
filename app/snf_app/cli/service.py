"""Commands that call a running service, or without ``--url`` the same application in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, wraps
from importlib import import_module
from inspect import Parameter, Signature, signature
from types import GenericAlias
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from snf_app.cli.common import Json, error_messages, fail, print_json, read_settings, url_option
from snf_app.cli.job_tables import ENDED_WITH_RESULT
from snf_client import Client, ClientError, ProblemError, Retries
from snf_client.images import FilesProblem
from snf_client.schemas.jobs import JobView
from snf_runtime.errors import FAILED, USAGE
from snf_worker.settings import address

P = ParamSpec("P")
R = TypeVar("R")

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="SNF_URL", help="Address of a running service. Default: compute in this process."),
]
ServiceUrl = Annotated[
    str | None,
    typer.Option("--url", envvar="SNF_URL", help="Address of the service. Default: the service of this machine."),
]
Key = Annotated[
    str | None,
    typer.Option("--key", envvar="SNF_API_KEY", show_envvar=True, help="API key of the service.", show_default=False),
]


class Session:
    """The service that a command calls, and how the command prints."""

    def __init__(self, stack: ExitStack, url: str | None, key: str | None, *, as_json: bool, in_process: bool) -> None:
        self._stack, self._key, self.in_process = stack, key, in_process and not url
        self.url = url
        self.as_json = as_json

    @cached_property
    def client(self) -> Client:
        """The client, made when it is first used: some commands compute without one."""
        url = self.url if self.url or self.in_process else address(read_settings())
        return self._stack.enter_context(service(url, self._key))

    @property
    def option(self) -> str:
        """The option ``--url`` of a suggested command."""
        return url_option(self.url)

    def print(self, result: R, show: Callable[[R], object]) -> None:
        """Print JSON, or the text that ``show`` prints."""
        if self.as_json:
            print_json(result)
        else:
            show(result)

    def follow(self, job_id: str, observe: Callable[[dict[str, Any]], None]) -> JobView:
        """Report a job's events until it ends, and return it; exit with code 3 if it has no result."""
        for event in self.client.jobs.events(job_id):
            observe({"event": event.event, **event.data})
        job = self.client.jobs.get(job_id)
        if job.status not in ENDED_WITH_RESULT:
            raise fail(f"job {job_id} {job.status}{': ' + job.error['detail'] if job.error else ''}", FAILED)
        return job


class FieldsOf:
    """Annotation of a parameter that gets the fields of a request class by name, each from an option of its own.

    Args:
        schema: The request class; its descriptions are the help.
        without: Fields that the command does not have, or has another option for.
    """

    def __init__(self, schema: type[BaseModel], *without: str) -> None:
        self.fields = {name: field for name, field in schema.model_fields.items() if name not in without}

    def parameters(self) -> Iterator[Parameter]:
        for name, field in self.fields.items():
            annotation: Any = field.annotation
            default, text = field.get_default(call_default_factory=True), field.description
            if get_origin(annotation) in (list, tuple):
                item = get_args(annotation)[0]
                item = get_args(item)[0] if get_origin(item) is Annotated else item
                annotation = GenericAlias(list, item if isinstance(item, type) else str)
                default, text = list(default), f"{str(text).removesuffix('.')}; repeatable."
            option = typer.Option(
                f"--{name.replace('_', '-')}",
                help=text,
                min=_bound(field, "ge", "gt"),
                max=_bound(field, "le", "lt"),
            )
            yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option])


def _bound(field: FieldInfo, *names: str) -> float | None:
    bounds = (getattr(limit, name, None) for limit in field.metadata for name in names)
    return next((bound for bound in bounds if bound is not None), None)


def command(
    group: typer.Typer,
    name: str | None = None,
    *,
    show: Callable[[Any], object] | None = None,
    in_process: bool = True,
    as_json: bool = True,
    **settings: Any,
) -> Callable[[Callable[Concatenate[Session, P], R]], Callable[Concatenate[Session, P], R]]:
    """Register a function of a ``Session`` as a command with the options ``--url``, ``--key`` and ``--json``.

    Args:
        group: The commands.
        name: Default: that of the function.
        show: Prints what the function returns, where the command does not print JSON.
        in_process: Whether the command works without a service, else it calls that of this machine.
        as_json: Whether it has ``--json``.
        **settings: Further ones of Typer.
    """
    options: dict[str, Any] = {"url": Url if in_process else ServiceUrl, "key": Key}
    options |= {"as_json": Json} if as_json else {}

    def register(function: Callable[Concatenate[Session, P], R]) -> Callable[Concatenate[Session, P], R]:
        call: Callable[..., Any] = function
        _, *own = signature(function, eval_str=True).parameters.values()
        parameters: list[Parameter] = []
        merged: dict[str, FieldsOf] = {}
        for parameter in own:
            if fields := next((item for item in get_args(parameter.annotation) if isinstance(item, FieldsOf)), None):
                merged[parameter.name] = fields
                parameters += fields.parameters()
            else:
                parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
        for option, annotation in options.items():
            default = False if option == "as_json" else None
            parameters.append(Parameter(option, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))

        @wraps(function)
        def run(*, url: str | None, key: str | None, as_json: bool = False, **given: Any) -> None:
            for parameter, fields in merged.items():
                given[parameter] = {field: given.pop(field) for field in fields.fields}
            with error_messages(), ExitStack() as stack:
                session = Session(stack, url, key, as_json=as_json, in_process=in_process)
                result = call(session, **given)
                if show is not None:
                    session.print(result, show)

        vars(run)["__signature__"] = Signature(parameters)
        group.command(name, **settings)(run)
        return function

    return register


def print_deleted(result: dict[str, str]) -> None:
    typer.echo(f"deleted {result['deleted']}")


@contextmanager
def service(url: str | None, key: str | None) -> Iterator[Client]:
    """Yield a client of a service, without ``url`` of one in this process, of which a job store is not needed.

    A failed call ends the command, with code 2 for wrong usage, else 3.
    """
    with error_messages(), _client(url, key) as client:
        try:
            yield client
        except ClientError as error:
            raise fail(_message(error), USAGE if _is_usage(error, in_process=not url) else FAILED) from error
        except FilesProblem as error:
            raise fail(str(error), USAGE) from error
        except OSError as error:
            if error.filename is None or not url:  # a closed stdout, or a file of home
                raise
            raise fail(f"{error.filename}: {error.strerror}", USAGE) from error


def _client(url: str | None, key: str | None) -> Client:
    if not url:
        settings = read_settings()
        # FastAPI and what the endpoints need take a second, which commands of a service do without.
        here = import_module("snf_app.cli.in_process")
        return Client(here.URL, transport=here.InProcessTransport(settings), retries=Retries(attempts=1))
    try:
        return Client(url, key, retries=Retries(on_retry=_report_retry))
    except ValueError as error:
        raise fail(str(error), USAGE) from error


def _is_usage(error: ClientError, *, in_process: bool) -> bool:
    if not isinstance(error, ProblemError):
        return False
    return (error.status < 500 and error.status != 429) or (in_process and error.type == "storage-read-only")


def _message(error: ClientError) -> str:
    """Return the text of an error, with the wrong parts of the request where the text does not name them."""
    text = str(error)
    if not isinstance(error, ProblemError):
        return text
    parts = [f"{part.pointer}: {part.detail}" for part in error.errors if part.detail not in text]
    return "; ".join([text, *parts])


def _report_retry(error: ClientError, seconds: float) -> None:
    typer.echo(f"snf: {error}; trying again in {seconds:.1f} s", err=True)
