"""Servers that stand in for those of others: models, and a proxy that collects what is sent."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a model's server says of an error, beside the key that it was sent.
UPSTREAM_DETAIL = "a-detail-of-the-upstream"


class FakeModel(ThreadingHTTPServer):
    """Speaks OpenAI's protocol at /v1/chat/completions, and Anthropic's at /v1/messages.

    Asked "where …", it calls the tool describe_service, and repeats what that says; asked anything
    else, it says how many questions it has seen in the conversation.
    """

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free port; `serving_model` serves."""
        super().__init__(("127.0.0.1", 0), _ModelHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.behaviour = "answer"
        """Or a status from 400, or "hang", or "break"."""
        self.keys: set[str] = set()


class _ModelHandler(BaseHTTPRequestHandler):
    server: FakeModel
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        key = self.headers.get("X-Api-Key") or bearer
        self.server.keys.add(key)
        behaviour = self.server.behaviour
        openai = self.path == "/v1/chat/completions"
        if behaviour == "hang":
            self.rfile.read(1)  # until the client hangs up
            self.close_connection = True
        elif behaviour.isdigit():
            message = f"The key {key} is bad: {UPSTREAM_DETAIL}"
            error = {"error": {"message": message, "type": "some_error", "code": "some_error"}}
            self._send(int(behaviour), json.dumps(error))
        else:
            text, tool = _reply(body["messages"])
            if body.get("stream"):
                events = _openai_events(text, tool) if openai else _anthropic_events(text, tool)
                self._stream(events, broken=behaviour == "break")
            elif behaviour == "break":
                self._send(200, f'{{"choices": {UPSTREAM_DETAIL}')
            else:
                answer = _openai_answer(text, tool) if openai else _anthropic_answer(text, tool)
                self._send(200, json.dumps(answer))

    def _send(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def _stream(self, events: list[str], *, broken: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(events):
            if broken and number == 2:
                self.close_connection = True
                return
            self.wfile.write(f"{len(event):x}\r\n{event}\r\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_args: object) -> None:
        """Stay quiet."""


def _reply(messages: list[dict[str, Any]]) -> tuple[str, bool]:
    """Give what the model says, or that it calls the tool."""
    last = messages[-1]
    results = [last] if last["role"] == "tool" else []
    if isinstance(last["content"], list):
        results += [part for part in last["content"] if part.get("type") == "tool_result"]
    if results:
        return f"The tool says: {results[0]['content']}", False
    asked = [
        message
        for message in messages
        if message["role"] == "user" and "tool_result" not in json.dumps(message)
    ]
    return f"You have asked {len(asked)} times.", "where" in json.dumps(asked[-1])


_CALL = {"name": "describe_service", "arguments": '{"name": "postgres"}'}
_COMMON = {"id": "1", "created": 1, "model": "fake"}


def _openai_answer(text: str, tool: bool) -> dict[str, Any]:
    call = {"id": "call-1", "type": "function", "function": _CALL}
    message = {"content": None, "tool_calls": [call]} if tool else {"content": text}
    choice = {
        "index": 0,
        "finish_reason": "tool_calls" if tool else "stop",
        "message": {"role": "assistant"} | message,
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return _COMMON | {"object": "chat.completion", "choices": [choice], "usage": usage}


def _openai_events(text: str, tool: bool) -> list[str]:
    call = {"index": 0, "id": "call-1", "type": "function", "function": _CALL}
    words = [{"tool_calls": [call]}] if tool else [{"content": f"{word} "} for word in text.split()]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *words, {}]
    finish = "tool_calls" if tool else "stop"
    chunks = [
        _COMMON
        | {
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else finish}],
        }
        for delta in deltas
    ]
    return [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]


def _anthropic_answer(text: str, tool: bool) -> dict[str, Any]:
    use = {"type": "tool_use", "id": "call-1", "name": "describe_service"}
    part = use | {"input": {"name": "postgres"}} if tool else {"type": "text", "text": text}
    return {
        "id": "1",
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [part],
        "stop_reason": "tool_use" if tool else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


def _anthropic_events(text: str, tool: bool) -> list[str]:
    answer = _anthropic_answer(text, tool)
    part = answer["content"][0]
    empty: dict[str, Any] = {"input": {}} if tool else {"text": ""}
    start = part | empty
    delta = (
        {"type": "input_json_delta", "partial_json": _CALL["arguments"]}
        if tool
        else {"type": "text_delta", "text": text}
    )
    end = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": answer | {"content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": start},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]


class FakeProxy(socketserver.ThreadingTCPServer):
    """A proxy that notes what it is asked for, and refuses it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        """Listen on a free port; `serving_proxy` serves."""
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[str] = []


class _ProxyHandler(socketserver.StreamRequestHandler):
    server: FakeProxy

    def handle(self) -> None:
        self.server.asked.append(self.rfile.readline().decode().strip())
        self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def serving_model() -> Iterator[FakeModel]:
    """Run a model while the block lasts."""
    with FakeModel() as server, _served(server):
        yield server


@contextmanager
def serving_proxy() -> Iterator[FakeProxy]:
    """Run a proxy while the block lasts."""
    with FakeProxy() as server, _served(server):
        yield server


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
