"""Models whose errors say no more than a client may know.

Agno makes the text of a model's error the answer of the run, and stores it. That text is what the
model's server has sent: it may quote the key, or tell of the account. It goes to the log alone,
and there without the key.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any

from agno.exceptions import ContextWindowExceededError, ModelProviderError
from agno.models.base import Model
from agno.models.response import ModelResponse

_REASONS = {
    401: "the key is refused",
    403: "the key does not allow this",
    404: "there is no such model at its address",
    429: "it takes no more requests now, or the account has no credit",
}

logger = logging.getLogger(__name__)


class _Without(logging.Filter):
    """Takes a secret out of what is logged."""

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if self._secret in message:
            record.msg, record.args = message.replace(self._secret, "[the key]"), None
        return True


def keep_out_of_log(secret: str) -> None:
    """Take a secret out of whatever Agno logs from now on."""
    for name in ("agno", "agno-team", "agno-workflow"):
        logging.getLogger(name).addFilter(_Without(secret))


class Discreet(Model):
    """A mixin that stands before one of Agno's models."""

    async def ainvoke(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """Ask the model."""
        try:
            response: ModelResponse = await super().ainvoke(*args, **kwargs)  # type: ignore[safe-super]
        except Exception as error:
            raise self._told(error) from None
        return response

    async def ainvoke_stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        """Ask the model, and give its answer in pieces."""
        try:
            async for piece in super().ainvoke_stream(*args, **kwargs):  # type: ignore[safe-super]
                yield piece
        except Exception as error:
            raise self._told(error) from None

    def _told(self, error: Exception) -> ModelProviderError:
        """Give the error that the client is told."""
        logger.warning("The model %s has failed: %s", self.id, type(error).__name__)
        kind, status, reason = ModelProviderError, 502, "the log says why"
        if isinstance(error, ContextWindowExceededError):
            kind, reason = ContextWindowExceededError, "the conversation is too long for it"
        if isinstance(error, ModelProviderError):
            status = error.status_code
            reason = _REASONS.get(status, reason)
        message = f"The model does not answer: {reason}."
        return kind(message, status_code=status, model_name=self.name, model_id=self.id)
