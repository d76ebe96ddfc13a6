"""The one way to a Label Studio server: address and token from the environment, TLS verified, time limits, repeats on 429 and 5xx only.

The SDK carries the token (it exchanges a personal access token for short-lived ones) and does the requests through its raw client. Its typed calls
are not used: they repeat on 408, 409 and broken connections as well, and read 5,000 tasks into hundreds of megabytes. Owner of label_studio_sdk and
httpx. No message of ours carries a header, and what a server answers is shortened and cleared of the token.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import MissingInputError, ServerError
from pipelines.labeling.server.json_stream import objects_of_array

if TYPE_CHECKING:
    import httpx

URL_VARIABLE, TOKEN_VARIABLE = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"
CONNECT_S, READ_S = 10.0, 300.0  # an export of a large project is written whole before its first byte comes
TRIES = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")  # a token, ours or a short-lived one made from it
_SHOWN = 300  # characters of an answer that a message repeats


class RejectedError(ServerError):
    """The server understood a request and refused it (HTTP 400, 404, 409); what it is about has perhaps changed meanwhile."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Requests to one server. `first_wait_s` is the wait before the first repeat; it doubles with each."""

    def __init__(self, url: str, token: str, first_wait_s: float = FIRST_WAIT_S) -> None:
        import httpx
        from label_studio_sdk.client import LabelStudio
        from label_studio_sdk.core.api_error import ApiError

        self.url = url.rstrip("/")
        self._token = token
        self._first_wait_s = first_wait_s
        self._transport_errors = (httpx.RequestError, httpx.InvalidURL)  # no way there, no whole answer, one that is packed in a way of its own
        self._api_error = ApiError
        limits = httpx.Timeout(READ_S, connect=CONNECT_S)
        self._http = httpx.Client(timeout=limits, follow_redirects=False, verify=True)  # a redirected POST would become a GET
        try:
            # with the slash at the end, since the SDK would cut the last part of an address like https://host/studio where it renews the token
            sdk = LabelStudio(base_url=f"{self.url}/", api_key=token, httpx_client=self._http, max_retries=0)
        except ApiError as error:
            raise ServerError(
                f"{TOKEN_VARIABLE} holds no usable token ({self._clean(error.body)}): make a new one in Label Studio's account page"
            ) from None
        self._raw = sdk._client_wrapper.httpx_client

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None, files: Sequence[Any] | None = None) -> Any:
        """The parsed answer, None when it is empty. `files` are httpx multipart entries.

        Raises:
            ServerError: the server is down, refuses, or answers what is not JSON.
        """
        if files is not None:
            response = self._tried(lambda: self._http.request(method, f"{self.url}/{path}", params=query, files=files, headers=self._authorization()))
        else:
            response = self._tried(lambda: self._raw.request(path, method=method, json=body, params=query))
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            raise ServerError(self._nonsense(path, response.text)) from None

    def release(self) -> str:
        """The server's version of Label Studio.

        Raises:
            ServerError: as for `request`; also when what answers is something else.
        """
        answer = self.request("GET", "api/version")
        if not isinstance(answer, dict) or "release" not in answer:
            raise ServerError(f"{self.url}/api/version names no release ({self._clean(answer)}): is {URL_VARIABLE} the address of a Label Studio?")
        return str(answer["release"])

    def stream(self, path: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The objects of an answer that is one JSON array, one by one, so that its size does not matter.

        Raises:
            ServerError: as for `request`; also when the answer breaks off.
        """
        request = self._http.build_request("GET", f"{self.url}/{path}", params=query)

        def send() -> httpx.Response:
            request.headers.update(self._authorization())
            return self._http.send(request, stream=True)

        response = self._tried(send)
        try:
            yield from objects_of_array(response.iter_text())
        except ValueError as error:
            raise ServerError(self._nonsense(path, str(error))) from None
        except self._transport_errors as error:
            raise ServerError(self._unreachable(error)) from None
        finally:
            response.close()

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": self._raw.base_headers()["Authorization"]}

    def _tried(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Send, again after a growing wait while the server says 429 or 5xx."""
        for attempt in range(TRIES):
            try:
                response = send()
                status = response.status_code
                if status < 300:
                    return response
                response.read()
                said, wait = response.text, response.headers.get("retry-after", "")
                if status < 400:
                    place = self._clean(response.headers.get("location", "another place"))
                    raise ServerError(f"{self.url} sends on to {place}: set {URL_VARIABLE} to the address that answers")
            except self._api_error as error:  # from the exchange of the token
                status, said, wait = error.status_code or 0, str(error.body), ""
            except ValueError:  # the token's answer was no JSON
                raise ServerError(self._nonsense("api/token/refresh/", "no JSON")) from None
            except self._transport_errors as error:
                raise ServerError(self._unreachable(error)) from None
            if status != 429 and status < 500:
                raise self._refusal(status, said)
            if attempt + 1 < TRIES:
                time.sleep(self._wait_s(attempt, wait))
        raise ServerError(f"{self.url} answered {status} {TRIES} times ({self._clean(said)}): run the same command again when it works")

    def _wait_s(self, attempt: int, asked: str) -> float:
        own: float = self._first_wait_s * 2**attempt * random.uniform(0.8, 1.2)  # not all clients at once
        return min(LONGEST_WAIT_S, max(own, float(asked) if asked.isdigit() else 0.0))

    def _refusal(self, status: int, said: str) -> ServerError:
        if status in (401, 403):
            return ServerError(
                f"{self.url} refuses the token in {TOKEN_VARIABLE} ({status}: {self._clean(said)}): make a new one in Label Studio's account page"
            )
        return RejectedError(status, f"{self.url} answered {status}: {self._clean(said)}")

    def _unreachable(self, error: Exception) -> str:
        why = self._clean(str(error)) or type(error).__name__
        return f"{self.url} cannot be reached ({why}): start it (`make labelstudio`), or correct {URL_VARIABLE}"

    def _nonsense(self, path: str, said: str) -> str:
        return f"{self.url}/{path} did not answer in JSON ({self._clean(said)}): is {URL_VARIABLE} the address of a Label Studio?"

    def _clean(self, said: Any) -> str:
        """An answer for people: no token, no markup, one line, short."""
        text = _JWT.sub("***", str(said).replace(self._token, "***"))
        with suppress(ValueError, TypeError):
            parsed = json.loads(text)
            if isinstance(parsed, dict):
                parsed = {key: parsed[key] for key in ("detail", "validation_errors", "error") if parsed.get(key)} or parsed
            text = str(parsed)
        text = " ".join(re.sub(r"<[^>]*>", " ", text).split())
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def connect() -> Client:
    """A client for the server that the environment names.

    Raises:
        MissingInputError: a variable is not set.
        ServerError: the token cannot be one.
    """
    url, token = os.environ.get(URL_VARIABLE, ""), os.environ.get(TOKEN_VARIABLE, "")
    missing = [name for name, value in ((URL_VARIABLE, url), (TOKEN_VARIABLE, token)) if not value]
    if missing:
        raise MissingInputError(f"{' and '.join(missing)} not set: export them (`make labelstudio` starts a server and prints them)")
    if not url.startswith(("http://", "https://")):
        raise MissingInputError(f"{URL_VARIABLE} is {url!r}, wanted an address that starts with http:// or https://: correct it")
    return Client(url, token)
