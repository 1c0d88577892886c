#!/usr/bin/python
"""Ansible module: wait until containers are healthy, and say why when they are not."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_wait
short_description: Wait for containers to be healthy
description:
  - Waits for all of them at once. One that exits, keeps restarting or turns unhealthy ends the
    wait at once, with its last log lines and, where known, the fix.
  - One that the engine restarts once, after it had run for a while, is waited for.
  - A container without a health check counts only while it runs.
options:
  docker_host:
    description: Address of the engine.
    type: str
    required: true
  containers:
    description: Names of the containers.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds to wait for all of them.
    type: float
    default: 120
  failed:
    description: What a failure means and what to do about it, to go before the reason.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: It never changes anything, and in check mode it does not wait.
author: HYVVE
"""

import time
from datetime import datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import connect, explain

LOG_LINES = 12
# Before the engine starts it again, a container that ran for less than this waits twice as long as
# the last time (https://docs.docker.com/reference/cli/docker/container/run/#restart).
SHORT_RUN = 10.0


def moment(stamp: str) -> float:
    """An engine's timestamp as seconds since 1970. Raises ValueError."""
    return datetime.fromisoformat(stamp).timestamp()


def ran_briefly(state: dict[str, Any]) -> bool:
    """Whether a container that the engine is about to restart ended soon after it was started."""
    return moment(state["FinishedAt"]) - moment(state["StartedAt"]) < SHORT_RUN


def verdict(
    state: dict[str, Any], restarts: int, known_restarts: int, known_probe: str | None
) -> tuple[bool, str]:
    """(healthy, reason to give up or "") for one container's State.

    Takes how often the engine restarted it, how often before the wait began, and when the last
    health probe before that began.
    """
    if state.get("Paused"):
        return False, "it is paused"
    again = restarts - known_restarts > 1
    if state.get("Restarting"):
        # A short run tells if it is one of this wait, or not the first.
        again = again or (restarts > min(known_restarts, 1) and ran_briefly(state))
        return False, f"it keeps exiting with status {state['ExitCode']}" if again else ""
    if restarts > 0 and not state["Running"]:
        return False, f"it keeps exiting with status {state['ExitCode']}"
    if not state["Running"] and state["Status"] != "created":
        if state.get("OOMKilled"):
            return False, "it was killed for using more memory than its limit"
        return False, f"it exited with status {state['ExitCode']}"
    health = state.get("Health")
    if health is None:
        return bool(state["Running"]), ""
    log = health.get("Log") or [{}]
    # An old verdict, from before a suspend or a pause, is not held against it.
    if health["Status"] == "unhealthy" and log[-1].get("Start") != known_probe:
        said = str(log[-1].get("Output", "")).strip().splitlines()
        return False, "its health check fails" + (f": {said[-1]}" if said else "")
    # One whose last probe failed is called healthy until several have.
    healthy = health["Status"] == "healthy" and not health.get("FailingStreak")
    # Its status is forgotten once it runs again.
    return healthy, "it keeps exiting" if again and not healthy else ""


def last_lines(client: Any, name: str) -> str:
    """The container's last log lines, indented: those since its last start, if there are any.

    One that is restarted again and again would otherwise show the same line as often.
    """
    said = b""
    try:
        started = client.inspect_container(name)["State"]["StartedAt"]
        said = client.logs(name, tail=LOG_LINES, since=moment(started))
    except Exception:
        pass
    try:
        said = said or client.logs(name, tail=LOG_LINES)
    except Exception:
        return ""
    text = said.decode(errors="replace")
    return "\n".join(f"    {line}" for line in text.splitlines())


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "required": True},
            "containers": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "float", "default": 120},
            "failed": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, waited=0)
    client = connect(module.params["docker_host"])
    begun = time.monotonic()
    waiting = dict.fromkeys(module.params["containers"], "")
    failures: dict[str, str] = {}
    known: dict[str, tuple[int, str | None]] = {}
    while waiting and not failures:
        for name in list(waiting):
            try:
                data = client.inspect_container(name)
            except Exception as error:
                failures[name] = f"it is gone ({error})"
                continue
            probes = (data["State"].get("Health") or {}).get("Log") or [{}]
            restarts = data.get("RestartCount", 0)
            before = known.setdefault(name, (restarts, probes[-1].get("Start")))
            healthy, reason = verdict(data["State"], restarts, *before)
            if healthy:
                del waiting[name]
            elif reason:
                failures[name] = reason
        if time.monotonic() - begun > module.params["timeout"]:
            limit = module.params["timeout"]
            failures.update(dict.fromkeys(waiting, f"it was not healthy after {limit:.0f} s"))
        if waiting and not failures:
            time.sleep(0.15)
    if failures:
        instead = module.params["failed"]
        parts = [instead] if instead else []
        for name, reason in failures.items():
            log = last_lines(client, name)
            parts.append(f"{name} does not serve: {reason}.")
            if log:
                parts.append(f"Its last words:\n{log}")
            if reason == "it is paused":
                parts.append(f"Let it go on: docker unpause {name}")
            else:
                more = "" if instead else "More: ./dev logs " + name.split("_")[-1]
                parts.append(explain(f"{reason}\n{log}") or more)
        module.fail_json(clear=True, msg="\n".join(filter(None, parts)), failures=failures)
    module.exit_json(changed=False, waited=round(time.monotonic() - begun, 1))


if __name__ == "__main__":
    main()
