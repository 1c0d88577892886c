"""Runs that are ended on the way: killed without a chance to tidy up, as by a crash."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable

import psutil  # type: ignore[import-untyped]
from stack import PATIENCE, PROJECT, Stack

# What a script's shell runs in the background ignores Ctrl-C, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


def begin(
    stack: Stack, playbook: str, *options: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a playbook on the test inventory in a process group of its own; does not wait."""
    inventory = PROJECT / "molecule/inventory/hosts.yml"
    return subprocess.Popen(
        ["ansible-playbook", f"--inventory={inventory}", f"playbooks/{playbook}.yml", *options],
        cwd=PROJECT,
        env=stack.user_environment() | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(run: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    """Return as soon as `moment()` is true of a run that is at work.

    Fails the test if that never comes, since then nothing was tested.
    """
    limit = time.monotonic() + 3 * PATIENCE
    try:
        while not moment():
            assert run.poll() is None, f"it ended with {run.returncode} before the moment"
            assert time.monotonic() < limit, "the moment did not come"
            time.sleep(0.02)
    except BaseException:
        # The next test's runs would be refused while this one is at work.
        print(end(run, signal.SIGKILL))
        raise


def kill_when(
    run: subprocess.Popen[str],
    moment: Callable[[], bool],
    number: signal.Signals = signal.SIGKILL,
) -> str:
    """Send a signal to a run and all it started as soon as `moment()` is true; its output."""
    wait_for(run, moment)
    return end(run, number)


def end(run: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal to a run and all it started; its output."""
    if run.poll() is None:
        # Ansible's workers lead sessions of their own: they would go on, and then hang for ever.
        kills = number == signal.SIGKILL
        workers = psutil.Process(run.pid).children(recursive=True) if kills else []
        os.killpg(run.pid, number)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
    try:
        return run.communicate(timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired:
        run.kill()
        raise


def job_runs(stack: Stack, service: str, job: str) -> Callable[[], bool]:
    """A moment: the job of a service is at work."""

    def moment() -> bool:
        labels = [f"dev-stack.stack={stack.name}", f"dev-stack.job={job}"]
        labels.append(f"dev-stack.service={service}")
        return bool(stack.client.containers(filters={"label": labels, "status": "running"}))

    return moment


def job_began(stack: Stack, service: str, job: str) -> Callable[[], bool]:
    """A moment: the job of a service was made; a short one may have ended by now."""

    def moment() -> bool:
        labels = [f"dev-stack.stack={stack.name}", f"dev-stack.job={job}"]
        labels.append(f"dev-stack.service={service}")
        found = stack.client.containers(all=True, filters={"label": labels})
        return any(one["State"] != "created" for one in found)

    return moment


def volume_exists(stack: Stack, name: str) -> Callable[[], bool]:
    """A moment: a volume was made."""
    return lambda: name in stack.volumes()


def container_gone(stack: Stack, service: str) -> Callable[[], bool]:
    """A moment: a service's container was removed."""
    return lambda: service not in stack.services()


def switched(stack: Stack, volume: str) -> Callable[[], bool]:
    """A moment: the record says that this volume is in use."""
    record = stack.state / "volumes.json"
    return lambda: record.exists() and f'"{volume}"' in record.read_text().split('"previous"')[0]
