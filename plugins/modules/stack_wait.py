#!/usr/bin/python
"""Ansible module: wait until containers are healthy, and say why when they are not."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_wait
short_description: Wait for containers to be healthy
description:
  - Waits for all of them at once. One that exits, keeps restarting or is found unhealthy by two
    more probes ends the wait at once, with its last log lines and, where known, the fix.
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
  needed:
    description:
      - Names of those on which the health of the others may depend. While one of these is waited
        for, no other is given up for its health.
    type: list
    elements: str
    default: []
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


def probes(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The last health probes that have ended, of a container's State."""
    return (state.get("Health") or {}).get("Log") or []


def last_probe(state: dict[str, Any]) -> str | None:
    """When the last of them began."""
    return probes(state)[-1].get("Start") if probes(state) else None


def verdict(
    state: dict[str, Any], restarts: int, known_restarts: int, known_probe: str | None
) -> tuple[bool, str]:
    """(healthy, reason to give up or "") for one container's State.

    Takes how often the engine restarted it, how often before the wait began, and when the last
    health probe began that does not count.
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
    # An old verdict, from before a suspend or a pause, is not held against it; nor is the first
    # new one, since that probe may have begun before as well.
    starts = [probe.get("Start") for probe in probes(state)]
    new = starts[starts.index(known_probe) + 1 :] if known_probe in starts else starts
    if health["Status"] == "unhealthy" and len(new) > 1:
        said = str(probes(state)[-1].get("Output", "")).strip().splitlines()
        return False, "its health check fails" + (f": {said[-1]}" if said else "")
    # One whose last probe failed is called healthy until several have.
    healthy = health["Status"] == "healthy" and not health.get("FailingStreak")
    # Its status is forgotten once it runs again. The engine's first delays are too short to be seen
    # for sure, and a later one would tell it.
    often = restarts - known_restarts > 3
    return healthy, "it keeps exiting" if often and not healthy else ""


def wait(
    client: Any, containers: list[str], needed: list[str], timeout: float
) -> dict[str, tuple[str, str]]:
    """Wait, and give why containers do not serve and when they were started; {} if all do."""
    limit = time.monotonic() + timeout
    waiting = list(containers)
    failures: dict[str, tuple[str, str]] = {}
    started: dict[str, str] = {}
    known_restarts: dict[str, int] = {}
    known_probes: dict[str, str | None] = {}
    while True:
        for name in list(waiting):
            try:
                data = client.inspect_container(name)
            except Exception as error:
                failures[name] = f"it is gone ({error})", ""
                continue
            state, restarts = data["State"], data.get("RestartCount", 0)
            started[name] = state["StartedAt"]
            known_restarts.setdefault(name, restarts)
            depends = name not in needed and not set(needed).isdisjoint(waiting)
            if depends or name not in known_probes:
                known_probes[name] = last_probe(state)
            healthy, reason = verdict(state, restarts, known_restarts[name], known_probes[name])
            if healthy:
                waiting.remove(name)
            elif reason:
                failures[name] = reason, started[name]
        if not waiting or failures:
            return failures
        if time.monotonic() > limit:
            late = f"it was not healthy after {timeout:.0f} s"
            return {name: (late, started[name]) for name in waiting}
        time.sleep(0.15)


def last_lines(client: Any, name: str, started: str) -> str:
    """The container's last log lines, indented: those since it was started, if there are any.

    One that is restarted again and again would otherwise show the same line as often.
    """
    said = b""
    try:
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
            "needed": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "float", "default": 120},
            "failed": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, waited=0)
    p = module.params
    client = connect(p["docker_host"])
    begun = time.monotonic()
    failures = wait(client, p["containers"], p["needed"], p["timeout"])
    if failures:
        instead = p["failed"]
        parts = [instead] if instead else []
        for name, (reason, started) in failures.items():
            log = last_lines(client, name, started)
            parts.append(f"{name} does not serve: {reason}.")
            if log:
                parts.append(f"Its last words:\n{log}")
            if reason == "it is paused":
                parts.append(f"Let it go on: docker unpause {name}")
            else:
                more = "" if instead else "More: ./dev logs " + name.split("_")[-1]
                parts.append(explain(f"{reason}\n{log}") or more)
        module.fail_json(clear=True, msg="\n".join(filter(None, parts)))
    module.exit_json(changed=False, waited=round(time.monotonic() - begun, 1))


if __name__ == "__main__":
    main()
