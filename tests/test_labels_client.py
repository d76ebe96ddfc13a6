"""The client against servers that fail in every way: what is repeated, what is not, and what people are told. The servers are real, on loopback."""

from __future__ import annotations

import datetime as dt
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.core.errors import MissingInputError, ServerError
from pipelines.formats.labelstudio_config import LabelingConfig
from pipelines.labeling.server.client import TRIES, Client, connect
from pipelines.labeling.server.json_stream import objects_of_array
from pipelines.labeling.server.project import Project, no_bar
from pipelines.labeling.server.pull import pull

TOKEN = "legacy-secret-token-0123456789"  # no JWT, so it is sent as it is
Answer = tuple[int, str, dict[str, str]]


class Fake:
    """A server that gives `answers` in turn, the last one for ever, and remembers what it was asked."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers, self.asked = answers, []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                status, text, headers = fake.answers[min(len(fake.asked), len(fake.answers) - 1)]
                fake.asked.append((self.command, self.path, self.headers.get("Authorization")))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(text.encode()))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())
                self.close_connection = True

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


@contextmanager
def serving(*answers: Answer, wrap: Callable[[ThreadingHTTPServer], None] = lambda _: None) -> Iterator[Fake]:
    fake = Fake(list(answers))
    wrap(fake.server)
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        thread.join()
        fake.server.server_close()


def ask(fake: Fake, method: str = "GET", scheme: str = "http") -> object:
    with Client(f"{scheme}://127.0.0.1:{fake.port}/studio/", TOKEN, first_wait_s=0.001) as client:
        return client.request(method, "api/version", body={"a": 1} if method == "POST" else None)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_busy_and_broken_servers_are_asked_again(status: int, method: str):
    with serving((status, "busy", {}), (status, "busy", {"Retry-After": "0"}), (200, '{"release": "1.23"}', {})) as fake:
        assert ask(fake, method) == {"release": "1.23"}
    assert fake.asked == [(method, "/studio/api/version", f"Token {TOKEN}")] * 3


def test_a_server_that_stays_broken_is_given_up():
    with (
        serving((503, "<html><h1>down for repair</h1></html>", {})) as fake,
        pytest.raises(ServerError, match="answered 503 5 times.*down for repair"),
    ):
        ask(fake)
    assert len(fake.asked) == TRIES


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 418])
def test_nothing_else_is_asked_again(status: int):
    with serving((status, f'{{"detail": "no {TOKEN}"}}', {})) as fake, pytest.raises(ServerError, match=str(status)) as found:
        ask(fake)
    assert len(fake.asked) == 1
    assert TOKEN not in str(found.value)
    assert "***" in str(found.value)


def test_a_redirect_is_not_followed_with_the_token():
    sent_on = pytest.raises(ServerError, match="sends on to http://127.0.0.1.*set LABEL_STUDIO_URL")
    with serving((200, "{}", {})) as other, serving((302, "", {"Location": f"http://127.0.0.1:{other.port}/"})) as fake, sent_on:
        ask(fake)
    assert (len(fake.asked), other.asked) == (1, [])


def test_a_refused_token_is_named_by_its_variable():
    with serving((401, "{}", {})) as fake, pytest.raises(ServerError, match="refuses the token in LABEL_STUDIO_API_KEY"):
        ask(fake)


def test_nonsense_is_told_as_such():
    with serving((200, "<html>Welcome to the router</html>", {})) as fake, pytest.raises(ServerError, match="did not answer in JSON.*Welcome"):
        ask(fake)


@pytest.mark.parametrize("text", ['["not allowed here"]', '"not allowed here"'], ids=["list", "text"])
def test_a_refusal_may_be_any_json(text: str):
    with serving((400, text, {})) as fake, pytest.raises(ServerError, match="answered 400: .*not allowed here"):
        ask(fake)


def test_an_answer_packed_in_another_way_is_told():
    with serving((200, "{}", {"Content-Encoding": "gzip"})) as fake, pytest.raises(ServerError, match="cannot be reached"):
        ask(fake)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 3}'], ids=["nothing", "list", "another"])
def test_another_server_that_speaks_json_is_told(text: str):
    with serving((200, text, {})) as fake, Client(f"http://127.0.0.1:{fake.port}", TOKEN) as client:
        with pytest.raises(ServerError, match="is LABEL_STUDIO_URL the address of a Label Studio"):
            client.release()
        project = Project(client, 1, "p", LabelingConfig("label", "image", "image", ()), {})
        with pytest.raises(ServerError, match="in another form.*needs Label Studio"):
            project.changed_since("2026-01-01T00:00:00.000000Z")


def test_a_damaged_cache_is_fetched_anew(tmp_path: Path):
    task = {"id": 1, "data": {}, "updated_at": "2026-01-01T00:00:00Z", "drafts": [], "predictions": [], "annotations": []}
    with serving((200, json.dumps([task]), {})) as fake, Client(f"http://127.0.0.1:{fake.port}", TOKEN) as client:
        project = Project(client, 1, "p", LabelingConfig("label", "image", "image", ()), {})
        cache = pull(project, tmp_path / "tasks.jsonl", str, no_bar)
        whole = cache.read_bytes()
        cache.write_bytes(whole[:-20])
        assert pull(project, cache, str, no_bar).read_bytes() == whole


def test_nobody_there():
    with serving((200, "{}", {})) as fake:
        pass
    with pytest.raises(ServerError, match="cannot be reached.*make labelstudio"):
        ask(fake)


@pytest.mark.parametrize("text", ['[{"id": 1}, {"id": 2}', '[{"id": 1}, {"id"', '{"id": 1}', "<html>"], ids=["open", "half", "object", "html"])
def test_a_stream_that_is_no_whole_array_is_refused(text: str):
    with serving((200, text, {})) as fake, pytest.raises(ServerError, match="did not answer in JSON"):
        list(Client(f"http://127.0.0.1:{fake.port}", TOKEN).stream("api/x", {}))


def test_an_answer_that_breaks_off_is_no_answer():
    with serving((200, '[{"id": 1}', {"Content-Length": "500"})) as fake, pytest.raises(ServerError, match="cannot be reached"):
        list(Client(f"http://127.0.0.1:{fake.port}", TOKEN).stream("api/x", {}))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_objects_arrive_whatever_the_chunks(size: int):
    text = ' [ {"a": [1, {"b": "]}"}]} ,\n{"c": "ü"}, {} ] '
    assert list(objects_of_array(text[start : start + size] for start in range(0, len(text), size))) == [{"a": [1, {"b": "]}"}]}, {"c": "ü"}, {}]
    assert list(objects_of_array(["[]"])) == []


def test_an_unknown_certificate_is_refused_before_the_token_is_sent(tmp_path: Path):
    certificate = _self_signed(tmp_path)

    def wrap(server: ThreadingHTTPServer) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)

    with serving((200, "{}", {}), wrap=wrap) as fake, pytest.raises(ServerError, match="cannot be reached.*certificate"):
        ask(fake, scheme="https")
    assert fake.asked == []


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("", "", "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY not set"),
        ("http://127.0.0.1", "", "^LABEL_STUDIO_API_KEY not set"),
        ("127.0.0.1:8080", "x", "wanted an address that starts with http"),
    ],
)
def test_the_environment_names_server_and_token(monkeypatch: pytest.MonkeyPatch, url: str, token: str, message: str):
    monkeypatch.setenv("LABEL_STUDIO_URL", url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    with pytest.raises(MissingInputError, match=message):
        connect()


def test_the_token_is_in_no_representation():
    client = Client("http://127.0.0.1:9", TOKEN)
    assert TOKEN not in repr(client) + str(client)


def _self_signed(folder: Path) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path
