"""How long the stack's commands take beside docker compose, with the same containers on one machine.

    .venv/bin/python benchmarks/compare.py [--pairs 5] [--only CASE] [--compose PATH]

It brings the stack up under names of its own (bench_...), looks at what the roles made, and writes
that as a compose file: images, commands, environments, health checks, mounts, limits and rights.
What compose makes of it is looked at in the same way, and has to be equal. Then both run in turn,
ours, compose, ours, compose; whole commands are timed, each until all is healthy. The first pair of
each case is not counted. Needs an engine, `./dev setup`, and docker compose; installs nothing.

The table goes to standard output, progress to standard error. What it makes is known by the labels
of its stacks (bench_ours, bench_more_...), of its project (bench_compose), and, for containers and
images beside them, dev-stack.benchmark=compare. It is removed in the end, or by the next run should
this one be killed. Absolute figures depend on the machine; compare ratios.
"""

import argparse
import contextlib
import fcntl
import io
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import yaml
from docker.errors import DockerException  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "plugins" / "module_utils"))

from dev_stack import find_engine  # noqa: E402

STACK, PROJECT = "bench_ours", "bench_compose"
FURTHER = [f"bench_more_{number}" for number in range(2, 11)]
FOREIGN_LABEL = "dev-stack.benchmark=compare"
STACKS, FOREIGN = (1, 2, 5, 10), (0, 50, 200)
# Engines in virtual machines see the checkout, and not every temporary folder.
FOLDER = ROOT / ".cache" / "compare"
COMMAND_S = 300  # what a single command may take
MAX_PAIRS = 20
UP = ["up", "-d", "--wait"]
# What is done, with our launcher and with compose. Compose runs the migration at every `up`, as it
# does with all that has ended. `again` leaves it out; the first one after `up` is not to be counted,
# since compose recreates AgentOS for it, as it would if depends_on had been edited.
VERBS: dict[str, tuple[list[str], list[list[str]]]] = {
    "up": (["up"], [UP]),
    "again": (["up"], [[*UP, "--no-deps"]]),
    "down": (["down"], [["down"]]),
    "reset": (["reset", "--yes", "--no-backup"], [["down", "-v"], UP]),
}
GET_COMPOSE = (
    "There is no docker compose. Install your system's package (Debian 13: docker-compose, Ubuntu:"
    " docker-compose-v2), or name a binary with --compose PATH; see docs/performance.md."
)


class CaseFailed(Exception):
    """A case cannot be measured; its text says why, in one line."""


# --- commands -----------------------------------------------------------------------------------


def environment(engine_url: str) -> dict[str, str]:
    """The caller's environment without what decides about stacks, Ansible or compose projects."""
    own = "ANSIBLE_ COMPOSE_ STACK_NAME PORT_OFFSET ENV_FILE DEV_VENV IMAGE_ POSTGRES_ REDIS_ AGENTOS_"
    own += " PGADMIN_ BETTER_AUTH_SECRET AUTH_ OPENAI_API_KEY ANTHROPIC_API_KEY XDG_STATE_HOME"
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(tuple(own.split()))
    }
    return {**kept, "DOCKER_HOST": engine_url, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}


def run(command: list[str], variables: dict[str, str], memory: list[int] | None = None) -> float:
    """Run a command to its end; the seconds it took.

    Into `memory`, if given, goes the most that it and its descendants held at once, in bytes.
    Raises CaseFailed with its last line if it fails or takes longer than COMMAND_S.
    """
    name = " ".join(Path(word).name if "/" in word else word for word in command[:6])[:60]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=False,
        )
        try:
            if memory is not None:
                memory.append(peak_memory(child))
            child.wait(COMMAND_S)
        except BaseException as error:  # Ctrl-C as well: the group is ours, and nobody else's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CaseFailed(f"{name} took longer than {COMMAND_S} s") from None
            raise
        took = time.perf_counter() - started
        if child.returncode != 0:
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines() or ["no word"]
            raise CaseFailed(f"{name} ended with {child.returncode}: {lines[-1].strip()[:200]}")
    return took


def peak_memory(child: subprocess.Popen[bytes]) -> int:
    """The most bytes that a process and its descendants held at once, until it ends.

    The sum of their resident sets; what forked processes share counts for each of them.
    """
    peak, root = 0, psutil.Process(child.pid)
    deadline = time.monotonic() + COMMAND_S
    while child.poll() is None and time.monotonic() < deadline:
        held = 0
        with contextlib.suppress(psutil.Error):
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    held += process.memory_info().rss
        peak = max(peak, held)
        time.sleep(0.02)
    return peak


def say(text: str) -> None:
    """Tell progress."""
    print(text, file=sys.stderr, flush=True)


# --- the two sides ------------------------------------------------------------------------------


@dataclass
class Ours:
    """The stack, by its launcher. Every name is given with -e, so that no other stack is meant."""

    variables: dict[str, str]
    offset: int
    name: str = STACK
    redis_memory: str = "512m"

    @property
    def label(self) -> str:
        """What its containers, volumes and network carry."""
        return f"dev-stack.stack={self.name}"

    def settings(self) -> list[str]:
        """Ansible's options that keep it apart from every other stack."""
        values = {
            "stack_name": self.name,
            "port_offset": self.offset,
            "env_file": str(FOLDER / f"{self.name}.env"),
            "state_dir": str(FOLDER / "state"),
            "redis_memory": self.redis_memory,
        }
        return ["-e", json.dumps(values)]

    def do(self, verb: str, *options: str, memory: list[int] | None = None) -> float:
        """Do what a verb of VERBS says; the seconds. Further options go to Ansible."""
        command = [str(ROOT / "dev"), *VERBS[verb][0], "--", *self.settings(), *options]
        return run(command, self.variables, memory)

    def change(self) -> None:
        """Give Redis another memory limit, which the next `up` has to apply."""
        self.redis_memory = "500m" if self.redis_memory == "512m" else "512m"


@dataclass
class Compose:
    """The same containers, by docker compose. `program` is how it is called."""

    variables: dict[str, str]
    program: list[str]
    content: dict[str, Any] = field(default_factory=dict)
    label: str = f"com.docker.compose.project={PROJECT}"

    def do(self, verb: str, memory: list[int] | None = None) -> float:
        """Do what a verb of VERBS says; the seconds."""
        program = [*self.program, "-f", str(FOLDER / "compose" / "compose.yml"), "-p", PROJECT]
        names = [name for name in self.content["services"] if name != "migrate"]
        commands = [[*program, *command] for command in VERBS[verb][1]]
        commands[-1] += names if "--no-deps" in commands[-1] else []
        return sum(run(command, self.variables, memory) for command in commands)

    def change(self) -> None:
        """Give Redis another memory limit, and with it maxmemory, as the role does."""
        redis = self.content["services"]["redis"]
        megabytes = 500 if redis["mem_limit"] == 512 << 20 else 512
        redis.update(mem_limit=megabytes << 20, memswap_limit=megabytes << 21)
        for file in (FOLDER / "compose" / "redis").rglob("redis.conf"):
            limit = f"maxmemory {megabytes * 3 // 4}mb"
            text = re.sub(r"(?m)^maxmemory \d+mb$", limit, file.read_text())
            file.chmod(0o644)
            file.write_text(text)
        self.write()

    def write(self) -> None:
        """Write the compose file."""
        text = yaml.safe_dump(escaped(self.content), sort_keys=False, width=100)
        (FOLDER / "compose" / "compose.yml").write_text(text)


Side = Ours | Compose


def escaped(value: Any) -> Any:
    """A value with every $ doubled: compose would put a variable there."""
    if isinstance(value, dict):
        return {key: escaped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [escaped(one) for one in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


# --- from what the roles made to a compose file -------------------------------------------------


def service_of(engine: Any, found: dict[str, Any]) -> dict[str, Any]:
    """A container's settings as compose names them, without what differs between any two stacks.

    Takes what the engine says of the container. Left out are names, labels, and the sources of
    mounts and numbers of ports; what the image says already; and what is not set.
    """
    config, host = found["Config"], found["HostConfig"]
    image = engine.inspect_image(found["Image"])["Config"]
    health = config.get("Healthcheck") or {}
    spans = ("Interval", "Timeout", "StartPeriod", "StartInterval")
    healthcheck = {
        re.sub(r"(?<=.)([A-Z])", r"_\1", key).lower(): f"{value / 1e9:g}s"
        if key in spans
        else value
        for key, value in health.items()
        if value
    }
    settings = {
        "image": config["Image"],
        "entrypoint": None if config["Entrypoint"] == image["Entrypoint"] else config["Entrypoint"],
        "command": None if config["Cmd"] == image["Cmd"] else config["Cmd"],
        "user": config["User"] if config["User"] != image.get("User", "") else None,
        "environment": dict(
            entry.split("=", 1) for entry in sorted(set(config["Env"]) - set(image["Env"] or []))
        ),
        "healthcheck": {"disable": True} if health.get("Test") == ["NONE"] else healthcheck,
        "restart": host["RestartPolicy"]["Name"] or "no",
        "stop_grace_period": f"{config['StopTimeout']}s" if config.get("StopTimeout") else None,
        "mem_limit": host["Memory"],
        "memswap_limit": host["MemorySwap"],
        "pids_limit": host["PidsLimit"],
        "cap_drop": sorted(host["CapDrop"] or []),
        "cap_add": sorted(host["CapAdd"] or []),
        "security_opt": host["SecurityOpt"],
        "shm_size": host["ShmSize"],
        "tmpfs": [f"{path}:{options}" for path, options in (host.get("Tmpfs") or {}).items()],
        "read_only": host["ReadonlyRootfs"],
        "init": host.get("Init"),
        "extra_hosts": host["ExtraHosts"],
        "logging": {"driver": host["LogConfig"]["Type"], "options": host["LogConfig"]["Config"]},
        "volumes": [
            {"type": mount["Type"], "target": mount["Destination"], "read_only": not mount["RW"]}
            for mount in mounts_of(found)
        ],
        "ports": [
            {"target": int(port.partition("/")[0]), "host_ip": binding["HostIp"]}
            for port, binding in ports_of(found)
        ],
    }
    return {name: value for name, value in settings.items() if value}


def mounts_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A container's mounts, by where they are."""
    return sorted(found["Mounts"], key=lambda mount: str(mount["Destination"]))


def ports_of(found: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """(port of the container, {HostIp, HostPort}) of what it publishes."""
    bindings = found["HostConfig"]["PortBindings"] or {}
    return [(port, binding) for port in sorted(bindings) for binding in bindings[port] or []]


def compose_file(engine: Any, made: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The compose file's content, for what the engine says of each service's container.

    The files that ours mount are copied to a folder of compose's own; its ports are 1000 higher.
    """
    services: dict[str, Any] = {}
    volumes: dict[str, Any] = {}
    for name, found in made.items():
        service = service_of(engine, found)
        for entry, mount in zip(service.get("volumes", []), mounts_of(found), strict=True):
            if mount["Type"] == "volume":
                entry["source"] = f"{name}_data"
                volumes[f"{name}_data"] = {}
                continue
            source, copy = Path(mount["Source"]), FOLDER / "compose" / name
            copy /= re.sub(r"\W+", "_", mount["Destination"]).strip("_")
            copy.mkdir(parents=True)
            if source.is_dir():
                shutil.copytree(source, copy, dirs_exist_ok=True)
            else:
                copy = Path(shutil.copy(source, copy))
            entry |= {"source": str(copy), "bind": {"create_host_path": False}}
        for entry, (_, binding) in zip(service.get("ports", []), ports_of(found), strict=True):
            entry["published"] = str(int(binding["HostPort"]) + 1000)
        services[name] = service
    # The order in which ours start, as a compose file says it.
    services["migrate"]["depends_on"] = {"postgres": {"condition": "service_healthy"}}
    services["agentos"]["depends_on"] = {
        "migrate": {"condition": "service_completed_successfully"},
        "redis": {"condition": "service_healthy"},
    }
    networks = {"default": {"driver": "bridge"}}
    return {"services": services, "networks": networks, "volumes": volumes}


@contextlib.contextmanager
def watching(engine: Any, label: str) -> Iterator[dict[str, dict[str, Any]]]:
    """Gather what the engine says of each container with this label that starts meanwhile.

    By service, AgentOS's migration as `migrate`: its container is gone when the run ends.
    """
    made: dict[str, dict[str, Any]] = {}
    events = engine.events(decode=True, filters={"event": ["start"], "label": [label]})

    def gather() -> None:
        for event in events:
            with contextlib.suppress(Exception):  # gone already, or the stream was closed
                found = engine.inspect_container(event["id"])
                service = found["Config"]["Labels"]["dev-stack.service"]
                made["migrate" if found["Name"].endswith("_migrate") else service] = found

    thread = threading.Thread(target=gather, daemon=True)
    thread.start()
    try:
        yield made
        time.sleep(1)
    finally:
        events.close()
        thread.join(10)


def set_up(engine: Any, ours: Ours, compose: Compose) -> None:
    """Bring both up for the first time, and see that they are the same. Raises CaseFailed."""
    say("Bringing ours up ...")
    with watching(engine, ours.label) as made:
        ours.do("up")
    if missing := {"postgres", "redis", "agentos", "migrate"} - set(made):
        raise CaseFailed(f"the roles started no container for {', '.join(sorted(missing))}")
    compose.content = compose_file(engine, made)
    compose.write()
    say("Bringing compose's up ...")
    compose.do("up")
    theirs = {}
    for container in engine.containers(all=True, filters={"label": compose.label}):
        found = engine.inspect_container(container["Id"])
        theirs[found["Config"]["Labels"]["com.docker.compose.service"]] = found
    for name, found in made.items():
        first, second = service_of(engine, found), service_of(engine, theirs[name])
        if differing := [key for key in first | second if first.get(key) != second.get(key)]:
            raise CaseFailed(f"compose made another {name} of it: {', '.join(differing)}")


# --- what is made beside them, and removed ------------------------------------------------------


def remove(engine: Any, label: str) -> None:
    """Remove the containers, networks and volumes with a label."""
    for container in engine.containers(all=True, filters={"label": label}):
        engine.remove_container(container["Id"], force=True, v=True)
    for network in engine.networks(filters={"label": label}):
        engine.remove_network(network["Id"])
    for volume in engine.volumes(filters={"label": label})["Volumes"] or []:
        engine.remove_volume(volume["Name"])


def remove_around(engine: Any) -> None:
    """Remove what cases made beside the two sides: further stacks, foreign containers and images."""
    for name in FURTHER:
        remove(engine, f"dev-stack.stack={name}")
    remove(engine, FOREIGN_LABEL)  # containers have their images' labels
    for image in engine.images(filters={"label": FOREIGN_LABEL}):
        engine.remove_image(image["Id"], force=True)


def remove_all(engine: Any) -> None:
    """Remove all that this benchmark makes, and nothing else."""
    remove_around(engine)
    remove(engine, f"dev-stack.stack={STACK}")
    remove(engine, f"com.docker.compose.project={PROJECT}")
    shutil.rmtree(FOLDER, ignore_errors=True)


def have_foreign(engine: Any, number: int) -> None:
    """Have so many containers that nobody started, each of an image of its own."""
    say(f"Making {number} foreign containers and images ...")
    for index in range(number):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(f"number-{index}"))
        name, tag = "dev-stack-benchmark/foreign", str(index)
        label = [f"LABEL {FOREIGN_LABEL}"]
        engine.import_image_from_data(content.getvalue(), name, tag, changes=label)
        engine.create_container(f"{name}:{tag}", ["true"], name=f"bench_foreign_{index}")


def have_stacks(ours: Ours, number: int) -> None:
    """Have so many stacks of ours, the one that is measured among them."""
    for index, name in enumerate(FURTHER[: number - 1]):
        say(f"Bringing {name} up ...")
        offset = ours.offset + 1000 * (index + 2)
        Ours(ours.variables, offset, name).do("up", "--skip-tags", "pgadmin")


# --- cases --------------------------------------------------------------------------------------


@dataclass
class Case:
    """What is timed: `verb` on each side, after `prepare` has brought that side to where it begins.

    All begin and end with both sides up. `around` is done once, before the case, and makes what it
    needs beside the two.
    """

    name: str
    title: str
    verb: str = "up"
    prepare: Callable[[Side], object] = lambda side: None
    around: Callable[[], object] = lambda: None


def cases(engine: Any, ours: Any) -> list[Case]:
    """All cases, in the order in which they are measured. Takes the stack that is measured."""

    def kill(side: Side) -> None:
        filters = {"label": side.label, "name": "redis"}
        engine.kill(engine.containers(filters=filters)[0]["Id"])

    def wipe(side: Side) -> None:
        remove(engine, side.label)

    found = [
        Case("nothing", "nothing to do"),
        Case("again", "nothing to do, compose without the migration", "again"),
        Case("cold", "cold start, images present", prepare=wipe),
        Case("changed", "Redis's memory limit changed", prepare=lambda side: side.change()),
        Case("killed", "Redis killed", prepare=kill),
        Case("down", "down", "down"),
        Case("reset", "reset, without a backup", "reset"),
    ]
    for number in FOREIGN:
        around = partial(have_foreign, engine, number)
        title = f"nothing to do, {number} foreign containers and images"
        found.append(Case(f"foreign-{number}", title, "again", around=around))
    for number in STACKS:
        around = partial(have_stacks, ours, number)
        title = f"nothing to do, {number} of our stacks there"
        found.append(Case(f"stacks-{number}", title, "again", around=around))
    return found


Pairs = list[tuple[float, float]]


def measure(engine: Any, case: Case, ours: Side, compose: Side, pairs: int) -> Pairs:
    """The seconds of both in so many pairs, taken in turn after one that is not counted."""
    remove_around(engine)
    case.around()
    for side in (ours, compose):  # whatever an earlier case left
        side.do("up")
    results: Pairs = []
    for number in range(pairs + 1):
        took = []
        for side in (ours, compose):
            case.prepare(side)
            took.append(side.do(case.verb))
            if case.verb == "down":
                side.do("up")
        say(f"{case.name} {number or 'warm-up'}: {took[0]:.2f} {took[1]:.2f}")
        results.append((took[0], took[1]))
    return results[1:]


def launcher(ours: Ours, options: list[str], pairs: int) -> str:
    """What the launcher adds to ansible-playbook with these options, in pairs taken in turn."""
    path = f"{ROOT / '.venv/bin'}{os.pathsep}{ours.variables.get('PATH', os.defpath)}"
    plain = [str(ROOT / ".venv/bin/ansible-playbook"), "playbooks/dev.yml", *options]
    added = []
    for number in range(pairs + 1):
        took = run([str(ROOT / "dev"), "up", "--", *options], ours.variables)
        took -= run(plain, {**ours.variables, "PATH": path})
        say(f"launcher {number or 'warm-up'}: {took:+.3f}")
        added.append(took)
    low, *_, high = sorted(added[1:]) * 2
    return f"{statistics.median(added[1:]):.3f} s ({low:.3f} to {high:.3f})"


def launcher_lines(ours: Ours, pairs: int) -> list[str]:
    """What the launcher adds, to a whole run and, where less else varies, to one that only begins."""
    what = "What `./dev up` takes longer than `ansible-playbook playbooks/dev.yml`"
    return [
        f"- {what}: {launcher(ours, ours.settings(), pairs)}.",
        f"- The same, both with `--version`: {launcher(ours, ['--version'], 4 * pairs)}.",
    ]


def cost_line(ours: Ours, compose: Compose) -> str:
    """Memory and processor time of a run with nothing to do, on both sides."""
    costs = []
    for side in (ours, compose):
        side.do("again")
        peaks: list[int] = []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        side.do("again", memory=peaks)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        costs.append(f"{max(peaks) / 2**20:.0f} MiB and {processor:.1f} s")
    return (
        "- Nothing to do, memory of all processes of the run at its peak and their processor time,"
        f" without the engine's: ours {costs[0]}, compose {costs[1]}."
    )


# --- the report ---------------------------------------------------------------------------------


def median(pairs: Pairs, side: int) -> float:
    """The median of one side's seconds."""
    return statistics.median(pair[side] for pair in pairs)


def row(title: str, pairs: Pairs) -> str:
    """A row of the table."""
    ours, compose = median(pairs, 0), median(pairs, 1)
    ratios = sorted(one / other for one, other in pairs)
    between = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return f"| {title} | {ours:.2f} | {compose:.2f} | {ours / compose:.2f} | {between} |"


def growth(results: dict[str, Pairs], kind: str, counts: tuple[int, ...]) -> list[str]:
    """How the time of doing nothing grows from the fewest to the most; [] if it was not measured."""
    few, many = (results.get(f"{kind}-{number}") for number in (counts[0], counts[-1]))
    if not few or not many:
        return []
    ours, compose = (median(many, side) / median(few, side) for side in (0, 1))
    what = f"- Nothing to do, {kind} {counts[-1]} to {counts[0]}"
    return [f"{what}: ours {ours:.2f} times as long, compose {compose:.2f}."]


def versions(engine: Any, compose: Compose) -> str:
    """What was measured on: engine, compose, ansible-core, Python, machine."""
    command = [*compose.program, "version", "--short"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    about = engine.version()
    return (
        f"Docker Engine {about['Version']} (API {about['ApiVersion']}), compose {answer},"
        f" ansible-core {metadata.version('ansible-core')}, Python {platform.python_version()},"
        f" {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    )


def find_compose(path: str) -> list[str]:
    """How compose is called: the docker client's plugin, or the binary that was named. May exit."""
    program = [os.path.abspath(path)] if path else ["docker", "compose"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = [*program, "version", "--short"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        if re.match(r"v?([2-9]|\d\d)\.", answer.stdout):
            return program
    sys.exit(f"{path} is no docker compose 2 or later." if path else GET_COMPOSE)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """See that no other run of this benchmark uses the same names on this machine. May exit."""
    with open(os.path.join(tempfile.gettempdir(), "dev-stack-compare.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("Another run of this benchmark is at work; it uses the same names.")
        # Commands inherit it: should only this process be killed, the next run waits for them.
        os.set_inheritable(lock.fileno(), True)
        yield


def parse(names: list[str]) -> argparse.Namespace:
    """Read the command line; every figure is bounded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    count = range(1, MAX_PAIRS + 1)
    parser.add_argument("--pairs", type=int, choices=count, default=5, metavar="N")
    parser.add_argument(
        "--only", action="append", choices=names, metavar="CASE", help=", ".join(names)
    )
    parser.add_argument("--compose", default="", metavar="PATH", help="the binary docker-compose")
    parser.add_argument(
        "--port-offset", type=int, default=3000, metavar="N", help="3000; nine more follow"
    )
    return parser.parse_args()


def main() -> int:
    """Measure, and print the table; 1 if a case failed."""
    options = parse(["cost", "launcher", *(case.name for case in cases(None, None))])
    program = find_compose(options.compose)
    engine, url, problem = find_engine()
    if engine is None:
        sys.exit(f"{problem['text']}. {problem['fix']}")
    variables = environment(url)
    ours, compose = Ours(variables, options.port_offset), Compose(variables, program)
    results: dict[str, Pairs] = {}
    lines: list[str] = []
    failures: list[str] = []

    @contextlib.contextmanager
    def attempt(what: str) -> Iterator[None]:
        try:
            yield
        except (CaseFailed, DockerException, OSError) as error:
            failures.append(f"- Failed: {what}: {' '.join(str(error).split())}")
            say(failures[-1])

    def wanted(name: str) -> bool:
        return not options.only or name in options.only

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with alone():
        try:
            with attempt("setting up"):
                remove_all(engine)
                FOLDER.mkdir(parents=True, mode=0o700)
                set_up(engine, ours, compose)
            for case in cases(engine, ours) if not failures else []:
                if wanted(case.name):
                    with attempt(case.name):
                        results[case.name] = measure(engine, case, ours, compose, options.pairs)
            remove_around(engine)
            if wanted("cost") and compose.content:
                with attempt("cost"):
                    lines.append(cost_line(ours, compose))
            if wanted("launcher") and compose.content:
                with attempt("launcher"):
                    lines += launcher_lines(ours, options.pairs)
        except KeyboardInterrupt:
            failures.append("- Interrupted.")
        finally:
            say("Removing what was made ...")
            with attempt("removing what was made (run this again, with --only cost)"):
                remove_all(engine)
    print(f"{versions(engine, compose)}; medians of {options.pairs} pairs\n")
    print("| | `./dev`, s | compose, s | ratio | of pairs |\n|---|---|---|---|---|")
    for case in cases(engine, ours):
        if case.name in results:
            print(row(case.title, results[case.name]))
    lines += growth(results, "foreign", FOREIGN) + growth(results, "stacks", STACKS) + failures
    print("\n" + "\n".join(lines))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
