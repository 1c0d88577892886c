#!/usr/bin/python
"""Ansible module: wait for containers that work on data and end by themselves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_job
short_description: Wait for job containers, show how far they are, and remove them
description:
  - Waits for all of them at once. What they print as C(@ text) is shown as progress where a person
    watches; their other output is returned.
  - Where one fails, the others are ended as well, and the message is what it wrote to its
    standard error.
  - The containers are removed in any case, with their anonymous volumes. When the run that waits
    ends without this module being told, by Ctrl-C for example, so do the jobs.
options:
  docker_host:
    description: Address of the engine.
    type: str
    required: true
  containers:
    description: Names of the containers, which were started already.
    type: list
    elements: str
    required: true
  failed:
    description: What a failure means, to go before the reason.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: In check mode nothing was started, and it does nothing.
author: HYVVE
"""

import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import (
    LABEL_JOB,
    RUN_VARIABLE,
    connect,
    explain,
    is_alive,
    tell,
    tidy_up_when_ended,
)

LINES = 8  # of what a job that failed said


def said(client: Any, name: str) -> tuple[list[str], str]:
    """(what it printed, a list of lines; the last of what it was at, from its lines with @)."""
    lines = client.logs(name, stdout=True, stderr=False).decode(errors="replace").splitlines()
    steps = [line[2:] for line in lines if line.startswith("@ ")]
    return [line for line in lines if not line.startswith("@ ")], steps[-1] if steps else ""


def reason(client: Any, name: str, state: dict[str, Any]) -> str:
    """Why a job failed, in its own words where it has some."""
    if state.get("OOMKilled"):
        return f"{name} was killed for using more memory than its limit."
    words = client.logs(name, stdout=False, stderr=True, tail=LINES).decode(errors="replace")
    text: str = words.strip()
    if not text:
        ended = "was killed" if state["ExitCode"] == 137 else f"ended with {state['ExitCode']}"
        text = f"{name} {ended}."
    return text


def wait(client: Any, names: list[str]) -> tuple[dict[str, Any], str]:
    """({name: {status, output}} of those that ended, the reason of the first failure or "").

    Returns at the first failure.
    """
    import docker  # type: ignore[import-untyped]

    results: dict[str, Any] = {}
    progress = dict.fromkeys(names, "")
    run = os.environ.get(RUN_VARIABLE, "")
    while len(results) < len(names):
        for name in names:
            if name in results:
                continue
            try:
                state = client.inspect_container(name)["State"]
                output, progress[name] = said(client, name)
            except docker.errors.NotFound:
                return results, f"{name} was removed while it was at work."
            if state["Status"] not in {"exited", "dead"}:
                continue
            results[name] = {"status": state["ExitCode"], "output": "\n".join(output)}
            progress[name] = ""
            if state["ExitCode"] != 0:
                return results, reason(client, name, state)
        if run and not is_alive(run):
            return results, "The run that waited has ended."
        tell(progress)
        time.sleep(0.2)
    return results, ""


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "required": True},
            "containers": {"type": "list", "elements": "str", "required": True},
            "failed": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, jobs={})
    names = module.params["containers"]
    tidy_up_when_ended()
    failure = ""
    results: dict[str, Any] = {}
    try:
        client = connect(module.params["docker_host"])
        results, failure = wait(client, names)
    except Exception as error:
        failure = f"The engine does not answer any more: {error}"
    finally:
        tell({})
        for name in names:
            remove(module.params["docker_host"], name)
    if failure:
        fix = explain(failure)
        lines = [module.params["failed"], failure, fix]
        message = "\n".join(line for line in lines if line)
        module.fail_json(clear=True, msg=message, jobs=results)
    module.exit_json(changed=False, jobs=results)


def remove(docker_host: str, name: str) -> None:
    """End and remove a job; nothing happens if it is gone, or is no job."""
    try:
        client = connect(docker_host)
        labels = client.inspect_container(name)["Config"]["Labels"] or {}
        if LABEL_JOB in labels:
            client.remove_container(name, force=True, v=True)
    except Exception:
        pass  # the next run finds what is left


if __name__ == "__main__":
    main()
