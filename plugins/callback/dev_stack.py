"""The terminal output of a run: what changed, what takes long, and errors that can be acted on."""

from __future__ import annotations

DOCUMENTATION = """
name: dev_stack
type: stdout
short_description: Quiet output for people who start a stack every morning
description:
  - Prints a line for each change, the time of what takes long, and the messages of debug tasks as they are.
  - An error is the message and, where known, its fix, on standard error. With -v and above, all is as in the default callback.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout in configuration
"""

import atexit
import os
import sys
import tempfile
import threading
import time
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.plugins.callback.default import CallbackModule as DefaultCallback
from ansible.template import Templar

for folder in ("module_utils", "executor"):
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir, folder))
import in_process
from dev_stack import PROGRESS_VARIABLE, RUN_VARIABLE, explain, process_name

SLOW = 3.0  # seconds after which a task says that it is still at work
EVERY = 15.0  # seconds between such lines where output is not a terminal
PLAIN_ACTIONS = {"debug", "ansible.builtin.debug"}


def quietly(name: str) -> Any:
    """A method that is silent, except under -v, where the default callback's speaks."""

    def method(self: CallbackModule, *args: Any, **kwargs: Any) -> None:
        if self.verbose:
            getattr(DefaultCallback, name)(self, *args, **kwargs)

    return method


class CallbackModule(DefaultCallback):
    """See DOCUMENTATION above."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "dev_stack"

    def __init__(self) -> None:
        super().__init__()
        self._started = 0.0
        self._title = ""
        self._said_at = 0.0
        self._spinner_shown = False
        self._failed: set[str] = set()
        self._silent_end = False
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        # How other runs tell whether this one is still at work.
        os.environ[RUN_VARIABLE] = process_name()
        self._progress = ""

    @property
    def verbose(self) -> bool:
        return bool(self._display.verbosity)

    # --- progress ---

    def _make_progress_file(self) -> None:
        """Where a module at work says how far it is; it inherits the path from us."""
        handle, self._progress = tempfile.mkstemp(prefix="dev-stack-progress-")
        os.close(handle)
        os.environ[PROGRESS_VARIABLE] = self._progress
        atexit.register(self._remove_progress_file, os.getpid())

    def _remove_progress_file(self, owner: int) -> None:
        if os.getpid() == owner and os.path.exists(self._progress):
            os.unlink(self._progress)

    def _read_progress(self) -> str:
        """What the module at work said last, as the end of a line."""
        try:
            with open(self._progress, encoding="utf-8", errors="replace") as file:
                said = file.read().strip()
        except OSError:
            return ""
        return f": {said}" if said else ""

    def _tick(self) -> None:
        """Tell of slow tasks. Writes to the file descriptor: a lock held while Ansible forks a
        worker would never be released in it."""
        terminal = sys.stderr.isatty()
        while not self._stop.wait(1.0):
            title, elapsed = self._title, time.monotonic() - self._started
            if not title or elapsed < SLOW:
                continue
            if terminal:
                self._spinner_shown = True
                os.write(2, f"\r\033[K  {title} … {elapsed:.0f} s{self._read_progress()}".encode())
            elif time.monotonic() - self._said_at >= EVERY and elapsed >= EVERY:
                self._said_at = time.monotonic()
                os.write(2, f"  {title} … {elapsed:.0f} s{self._read_progress()}\n".encode())

    def _say(self, text: str, color: str | None = None, stderr: bool = False) -> None:
        if self._spinner_shown:
            os.write(2, b"\r\033[K")
            self._spinner_shown = False
        self._display.display(text, color=color, stderr=stderr)

    def _begin(self, task: Any) -> None:
        if task.action.rsplit(".", 1)[-1] == "pause":  # somebody is typing
            self._title = ""
            return
        self._title, self._started = task.get_name().strip().split(" : ")[-1], time.monotonic()
        self._last_task_name, self._last_task_banner = self._title, None

    def _host(self, result: Any) -> str:
        """The host's name where there is more than the one machine."""
        name = result.host.get_name()
        return "" if name == "localhost" else f"[{name}] "

    # --- events ---

    def v2_playbook_on_start(self, playbook: Any) -> None:
        in_process.install()
        if self.verbose:
            super().v2_playbook_on_start(playbook)
            return
        self._make_progress_file()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._play = play
        # A playbook that only tells something ends without a summary.
        variables = play.get_variable_manager().get_vars(play=play)
        told = Templar(loader=None, variables=variables).template(variables.get("reports_only"))
        self._silent_end = bool(told)
        if self.verbose:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if self.verbose:
            super().v2_playbook_on_task_start(task, is_conditional)
        else:
            self._begin(task)

    v2_playbook_on_handler_task_start = quietly("v2_playbook_on_handler_task_start")
    v2_runner_on_skipped = quietly("v2_runner_on_skipped")
    v2_runner_item_on_skipped = quietly("v2_runner_item_on_skipped")
    v2_playbook_on_include = quietly("v2_playbook_on_include")
    v2_playbook_on_no_hosts_remaining = quietly("v2_playbook_on_no_hosts_remaining")
    v2_runner_retry = quietly("v2_runner_retry")

    def _changed(self, result: Any, item: str = "") -> None:
        elapsed = time.monotonic() - self._started
        verb = "would change" if context.CLIARGS.get("check") else "changed"
        took = f" ({elapsed:.0f} s)" if elapsed >= SLOW else ""
        title = f"{self._title} ({item})" if item else self._title
        self._say(f"  {verb}: {self._host(result)}{title}{took}", C.COLOR_CHANGED)

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.task.action in PLAIN_ACTIONS and not result.task.loop:
            if not (self.verbose and result.result.get("_ansible_verbose_override")):
                self._title = ""
                self._say(str(result.result.get("msg", "")))
                return
        if self.verbose:
            super().v2_runner_on_ok(result)
            return
        for warning in result.result.get("warnings") or []:
            self._say(f"Note: {warning}", C.COLOR_WARN, stderr=True)
        if result.result.get("changed") and not (result.task.loop and "results" in result.result):
            self._changed(result)
        self._title = ""

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self.verbose:
            super().v2_runner_item_on_ok(result)
        elif result.result.get("changed"):
            self._changed(result, str(self._get_item_label(result.result) or ""))

    def v2_runner_item_on_failed(self, result: Any) -> None:
        if self.verbose:
            super().v2_runner_item_on_failed(result)
        else:
            self._error(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if self.verbose:
            super().v2_runner_on_failed(result, ignore_errors)
        elif not ignore_errors and not (result.task.loop and "results" in result.result):
            self._error(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        if self.verbose:
            super().v2_runner_on_unreachable(result)
        else:
            self._error(result)

    def _error(self, result: Any) -> None:
        """What happened, and what to do: the message, a known fix, where to look further."""
        data = result.result
        said = str(data.get("msg") or "").strip()
        ours = result.task.action.rsplit(".", 1)[-1] in {"fail", "assert"} or data.get("clear")
        errors = data.get("argument_errors")
        lines = [str(e) for e in errors] if errors else ([said] if said else [])
        if not ours and not errors:
            detail = "\n".join(
                str(data[key]).strip() for key in ("stderr", "module_stderr") if data.get(key)
            )
            lines = [f"{self._title}: {said or 'failed'}"]
            if detail and detail not in said:
                lines.append("\n".join(detail.splitlines()[-8:]))
            lines.append(explain(f"{said}\n{detail}") or "More: run it again with  -- -vvv")
        first, *rest = "\n".join(lines).splitlines() or ["failed"]
        self._title = ""
        self._say(f"Error: {self._host(result)}{first}", C.COLOR_ERROR, stderr=True)
        for line in rest:
            self._say(f"  {line}" if line and not line.startswith(" ") else line, stderr=True)

    def v2_on_file_diff(self, result: Any) -> None:
        if self.verbose:
            super().v2_on_file_diff(result)
            return
        results = result.result.get("results") if result.task.loop else [result.result]
        for one in results or []:
            if one.get("diff") and one.get("changed"):
                self._say(f"{self._title}:")
                self._say(self._get_diff(one["diff"]).rstrip())

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._stop.set()
        self._title = ""
        if self.verbose:
            super().v2_playbook_on_stats(stats)
            return
        if self._silent_end:
            return
        for host in sorted(stats.processed):
            t = stats.summarize(host)
            self._say(
                f"{host}: ok={t['ok']} changed={t['changed']} unreachable={t['unreachable']} "
                f"failed={t['failures']}",
                C.COLOR_ERROR if t["failures"] or t["unreachable"] else C.COLOR_VERBOSE,
            )
