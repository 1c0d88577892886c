"""The one form in which every error reaches a client: `{"error": {"code", "message"}}`."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException


class Error(BaseModel):
    """What went wrong: `code` for programs, `message` for people."""

    code: str
    message: str


class ErrorBody(BaseModel):
    """The body of an error response."""

    error: Error


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
    body = ErrorBody(error=Error(code=code, message=message))
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


def install_error_handlers(api: FastAPI) -> None:
    """Give every error that `api` raises the one form, without a traceback.

    An unforeseen exception still goes on to uvicorn, which writes its traceback to the log.
    """
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(RequestValidationError, _invalid_request)
    api.add_exception_handler(Exception, _internal_error)


def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    return error_response(error.status_code, code, str(error.detail), error.headers)


def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    message = "; ".join(
        f"{'.'.join(str(part) for part in details['loc'])}: {details['msg']}"
        for details in error.errors()
    )
    return error_response(422, "invalid_request", message)


def _internal_error(_request: Request, _error: Exception) -> JSONResponse:
    return error_response(500, "internal_error", "The request failed; the log says why.")
