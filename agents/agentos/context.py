"""What belongs to the request, or the message on a WebSocket, that is being served.

It is one object that the tasks of a request share, so that what the innermost finds out (the
tenant, that nothing could be stored) is known to the outermost, which writes the log and the answer.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import uuid4

from agentos.errors import Failure


@dataclass(eq=False)
class Context:
    """The request being served."""

    request_id: str = field(default_factory=lambda: uuid4().hex)
    tenant: str | None = None
    """The tenant of the verified token: what row level security lets through."""
    subject: str | None = None
    """The user of the verified token, within the tenant."""
    expires: int | None = None
    """When the verified token expires, in seconds since 1970."""
    on_failure: "Callable[[Context], None] | None" = None
    """Called when a failure is noted, if someone waits for one."""
    _failure: Failure | None = field(default=None, init=False)

    @property
    def failure(self) -> Failure | None:
        """What went wrong with the storage; it makes the answer an error, whatever it would be."""
        return self._failure

    @failure.setter
    def failure(self, failure: Failure | None) -> None:
        self._failure = failure
        if failure is not None and self.on_failure is not None:
            self.on_failure(self)


_current: ContextVar[Context | None] = ContextVar("agentos_context", default=None)


def begin(request_id: str | None = None) -> Context:
    """Begin a context, in place of any that was there.

    Always called for a request: a server may run it in a task that a former request has begun.

    Args:
        request_id: the name that a client has given the request; None makes one up.

    Returns:
        The new context, without a tenant.
    """
    context = Context(request_id) if request_id else Context()
    _current.set(context)
    return context


def current() -> Context | None:
    """Give the context of the running task, or None outside of any request."""
    return _current.get()
