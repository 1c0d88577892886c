"""How long PostgreSQL's backup and restore jobs take, side by side with pg_dump and pg_restore by hand.

    .venv/bin/python benchmarks/backup.py [--scale 20] [--rounds 3] [--image IMAGE]

Each round takes, one after the other on the same server with pgbench's data: `pg_dump -Fc` into a
folder and `pg_restore -j2` into a server that runs already, by hand; and the jobs of the role
postgres, whose own phase times tell what is copying and what is checking. Needs an engine and the
image; what it makes is labelled `dev-stack.benchmark` and removed. Compare ratios.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = Path(__file__).parent.parent / "roles/postgres/files"
LABEL = "dev-stack.benchmark=backup"
LIMITS = ["--memory", "1g", "--shm-size", "256m"]  # the role's defaults
DATA = "/var/lib/postgresql/data"
NAMES = ("bench_source", "bench_target", "bench_job")
VOLUMES = ("bench_target_data", "bench_job_data")
MAX_SCALE, MAX_ROUNDS = 300, 10
# The phases that copy. The others make the new server's cluster, which by hand is there already, and
# compare what was copied with what was there.
COPYING = re.compile(r"dumped|loaded|analysed|made durable")


def docker(*arguments: str) -> str:
    """Run Docker's client; what it prints. Ends the benchmark if it fails."""
    result = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"docker {' '.join(arguments)[:200]} failed: {result.stderr or result.stdout}")
    return result.stdout


def remove() -> None:
    """Remove what this benchmark makes."""
    for kind, names in (("container", NAMES), ("volume", VOLUMES)):
        for name in names:
            command = ["docker", kind, "inspect", name, "--format", "{{json .}}"]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode == 0 and "dev-stack.benchmark" in found.stdout:
                docker(kind, "rm", "--force", *(["--volumes"] if kind == "container" else []), name)


def serve(name: str, image: str, *options: str) -> None:
    """Start a server that nobody else reaches, and wait until it takes connections."""
    common = ["--name", name, "--label", LABEL, "--network", "none", *LIMITS]
    environment = ["-e", "POSTGRES_HOST_AUTH_METHOD=trust", "-e", "POSTGRES_PASSWORD=benchmark"]
    docker("run", "--detach", *common, *environment, *options, image)
    for _ in range(300):
        probe = [
            "docker",
            "exec",
            name,
            "psql",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-c",
            "SELECT 1",
        ]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.2)
    sys.exit(f"{name} does not take connections: {docker('logs', name)}")


def timed(*arguments: str) -> float:
    """Seconds that a command of Docker's client takes."""
    started = time.perf_counter()
    docker(*arguments)
    return time.perf_counter() - started


def by_hand(image: str, folder: Path) -> tuple[float, float]:
    """Seconds of pg_dump and of pg_restore, as a person would call them."""
    dump = timed(
        "exec", "bench_source", "pg_dump", "-U", "postgres", "-Fc", "-f", "/backup/hand", "bench"
    )
    docker("volume", "create", "--label", LABEL, "bench_target_data")
    serve("bench_target", image, "-v", f"bench_target_data:{DATA}", "-v", f"{folder}:/backup:ro")
    program = ["pg_restore", "-U", "postgres", "-d", "postgres", "-C", "-j2", "/backup/hand"]
    restore = timed("exec", "bench_target", *program)
    docker("rm", "--force", "--volumes", "bench_target")
    docker("volume", "rm", "bench_target_data")
    return dump, restore


def job(image: str, script: str, *options: str) -> tuple[float, dict[str, float]]:
    """(seconds in all, seconds by phase) of one of the role's jobs, run as the role runs it."""
    text = (FILES / "facts").read_text() + "\n" + (FILES / script).read_text()
    common = [
        "--name",
        "bench_job",
        "--label",
        LABEL,
        "--init",
        *LIMITS,
        "-e",
        "POSTGRES_USER=postgres",
    ]
    rights = ["--cap-drop", "ALL", *(f"--cap-add={c}" for c in CAPABILITIES)]
    started = time.perf_counter()
    output = docker("run", *common, *rights, *options, image, "sh", "-c", text, script)
    seconds = time.perf_counter() - started
    docker("rm", "--force", "--volumes", "bench_job")
    phases = re.findall(r"^= (.+) ([0-9.]+) s$", output, re.MULTILINE)
    return seconds, {name: float(took) for name, took in phases}


CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")


def ours(image: str, folder: Path) -> dict[str, float]:
    """Seconds of the jobs that back up and restore, copying and checking apart."""
    dump, dumped = job(
        image, "dump", "--network", "container:bench_source", "-v", f"{folder}:/backup"
    )
    docker("volume", "create", "--label", LABEL, "bench_job_data")
    arguments = "--encoding=UTF8 --locale=C.UTF-8 --data-checksums"
    volumes = ["-v", f"bench_job_data:{DATA}", "-v", f"{folder}:/backup:ro"]
    initdb = ["--network", "none", "-e", f"POSTGRES_INITDB_ARGS={arguments}", "-e", "SCRATCH="]
    load, loaded = job(image, "load", *initdb, *volumes)
    docker("volume", "rm", "bench_job_data")
    return {
        "dump": sum(took for name, took in dumped.items() if COPYING.search(name)),
        "dump in all": dump,
        "load": sum(took for name, took in loaded.items() if COPYING.search(name)),
        "load in all": load,
    }


def newest_image() -> str:
    """The image of PostgreSQL 16 that ./dev built or pulled."""
    tags = docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    wanted = [tag for tag in tags if re.match(r"dev-stack/postgres:16|postgres:16", tag)]
    return wanted[0] if wanted else sys.exit("No image of PostgreSQL 16 is here. First: ./dev up")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=int, default=20, help="of pgbench: 15 MB each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", default="")
    options = parser.parse_args()
    if not (1 <= options.scale <= MAX_SCALE and 1 <= options.rounds <= MAX_ROUNDS):
        sys.exit(f"--scale goes up to {MAX_SCALE}, --rounds up to {MAX_ROUNDS}")
    image = options.image or newest_image()
    remove()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-backup-") as name:
        folder = Path(name)
        folder.chmod(0o777)  # pg_dump by hand writes as the image's own user
        try:
            serve("bench_source", image, "-v", f"{folder}:/backup", "-u", "root")
            docker("exec", "bench_source", "createdb", "-U", "postgres", "bench")
            docker(
                "exec",
                "bench_source",
                "pgbench",
                "-U",
                "postgres",
                "-i",
                "-q",
                "-s",
                str(options.scale),
                "bench",
            )
            for number in range(options.rounds):
                print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr, flush=True)
                dump, restore = by_hand(image, folder)
                rounds.append({"pg_dump": dump, "pg_restore": restore, **ours(image, folder)})
        finally:
            remove()
            subprocess.run(["rm", "-rf", *map(str, folder.iterdir())], check=False)
    median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    print(json.dumps(rounds, indent=1), file=sys.stderr)
    print(f"{image}, pgbench scale {options.scale}, {options.rounds} rounds, medians in seconds")
    print("| | by hand | the job, copying | ratio | in all |\n|---|---|---|---|---|")
    for hand, mine in (("pg_dump", "dump"), ("pg_restore", "load")):
        ratio = median[mine] / median[hand]
        checks = median[f"{mine} in all"]
        print(
            f"| `{hand}` | {median[hand]:.1f} | {median[mine]:.1f} | {ratio:.2f} | {checks:.1f} |"
        )
    both = (median["dump"] + median["load"]) / (median["pg_dump"] + median["pg_restore"])
    print(f"| both | | | {both:.2f} | |")


if __name__ == "__main__":
    main()
