"""The one form in which every error reaches a client: `{"error": {"code", "message"}}`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

# When a client that was told 503 may ask again.
RETRY_AFTER_S = 2
FAILED = "The request failed; the log says why."
# In characters: a message may repeat what the request held.
MESSAGE_LENGTH = 500
# The codes of statuses whose names differ between Pythons, or say less.
_CODES = {413: "body_too_large", 422: "invalid_request"}
# Errors of a model's provider. Their statuses are the provider's, and their texts may hold its key.
_MODEL_ERRORS = frozenset(
    {
        "context_window_exceeded_error",
        "embedding_error",
        "model_authentication_error",
        "model_provider_error",
        "model_rate_limit_error",
    }
)

logger = logging.getLogger(__name__)


class Error(BaseModel):
    """What went wrong: `code` for programs, `message` for people."""

    code: str
    message: str


class ErrorBody(BaseModel):
    """The body of an error response."""

    error: Error


@dataclass(frozen=True)
class Failure:
    """An error that an answer is to become."""

    status: int
    code: str
    message: str

    def response(self) -> JSONResponse:
        """Make the answer."""
        headers = {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else None
        return error_response(self.status, self.code, self.message, headers)


class FailureError(Exception):
    """Raised to answer with a failure from anywhere in a request."""

    def __init__(self, failure: Failure) -> None:
        """Keep the failure."""
        super().__init__(failure.message)
        self.failure = failure


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Make an error response.

    Args:
        status: the HTTP status, 400 to 599.
        code: a short name in snake case that does not change, for programs.
        message: a sentence for people, without secrets.
        headers: further headers, if any.

    Returns:
        The response, its body an ErrorBody.
    """
    if len(message) > MESSAGE_LENGTH:
        message = message[: MESSAGE_LENGTH - 1] + "…"
    # Half a character, of a surrogate pair, cannot be sent.
    message = message.encode(errors="replace").decode()
    body = ErrorBody(error=Error(code=code, message=message))
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


def status_code_name(status: int) -> str:
    """Give the code for an error of which the HTTP status says enough: 404 is `not_found`."""
    if status in _CODES:
        return _CODES[status]
    try:
        return HTTPStatus(status).name.lower()
    except ValueError:
        return "error"


def install_error_handlers(api: FastAPI) -> None:
    """Give every error that `api` raises the one form, without a traceback.

    An unforeseen exception still goes on to uvicorn, which writes its traceback to the log.
    """
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(RequestValidationError, _invalid_request)
    api.add_exception_handler(FailureError, _failure)
    api.add_exception_handler(Exception, _internal_error)


def answer_raised(
    error: Exception, status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Answer an exception that says which status it wants.

    Args:
        error: the exception. Agno's have an `error_id`.
        status: the status.
        message: what the exception says, which only a client's own error lets the client read.
        headers: further headers, if any.

    Returns:
        The response.
    """
    if getattr(error, "error_id", None) in _MODEL_ERRORS:
        logger.error("The model's provider gave an error: %s", message)
        return error_response(502, "model_error", "The model gave an error; the log says which.")
    if status < 500:
        return error_response(status, status_code_name(status), message, headers)
    logger.error("A request failed with %s: %s", status, message, exc_info=error)
    code = "internal_error" if status == 500 else status_code_name(status)
    return error_response(status, code, FAILED, headers)


def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return answer_raised(error, error.status_code, str(error.detail), error.headers)


def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    message = "; ".join(
        f"{'.'.join(str(part) for part in details['loc'])}: {details['msg']}"
        for details in error.errors()
    )
    return error_response(422, "invalid_request", message)


def _failure(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FailureError)
    return error.failure.response()


def _internal_error(_request: Request, _error: Exception) -> JSONResponse:
    return error_response(500, "internal_error", FAILED)
