#!/usr/bin/python
"""Ansible module: stop and remove several containers at the same time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_remove
short_description: Stop and remove containers, those of one group at the same time
description:
  - Asks each container to end, gives it its own stop timeout, and removes it. The next group is asked
    once all of a group are gone. Containers that are not there are fine; volumes with a name stay.
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
    description: Tells whether one of them is there.
  idempotent:
    support: full
    description: What is gone is left alone.
author: HYVVE
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import connect

# Longer than any stop timeout: the engine answers once it has ended, or killed, the container.
PATIENCE = 600


def remove(docker_host: str, name: str, check_mode: bool) -> bool:
    """Stop and remove one container; whether it was there. Raises docker.errors.APIError."""
    from docker.errors import APIError, NotFound  # type: ignore[import-untyped]

    client = connect(docker_host, timeout=PATIENCE)  # its connections are for one thread each
    try:
        try:
            state = client.inspect_container(name)["State"]
        except NotFound:
            return False
        if check_mode:
            return True
        try:
            if state["Paused"]:  # as which it would not hear that it is asked
                client.unpause(name)
            if state["Running"]:
                client.stop(name)
            client.remove_container(name, v=True)  # volumes without a name; one with a name stays
        except NotFound:
            pass
        except APIError as error:
            if "already in progress" not in str(error):
                raise
            with contextlib.suppress(NotFound):
                client.wait(name, condition="removed")
        return True
    finally:
        client.close()


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
    removed: list[str] = []
    for names in filter(None, module.params["groups"]):
        with ThreadPoolExecutor(len(names)) as pool:
            leaving = {name: pool.submit(remove, host, name, module.check_mode) for name in names}
        errors = {name: error for name, one in leaving.items() if (error := one.exception())}
        removed += [name for name in names if name not in errors and leaving[name].result()]
        if errors:
            lines = [f"{name} could not be removed: {error}" for name, error in errors.items()]
            module.fail_json(clear=True, msg="\n".join(lines), changed=bool(removed))
    module.exit_json(changed=bool(removed), removed=removed)


if __name__ == "__main__":
    main()
