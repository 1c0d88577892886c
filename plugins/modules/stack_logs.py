#!/usr/bin/python
"""Ansible module: the last log lines of several containers, as one text."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_logs
short_description: Read the last log lines of containers
description:
  - Gives one text, each line with the service it is from.
options:
  docker_host:
    description: Address of the engine.
    type: str
    required: true
  containers:
    description: Container name by service.
    type: dict
    required: true
  tail:
    description: How many lines of each.
    type: int
    default: 100
  timestamps:
    description: Whether each line begins with its time.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: It never changes anything.
author: HYVVE
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import connect


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "required": True},
            "containers": {"type": "dict", "required": True},
            "tail": {"type": "int", "default": 100},
            "timestamps": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    p = module.params
    client = connect(p["docker_host"])
    width = max(map(len, p["containers"]))
    lines = []
    for service, name in p["containers"].items():
        try:
            data = client.logs(name, tail=p["tail"], timestamps=p["timestamps"])
        except Exception as error:
            module.fail_json(clear=True, msg=f"The log of {name} cannot be read: {error}")
        lines += [
            f"{service.ljust(width)} | {line}"
            for line in data.decode(errors="replace").splitlines()
        ]
    module.exit_json(changed=False, text="\n".join(lines))


if __name__ == "__main__":
    main()
