"""What object stores answer besides files: markers of folders, keys that cannot be named, and errors that last."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import quote

import httpx
import pytest
from obstore.exceptions import GenericError

from snf_models.errors import ErrorKind, FileUnreadable, LocationRefused, LocationUnavailable, ModelsError
from snf_models.locations.location import Location
from snf_models.locations.object_store import store_error, store_variables
from tests.support.http_server import Server
from tests.support.s3 import S3Server


def put(server: S3Server, bucket: Location, *keys: str) -> None:
    """Write objects whose keys no location has; a key with a slash at its end gets no content."""
    for key in keys:
        url = f"{server.url}/{bucket.bucket}/{quote(key)}"
        assert httpx.put(url, content=b"" if key.endswith(("/", ".empty")) else b"x").status_code == 200


def test_markers_of_folders_are_no_files(s3: S3Server) -> None:
    bucket = s3.bucket("markers")
    put(
        s3, bucket, "d/", "d/a.png", "d/a.png-x", "d/a.png/", "d/none/", "d/real.empty", "d/sub/", "d/sub/e.png", "out/"
    )

    names = ["a.png", "a.png-x", "real.empty", "sub/e.png"]
    assert [entry.name for entry in bucket.child("d").files()] == names
    assert [entry.name for entry in bucket.files()] == [f"d/{name}" for name in names]
    assert list(bucket.child("out").files()) == []
    assert bucket.child("out").stat() is None


def test_a_key_that_cannot_be_named_is_no_outage(s3: S3Server) -> None:
    bucket = s3.bucket("double")
    put(s3, bucket, "a.png", "lot//x.png")
    with pytest.raises(LocationRefused, match=r"expected names without '//', .* got 'lot//x.png'"):
        list(bucket.files())


@pytest.fixture
def answer(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str, str], None]]:
    """Sets the answer of a server to all requests: its status, and the code and the message of the error."""
    current = (200, b"")

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            status, body = current
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = _answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    def set_answer(status: int, code: str, message: str) -> None:
        nonlocal current
        current = (status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())

    monkeypatch.setattr("snf_models.locations.object_store.MAX_RETRIES", 1)
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        yield set_answer
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "kind", "reason"),
    [
        (403, "AccessDenied", LocationRefused, "the server answered 'AccessDenied'; check the keys in the environment"),
        (401, "InvalidToken", LocationRefused, "check the keys in the environment"),
        (400, "ExpiredToken", LocationRefused, "check the keys in the environment"),
        (400, "AuthorizationHeaderMalformed", LocationRefused, "set AWS_REGION to the region of the bucket"),
        (301, "PermanentRedirect", LocationRefused, "set AWS_REGION to the region of the bucket"),
        (403, "InvalidObjectState", FileUnreadable, "it is archived, and must be restored first"),
        (400, "RequestTimeout", LocationUnavailable, "the server answered 'RequestTimeout'"),
        (503, "SlowDown", LocationUnavailable, "the server answered 'SlowDown'"),
    ],
)
def test_lasting_errors_are_told_from_outages(
    answer: Callable[[int, str, str], None], status: int, code: str, kind: type[ModelsError], reason: str
) -> None:
    answer(status, code, code)
    file = Location("s3://bucket/x.png")
    calls: list[Callable[[], object]] = [file.read, lambda: file.write(b"x")]
    if kind is not FileUnreadable:
        calls.append(lambda: list(file.files()))
    for call in calls:
        with pytest.raises(ModelsError) as caught:
            call()
        assert type(caught.value) is kind
        assert reason in caught.value.detail
        assert "127.0.0.1" not in caught.value.detail
        assert caught.value.kind is (ErrorKind.UNAVAILABLE if kind is LocationUnavailable else ErrorKind.INVALID)


def test_missing_keys_are_named() -> None:
    # As obstore asks the machine for keys where none are set; that address is not asked in a test.
    text = "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 30s, after 10 retries"
    error = store_error(GenericError(text), "s3://bucket/x")
    assert isinstance(error, LocationRefused)
    assert error.detail == (
        "s3://bucket/x cannot be used: no keys were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def test_child_processes_get_what_reaches_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "AWS_REGION",
        "IDENTITY_ENDPOINT",
        "MSI_SECRET",
        "HTTPS_PROXY",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    }
    for name in (*names, "SNF_API_KEY", "PROXY_KEY"):
        monkeypatch.setenv(name, "x")
    assert names <= store_variables().keys()
    assert not {"SNF_API_KEY", "PROXY_KEY"} & store_variables().keys()
