"""The HTTP side of a bundle: routes, limits and answers. Owner of FastAPI and Starlette.

POST /predict    one or many images (multipart field `images`, or one image as the body) -> boxes
POST /feedback   an image and what is wrong with its boxes -> kept for the project
GET  /health     the process is there; /ready: it takes requests; /metrics: Prometheus; /: a form;
             /docs: the API, from files of this machine (the usual page of FastAPI fetches its scripts from another host)
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from export.bundle.reader import detections_to_json
from export.serve.batcher import QueueFullError
from export.serve.detector import Answer, BundleDetector
from export.serve.feedback import Complaint, FeedbackFolders, Sample, Served, checked_complaint, confidence_of
from export.serve.metrics import ServerMetrics
from export.serve.uploads import Limits, RefusedUploadError, check_upload, decode_upload
from pipelines.core.errors import DataError, DetloopError, counted

_GONE = {"Connection": "close"}  # of a request that is not read to its end
_BUSY = {"Retry-After": "1"}
_PREDICT_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
}
_PREDICT_EXAMPLE = {
    "runner": "openvino_int8",
    "images": [{"file": "a.jpg", "width": 640, "height": 480, "detections": [{"class": "bolt", "score": 0.93, "xyxy": [10.0, 20.5, 64.0, 99.0]}]}],
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "No image, an empty one, or a request that is no form"},
    408: {"description": "The request did not come in time"},
    413: {"description": "Too many bytes or pixels"},
    415: {"description": "Not an image, or of a kind that is not taken"},
    422: {"description": "A broken image, or a field that does not fit"},
    429: {"description": "The queue is full, or the requests that are open are too large together: try again later"},
}


@dataclass
class Service:
    """What the routes share. `folders` is None when nothing is kept; the sample is written each `window_s` seconds."""

    detector: BundleDetector
    limits: Limits
    requests_at_once: int
    folders: FeedbackFolders | None
    sample: Sample
    window_s: float
    open_requests: int = 0
    window_began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.metrics = ServerMetrics(self.detector.waiting)

    def window(self) -> BackgroundTask | None:
        """Writing the window's sample, when it is over."""
        if self.folders is None or time.monotonic() - self.window_began < self.window_s:
            return None
        self.window_began = time.monotonic()
        return BackgroundTask(self._keep, self.sample.take())

    def close(self) -> None:
        """Answer what waits, keep the sample, free the model."""
        self.detector.close()
        self._keep(self.sample.take())

    def _keep(self, sample: Sequence[tuple[str, Served]]) -> None:
        """Write a window's sample; one that the disk does not take is told in the log, and the server goes on."""
        try:
            if self.folders is not None:
                self.folders.write_sample(sample)
        except OSError as error:
            words = f"error: a sample of {counted(len(sample), 'request')} cannot be kept ({error.strerror}): free some space, or make it writable"
            print(words, file=sys.stderr, flush=True)


def build_app(service: Service) -> FastAPI:
    """The application around a loaded service, which it closes when it ends."""
    classes = service.detector.bundle.contract.classes

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPIOffline(redoc_url=None, title="detloop", description=f"Detector for {', '.join(classes)}. A form: [/](/).", lifespan=lifespan)
    app.add_middleware(_Gate, metrics=service.metrics, limits=service.limits)

    @app.exception_handler(ClientDisconnect)
    async def _gone(_: Request, __: Exception) -> Response:
        return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it

    @app.post(
        "/predict",
        openapi_extra={"requestBody": _PREDICT_BODY},
        responses={
            200: {"content": {"application/json": {"example": _PREDICT_EXAMPLE}}},
            **_REFUSALS,
            503: {"description": "The model cannot compute: see what the server says"},
        },
    )
    async def predict(request: Request) -> Response:
        """Boxes of one or many images, best first, in pixels of the upright image. Of several, a refused one has an `error` in their place."""
        if service.open_requests >= service.requests_at_once:  # before the body is read
            raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, "the queue is full: try again later", _BUSY)
        service.open_requests += 1
        try:
            return await _predicted(service, await _read_images(request, service.limits))
        finally:
            service.open_requests -= 1

    @app.post("/feedback", status_code=201, responses=_REFUSALS)
    async def feedback(
        image: UploadFile,
        complaint: Annotated[Complaint, Form(description="What is wrong")],
        class_name: Annotated[str, Form(alias="class", description="The class that it should be, or that was missed")] = "",
        box: Annotated[str, Form(description="Where: x1,y1,x2,y2 in pixels of the upright image")] = "",
    ) -> Response:
        """Keep an image and what is wrong with its boxes: the image goes to the project's inbox, the complaint to data/feedback."""
        if service.folders is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "this server keeps no feedback: start it with --project")
        content = await image.read()
        try:
            extension = check_upload(content, service.limits)
            decoded = await asyncio.to_thread(decode_upload, content, None)
            row = checked_complaint(complaint, class_name or None, box or None, classes, decoded.original_wh)
        except RefusedUploadError as error:
            raise HTTPException(error.status, error.reason) from error
        except DataError as error:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        try:
            image_id = await asyncio.to_thread(service.folders.write_complaint, content, extension, row, service.detector.name)
        except OSError as error:
            raise HTTPException(HTTPStatus.INSUFFICIENT_STORAGE, f"the complaint cannot be kept ({error.strerror}): tell the operator") from error
        service.metrics.complained(complaint)
        return JSONResponse({"image_id": image_id}, HTTPStatus.CREATED)

    @app.get("/health")
    async def health() -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", responses={503: {"description": "The model could not compute when it was last asked"}})
    async def ready() -> Response:
        """The model is loaded, and computed when it was last asked; what it is."""
        if service.detector.failure is not None:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the model could not compute when it was last asked: start the server again")
        width, height = service.detector.bundle.contract.input_wh
        about = {"runner": service.detector.name, "classes": list(classes), "input_wh": [width, height], "feedback": service.folders is not None}
        return JSONResponse({"status": "ready", **about})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        content, media_type = service.metrics.page()
        return Response(content, headers={"Content-Type": media_type})

    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def form() -> Response:
        return HTMLResponse(page)

    return app


async def _read_images(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """File names and contents of a request's images."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return [("", await Request(request.scope, _bounded(request.receive, limits.image_bytes)).body())]
    form = await request.form(max_files=limits.images, max_fields=16)
    images = [(item.filename or "", await item.read()) for item in form.getlist("images") if not isinstance(item, str)]
    await form.close()
    if not images:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "no image in the form: send at least one file as `images`")
    return images


async def _predicted(service: Service, images: list[tuple[str, bytes]]) -> Response:
    checked: list[str | RefusedUploadError] = []
    for _, content in images:
        try:
            checked.append(check_upload(content, service.limits))
        except RefusedUploadError as error:
            checked.append(error)
    good = [content for (_, content), item in zip(images, checked, strict=True) if isinstance(item, str)]
    try:
        answers = iter(await asyncio.gather(*map(asyncio.wrap_future, service.detector.submit(good))))
    except QueueFullError as error:
        raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, "the queue is full: try again later", _BUSY) from error
    except DetloopError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the model cannot compute: tell the operator") from error
    rows: list[dict[str, Any]] = []
    refused: list[RefusedUploadError] = []
    for (name, content), extension in zip(images, checked, strict=True):
        answer = next(answers) if isinstance(extension, str) else extension
        if isinstance(answer, Answer):
            rows.append({"file": name, **_shown(service, content, str(extension), answer)})
        else:
            service.metrics.refused(answer.status)
            refused.append(answer)
            rows.append({"file": name, "error": answer.reason})
    if len(refused) == len(rows):
        raise HTTPException(refused[0].status, refused[0].reason)
    return JSONResponse({"runner": service.detector.name, "images": rows}, background=service.window())


def _shown(service: Service, content: bytes, extension: str, answer: Answer) -> dict[str, Any]:
    """One image's part of the answer; counted, and offered to the sample."""
    detections = detections_to_json(answer.detections, service.detector.bundle.contract.classes)
    service.metrics.detected([row["class"] for row in detections], answer.batch)
    if service.folders is not None:
        service.sample.offer(Served(content, extension, confidence_of(detections), detections, service.detector.name, datetime.now(UTC)))
    return {"width": answer.width_px, "height": answer.height_px, "detections": detections}


def _bounded(receive: Receive, limit_bytes: int) -> Receive:
    """The request's messages, as long as their bodies do not exceed the limit together."""
    came = 0

    async def bounded() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > limit_bytes:
            words = f"the request has more than {limit_bytes} bytes: send fewer or smaller images"
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words, _GONE)
        return message

    return bounded


def _in_time(receive: Receive, read_s: float) -> Receive:
    """The request's messages, as long as they come within `read_s` seconds from now; what comes after its end may take as long as it likes."""
    ends = asyncio.get_running_loop().time() + read_s
    whole = False

    async def timed() -> Message:
        nonlocal whole
        try:
            async with asyncio.timeout_at(None if whole else ends):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, f"the request did not come within {read_s:g} s: send it faster", _GONE) from error
        whole = not message.get("more_body", False)
        return message

    return timed


class _Gate:
    """Bounds every request's bytes, the time in which they come and the bytes of all that are open; counts and times every answer."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, limits: Limits) -> None:
        self._app, self._metrics, self._limits = app, metrics, limits
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, mine = time.perf_counter(), 500, 0
        limited = _bounded(_in_time(receive, self._limits.read_s), self._limits.request_bytes)

        async def held() -> Message:
            nonlocal mine
            message = await limited()
            size = len(message.get("body", b""))
            if self._held_bytes + size > self._limits.held_bytes:
                words = "the server holds as many bytes of requests as it may: try again later"
                raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, words, {**_BUSY, **_GONE})
            self._held_bytes += size
            mine += size
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, held, noted)
        finally:
            self._held_bytes -= mine
            self._metrics.request(str(getattr(scope.get("route"), "path", "other")), status, time.perf_counter() - start)
