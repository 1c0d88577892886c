#!/usr/bin/python
"""Ansible module: build images, side by side where they do not need one another."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_builds
short_description: Build images, side by side where they do not need one another
description:
  - An image is begun as soon as the one that it is built on is there. What each is at is shown as
    progress where a person watches.
  - Where one fails, the others are given up, and the message is what the failed step wrote last.
    Images that were finished by then stay.
  - When the run that waits ends without this module being told, by Ctrl-C for example, so do the
    builds.
options:
  docker_host:
    description: Address of the engine.
    type: str
    required: true
  images:
    description: The images.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What to call it to a person.
        type: str
        required: true
      reference:
        description: The tag that it gets.
        type: str
        required: true
      base:
        description: Reference of the image that it is built on; empty where there is none.
        type: str
        default: ""
      path:
        description: The build's context, a directory.
        type: str
        required: true
      args:
        description: Arguments of the build.
        type: dict
        default: {}
      command:
        description: A program to run in O(images[].path) first, which makes what the context lacks.
        type: list
        elements: str
        default: []
  timeout:
    description: Seconds of silence after which a build is given up.
    type: int
    default: 1800
attributes:
  check_mode:
    support: full
    description: Nothing is built.
author: HYVVE
"""

import os
import re
import signal
import subprocess
import threading
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import (
    RUN_VARIABLE,
    connect,
    explain,
    is_alive,
    tell,
    tidy_up_when_ended,
)

LINES = 8  # of what a step that failed said


class BuildError(Exception):
    """Why an image could not be built, in words for a person."""


class Builds:
    """Images that are being built, each in a thread of its own."""

    def __init__(self, docker_host: str, images: list[dict[str, Any]], timeout: int) -> None:
        """Take the module's options; begins nothing."""
        self.docker_host, self.images, self.timeout = docker_host, images, timeout
        self.done = {image["reference"]: threading.Event() for image in images}
        self.seconds: dict[str, int] = {}
        self.progress = {image["name"]: "" for image in images}
        self.failure = ""
        self.commands: list[subprocess.Popen[str]] = []

    def run(self) -> str:
        """Build all; return the reason of the first failure, or ""."""
        run = os.environ.get(RUN_VARIABLE, "")
        for image in self.images:
            # A thread that waits for the engine ends with this process, and with its connection
            # the engine's work.
            threading.Thread(target=self.build, args=(image,), daemon=True).start()
        try:
            while len(self.seconds) < len(self.images) and not self.failure:
                if run and not is_alive(run):
                    return "The run that waited has ended."
                tell(self.progress)
                time.sleep(0.2)
        finally:
            tell({})
            self.end_commands()
        return self.failure

    def build(self, image: dict[str, Any]) -> None:
        """Build one image, once its base is there."""
        name = image["name"]
        if image["base"] in self.done:
            self.done[image["base"]].wait()
        started = time.monotonic()
        try:
            if image["command"]:
                self.progress[name] = name
                self.prepare(image)
            self.ask_engine(image)
        except Exception as error:
            self.failure = self.failure or f"The image {name} could not be built: {error}"
            return
        self.progress[name] = ""
        self.seconds[name] = round(time.monotonic() - started)
        self.done[image["reference"]].set()

    def prepare(self, image: dict[str, Any]) -> None:
        """Run the command that makes what the context lacks."""
        with subprocess.Popen(
            image["command"],
            cwd=image["path"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            self.commands.append(process)
            output, _ = process.communicate()
        if process.returncode != 0:
            program = os.path.basename(image["command"][0])
            raise BuildError(with_last_lines(f"{program} ended with {process.returncode}.", output))

    def ask_engine(self, image: dict[str, Any]) -> None:
        """Have the engine build the context."""
        client = connect(self.docker_host, timeout=self.timeout)
        step, output = "", ""
        for message in client.build(
            path=image["path"],
            tag=image["reference"],
            buildargs=image["args"] | ({"BASE_IMAGE": image["base"]} if image["base"] else {}),
            rm=True,
            forcerm=True,
            pull=False,
            decode=True,
        ):
            if "error" in message:
                raise BuildError(why(message, step, output))
            text = message.get("stream", "")
            if begun := re.match(r"Step (\d+/\d+) : ", text):
                step, output = begun[1], ""
                self.progress[image["name"]] = f"{image['name']} {step}"
            else:
                output += text

    def end_commands(self) -> None:
        """End what still runs, with all that it started, and give it time to tidy up."""
        for process in self.commands:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        until = time.monotonic() + 10
        while any(process.poll() is None for process in self.commands):
            if time.monotonic() > until:
                break
            time.sleep(0.1)


def with_last_lines(reason: str, output: str) -> str:
    """A reason, and the last lines of what was said before."""
    lines = [line for line in output.splitlines() if line.strip()]
    return "\n".join([reason, *lines[-LINES:]])


def why(message: dict[str, Any], step: str, output: str) -> str:
    """Why the engine gave a build up. Its own message repeats the whole step, which is long."""
    code = (message.get("errorDetail") or {}).get("code")
    reason = f"its step {step} ended with {code}." if code else str(message["error"])
    return with_last_lines(reason, output)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "required": True},
            "images": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "reference": {"type": "str", "required": True},
                    "base": {"type": "str", "default": ""},
                    "path": {"type": "str", "required": True},
                    "args": {"type": "dict", "default": {}},
                    "command": {"type": "list", "elements": "str", "default": []},
                },
            },
            "timeout": {"type": "int", "default": 1800},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True, seconds={})
    tidy_up_when_ended()
    p = module.params
    builds = Builds(p["docker_host"], p["images"], p["timeout"])
    failure = builds.run()
    if failure:
        message = "\n".join(line for line in (failure, explain(failure)) if line)
        module.fail_json(clear=True, msg=message, seconds=builds.seconds)
    module.exit_json(changed=True, seconds=builds.seconds)


if __name__ == "__main__":
    main()
