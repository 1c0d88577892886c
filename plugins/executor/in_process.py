"""Tasks of this machine in Ansible's own process, results sent whole, templates compiled once.

Ansible forks a worker for every task, and forgets with it all that the worker read and compiled.
Parent and worker then copy some 3,300 pages as they touch them, which takes ten times as long as
the fork. With one machine nothing is gained by a second process, so a task that starts no program
is done where it was queued. All others, and all on other machines, get their worker as ever.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest import mock

from ansible._internal._templating._jinja_bits import AnsibleEnvironment
from ansible.executor.process import worker
from ansible.executor.task_queue_manager import FinalQueue
from ansible.inventory.host import Host
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins import strategy

COLLECTION = "community.docker."
# What `up` runs through. Not those that have something to tidy up when they are ended, or to see to
# after Ansible's end: image_builds, stack_job, stack_remove and what reads data.
MODULES = {"env_file", "secret_files", "stack_info", "stack_record", "stack_secrets", "stack_wait"}
ACTIONS = {"assert", "debug", "fail", "include_role", "include_tasks", "set_fact"}
ACTIONS |= {"stack_description", "validate_argument_spec"}


def starts_no_program(task: Task, variables: dict[str, Any]) -> bool:
    """Whether a task is done on this machine, by code that is here, for this user, and waited for.

    Takes values as they are written, and in doubt says no; where a module is then called,
    plugins/action/normal.py decides by what they are templated to.
    """
    waited_for = not (task.async_val or task.delegate_to or any(task.environment or []))
    this_user = not (task.become or variables.get("ansible_become"))
    local = variables.get("ansible_connection") == "local"
    if not (waited_for and this_user and local):
        return False
    name = task.action.removeprefix("ansible.builtin.").removeprefix("ansible.legacy.")
    if name in ACTIONS:
        return True
    this_python = (
        variables.get("ansible_python_interpreter") == "{{ ansible_playbook_python }}"
        and variables.get("ansible_playbook_python") == sys.executable
    )
    return this_python and (name in MODULES or name.startswith(COLLECTION))


class Worker(worker.WorkerProcess):  # type: ignore[misc]
    """Ansible's worker, which does some tasks without becoming a process."""

    _is_here = False
    _host: Host
    _play_context: PlayContext
    _task: Task
    _task_vars: dict[str, Any]

    def start(self) -> None:
        """Do the task now, or have a process do it."""
        task, variables = self._task, self._task_vars
        if self._play_context.become or not starts_no_program(task, variables):
            super().start()
            return
        self._is_here = True
        # Of what it changes a fork has copies.
        self._task, self._task_vars = task.copy(exclude_tasks=True), dict(variables)
        self._host = copy.copy(self._host)
        with as_if_forked():
            self.run()

    def is_alive(self) -> bool:
        """Whether it is at work beside this process."""
        return not self._is_here and super().is_alive()

    @property
    def exitcode(self) -> int | None:
        """How its process ended, if it had one."""
        return 0 if self._is_here else super().exitcode

    def close(self) -> None:
        """Let go of its process, if it had one."""
        if not self._is_here:
            super().close()

    def _detach(self) -> None:
        if not self._is_here:
            super()._detach()

    def _hard_exit(self, e: str) -> NoReturn:
        """Give up. Some exceptions the strategy would take for a fork that failed, and go on."""
        if not self._is_here:
            super()._hard_exit(e)
        error = sys.exception()
        if error is None or isinstance(error, Exception):
            raise RuntimeError(e) from error
        raise error


@contextlib.contextmanager
def as_if_forked() -> Iterator[None]:
    """Keep from this process what a worker does to its own: signals, output, who displays.

    What a lookup starts finds standard streams, which Ansible else keeps from its children.
    """
    streams = []
    for number in range(3):
        with contextlib.suppress(OSError):  # it is closed
            streams += [] if os.get_inheritable(number) else [number]
    for number in streams:
        os.set_inheritable(number, True)
    with mock.patch.multiple(
        worker,
        display=SimpleNamespace(
            set_queue=lambda queue: None,
            **{name: getattr(worker.display, name) for name in ("debug", "error", "warning")},
        ),
        signal=SimpleNamespace(
            signal=lambda number, handler: None, SIGINT=signal.SIGINT, SIGTERM=signal.SIGTERM
        ),
        sys=SimpleNamespace(stdout=io.StringIO(), stderr=io.StringIO()),
    ):
        try:
            yield
        finally:
            for number in streams:
                os.set_inheritable(number, False)


@contextlib.contextmanager
def not_cut_short() -> Iterator[None]:
    """Have a signal that ends a run wait until this is done."""
    if threading.current_thread() is not threading.main_thread():  # which no signal interrupts
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in came:
            signal.raise_signal(caught)


def send_whole() -> None:
    """Have no result be sent in part: its reader would wait for the rest, and the run for the reader.

    Results of containers are longer than what a pipe takes at once, and Ctrl-C raises an exception
    wherever this process is.
    """
    put = FinalQueue.put

    def put_whole(self: FinalQueue, message: Any) -> None:
        with not_cut_short():
            put(self, message)

    FinalQueue.put = put_whole


def compile_once() -> None:
    """Have a template compiled when it is first met, not in each task that looks at it."""
    compile_anew = AnsibleEnvironment.compile
    known: dict[tuple[type, str], Any] = {}

    def compile_template(self: Any, source: Any, *arguments: Any, **options: Any) -> Any:
        # What a backslash means, and the syntax of an overlay, may differ from one to the next.
        if not isinstance(source, str) or "\\" in source or self.overlayed or arguments or options:
            return compile_anew(self, source, *arguments, **options)
        key = (type(self), str(source))
        if key not in known:
            known[key] = compile_anew(self, source)
        return known[key]

    AnsibleEnvironment.compile = compile_template


def install() -> None:
    """Have the strategies take this worker."""
    if strategy.WorkerProcess is not Worker:
        strategy.WorkerProcess = Worker
        send_whole()
        compile_once()
