#!/usr/bin/python
"""Ansible module: ask the engine whether it can get images from their registry."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_info
short_description: Whether a registry gives the engine an image
description:
  - The engine is asked, since it is the engine that pulls, with its own proxy and mirrors.
options:
  docker_host:
    description: Address of the engine.
    type: str
    required: true
  image:
    description: The image to ask for.
    type: str
    required: true
  timeout:
    description: Seconds to wait for an answer.
    type: float
    default: 15
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
            "image": {"type": "str", "required": True},
            "timeout": {"type": "float", "default": 15},
        },
        supports_check_mode=True,
    )
    image = module.params["image"]
    first = image.split("/")[0]
    registry = first if "/" in image and ("." in first or ":" in first) else "docker.io"
    try:
        client = connect(module.params["docker_host"], timeout=module.params["timeout"])
        client.inspect_distribution(image)
    except Exception as error:
        module.exit_json(
            changed=False, answers=False, registry=registry, reason=str(error).splitlines()[0]
        )
    module.exit_json(changed=False, answers=True, registry=registry, reason="")


if __name__ == "__main__":
    main()
