#!/usr/bin/python
"""Documentation of the action plugin of this name, which runs where Ansible does."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_description
short_description: Digest all that decides what a role makes of its service
description:
  - For each role, a digest of its files, of every variable with its prefix, of the plugins and
    playbooks, of what images are made from, and of Ansible's version. As long as it stays the same, and
    what it describes stays as C(stack_info) found it, the role would find nothing to do.
  - C(env_file) has a digest of what the connection strings are made from, and one of their file as
    it is; C(secrets_kept) tells whether the secrets given by the environment are those in the files.
  - What is left out on purpose is what a run makes on the way (C(MADE_ON_THE_WAY) in the action plugin).
options:
  roles:
    description: Names of roles.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    support: full
    description: It never changes anything.
author: HYVVE
"""
