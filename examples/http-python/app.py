"""Answers every request with JSON that says what was asked: the method, the path with its query, and the body as text."""

import json

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import Fields, IncomingBody, Method_Other, OutgoingBody, OutgoingResponse, ResponseOutparam


def read(body: IncomingBody) -> bytes:
    parts = []
    with body.stream() as stream:
        while True:
            try:
                parts.append(stream.blocking_read(64 * 1024))
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return b"".join(parts)
                raise


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        method = request.method()
        name = method.value if isinstance(method, Method_Other) else type(method).__name__.removeprefix("Method_").upper()
        with request.consume() as incoming:
            asked = read(incoming)
        answer = {"method": name, "path": request.path_with_query() or "/", "body": asked.decode("utf-8", "replace")}
        content = json.dumps(answer, ensure_ascii=False).encode() + b"\n"

        headers = Fields.from_list([("content-type", b"application/json"), ("content-length", str(len(content)).encode())])
        response = OutgoingResponse(headers)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            # A single write may hold 4096 bytes at most.
            for start in range(0, len(content), 4096):
                stream.blocking_write_and_flush(content[start : start + 4096])
        OutgoingBody.finish(body, None)
