"""HTTP as uvicorn reads it, with the one error form for what is not HTTP."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentos.errors import error_response


class HttpProtocol(HttpToolsProtocol):
    """Answers a request that cannot be read as every other error is answered."""

    def send_400_response(self, msg: str) -> None:
        """Send the answer, and close the connection."""
        answer = error_response(400, "bad_request", msg, {"Connection": "close"})
        head = [b"HTTP/1.1 400 Bad Request", *(b": ".join(header) for header in answer.raw_headers)]
        self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()
