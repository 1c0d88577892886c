#!/usr/bin/python
"""Ansible module: stop several containers at the same time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_stop
short_description: Stop containers, those of one group at the same time
description:
  - Asks each container to end, gives it its own stop timeout, and waits for all of a group before
    the next group is asked. Containers that are not there, or do not run, are fine.
options:
  docker_host:
    description: Address of the engine.
    type: str
    required: true
  groups:
    description: Names of containers, in groups.
    type: list
    elements: list
    required: true
attributes:
  check_mode:
    support: full
    description: Tells whether one of them runs.
  idempotent:
    support: full
    description: What does not run is left alone.
author: HYVVE
"""

from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import connect

# Longer than any stop timeout: the engine answers once it has ended, or killed, the container.
PATIENCE = 600


def stop(docker_host: str, name: str, check_mode: bool) -> bool:
    """Stop one container; whether it ran. Raises docker.errors.APIError."""
    from docker.errors import NotFound  # type: ignore[import-untyped]

    client = connect(docker_host, timeout=PATIENCE)  # its connections are for one thread each
    try:
        state = client.inspect_container(name)["State"]
        if state["Running"] and not check_mode:
            if state["Paused"]:  # as which it would not hear that it is asked
                client.unpause(name)
            client.stop(name)
    except NotFound:
        return False
    finally:
        client.close()
    return bool(state["Running"])


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "required": True},
            "groups": {"type": "list", "elements": "list", "required": True},
        },
        supports_check_mode=True,
    )
    host = module.params["docker_host"]
    stopped: list[str] = []
    for names in filter(None, module.params["groups"]):
        with ThreadPoolExecutor(len(names)) as pool:
            running = {name: pool.submit(stop, host, name, module.check_mode) for name in names}
        for name, one in running.items():
            if error := one.exception():
                module.fail_json(clear=True, msg=f"{name} could not be stopped: {error}")
            if one.result():
                stopped.append(name)
    module.exit_json(changed=bool(stopped), stopped=stopped)


if __name__ == "__main__":
    main()
