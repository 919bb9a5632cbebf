"""Real stores on loopback for tests: an S3 server, a GCS emulator, and a proxy before a server that fails on demand."""

import contextlib
import http.client
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

BUCKET = "lodos-tests"

# Read when gcsfs is imported. Asked over gRPC what kind of bucket it has, an emulator never answers.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# Read by TensorStore at its first request.
os.environ["TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS"] = "4"


@contextmanager
def s3_store() -> Iterator["FaultProxy"]:
    """An S3 server in this process with a bucket `BUCKET`, and the environment that leads to it."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with FaultProxy(f"http://{host}:{port}") as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",  # whatever fails is for us to see
        }.items():
            patch.setenv(name, value)
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield proxy
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.stop()


@contextmanager
def gcs_store() -> Iterator["FaultProxy"]:
    """A GCS emulator in this process with a bucket `BUCKET`, and the environment that leads to it."""
    import gcsfs
    from etils.epath.backend import fsspec_backend
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = create_server("localhost", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    with FaultProxy(f"http://localhost:{port}") as proxy, pytest.MonkeyPatch.context() as patch:
        _with_generations(patch)
        _with_finished_uploads(patch)
        for name, value in {
            "STORAGE_EMULATOR_HOST": proxy.url,
            "TENSORSTORE_GCS_HTTP_URL": proxy.url,
            "FSSPEC_GS_ENDPOINT_URL": proxy.url,
            "FSSPEC_GCS_ENDPOINT_URL": proxy.url,
            "FSSPEC_GS_TOKEN": "anon",
            "FSSPEC_GCS_TOKEN": "anon",
        }.items():
            patch.setenv(name, value)
        from fsspec.config import conf, set_conf_env

        before = dict(conf)
        set_conf_env(conf)
        gcsfs.GCSFileSystem.clear_instance_cache()
        fsspec_backend._get_filesystem.cache_clear()  # of etils, by which Orbax writes
        try:
            yield proxy
        finally:
            conf.clear()
            conf.update(before)
            gcsfs.GCSFileSystem.clear_instance_cache()
            server.stop()


def _with_generations(patch: pytest.MonkeyPatch) -> None:
    """Has the emulator say which generation of an object it gives, and heed the one that a request is for.

    TensorStore needs both, and the emulator, which has the numbers, neither says nor heeds them.
    """
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    download, upload, lock = objects.download, objects._media_upload, threading.Lock()

    def generation(storage: Any, bucket: str, name: str) -> str:
        try:
            return str(storage.get_file_obj(bucket, name)["generation"])
        except NotFound:
            return "0"

    def refused(request: Any, response: Any, found: str) -> bool:
        wanted, known = (request.query.get(key, [None])[0] for key in ("ifGenerationMatch", "ifGenerationNotMatch"))
        if wanted not in (None, found):
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif known == found:
            response.status = HTTPStatus.NOT_MODIFIED
        return response.status != HTTPStatus.OK

    def downloaded(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
        with lock:
            found = generation(storage, request.params["bucket_name"], request.params["object_id"])
            if not refused(request, response, found):
                download(request, response, storage)
                response["x-goog-generation"] = found

    def uploaded(request: Any, response: Any, storage: Any) -> None:
        with lock:
            found = generation(storage, request.params["bucket_name"], request.query["name"][0])
            if not refused(request, response, found):
                upload(request, response, storage)

    patch.setattr(objects, "download", downloaded)
    patch.setattr(objects, "_media_upload", uploaded)


def _with_finished_uploads(patch: pytest.MonkeyPatch) -> None:
    """Has the emulator answer for an upload that it has finished, as Google does, instead of knowing nothing of it.

    Whoever did not hear that the last part has arrived sends it again.
    """
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import objects

    finalize, finished = objects._finalize_resumable_object, {}

    def finalized(response: Any, storage: Any, obj: Any, data: bytes, upload_id: str) -> None:
        finalize(response, storage, obj, data, upload_id)
        finished[upload_id] = obj

    def uploaded(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
        upload_id = request.query["upload_id"][0]
        if upload_id in finished:
            response.json(finished[upload_id])
        else:
            objects.upload_partial(request, response, storage, *args, **kwargs)

    patch.setattr(objects, "_finalize_resumable_object", finalized)
    for _, methods in server.HANDLERS:
        if methods.get("PUT") is objects.upload_partial:
            patch.setitem(methods, "PUT", uploaded)


@contextmanager
def web_server(files: dict[str, bytes | int]) -> Iterator[str]:
    """A web server with these files by their paths, or the status that it answers with. It knows no ranges."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = files.get(urlsplit(self.path).path, 404)
            self.send_response(found if isinstance(found, int) else 200)
            body = b"" if isinstance(found, int) else found
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class FaultProxy:
    """Hands requests on to a server; some of them it spoils first, as `spoil` decides.

    `spoil(method, path)` is None or a status such as 500, 503, 429 or 403, "reset" (the connection breaks after the
    server has answered), "half" (it breaks within the answer) or "stall" (nothing comes for `stall_seconds`).
    """

    def __init__(self, target: str):
        self._target = urlsplit(target)
        self.spoil: Any = lambda method, path: None
        self.stall_seconds = 5.0
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and the range asked for, of each."""
        self.spoiled: list[Any] = []

    def __enter__(self) -> "FaultProxy":
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was tired of waiting
                    proxy._handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = _body_of(request)
        self.requests.append((request.command, request.path, request.headers.get("Range", "")))
        fault = self.spoil(request.command, request.path)
        if fault is not None:
            self.spoiled.append(fault)
        if isinstance(fault, int):
            code = {403: b"AccessDenied", 429: b"SlowDown", 503: b"SlowDown"}.get(fault, b"InternalError")
            said = b"<Error><Code>" + code + b"</Code><Message>injected</Message></Error>"
            request.send_response(fault)
            request.send_header("Content-Length", str(len(said)))
            request.end_headers()
            request.wfile.write(b"" if request.command == "HEAD" else said)
            return
        if fault == "stall":
            time.sleep(self.stall_seconds)
            request.close_connection = True
            return
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port or 80)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "transfer-encoding"}
        headers["Content-Length"] = str(len(body))
        connection.request(request.command, request.path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if fault == "reset":
            request.connection.close()
            request.close_connection = True
            return
        request.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                request.send_header(name, value)
        length = response.getheader("Content-Length") if request.command == "HEAD" else str(len(answer))
        request.send_header("Content-Length", length or "0")
        request.end_headers()
        request.wfile.write(answer[: len(answer) // 2] if fault == "half" else answer)
        request.close_connection |= fault == "half"


def _body_of(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    body = b""
    while size := int(request.rfile.readline().split(b";")[0], 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    while request.rfile.readline().strip():
        pass
    return body
