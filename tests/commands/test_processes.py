"""Commands as processes: asked to stop, killed, failing or hanging, alone and with several ranks."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tools import ROOT, environment, losses_of, make_store, tiny_overrides

from bert_lamb.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE
from bert_lamb.run import list_checkpoints
from bert_lamb.signals import SAME_REQUEST_S, held_back

LONG_S = 120  # until a test gives up
TWO = ("hardware.devices=2", "hardware.strategy=ddp")
ENDLESS = ("phase1.steps=1000000", "run.checkpoint_every=20", "run.log_every=1", "run.heldout_every=0")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    make_store(folder / "data" / "made")
    return folder


def command(folder: Path, name: str, *overrides: str) -> list[str]:
    given = [*tiny_overrides(folder), f"run.name={name}", *overrides]
    return [sys.executable, "-m", "bert_lamb.pretrain", *given]


@pytest.fixture
def start(store) -> Iterator:
    """Starts `pretrain` and waits until it trains; whatever is left of it at the end is killed."""
    processes: list[psutil.Process] = []

    def begin(name: str, *overrides: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
        metrics = store / "runs" / name / "phase1" / "metrics.jsonl"
        before = metrics.stat().st_size if metrics.is_file() else 0
        process = subprocess.Popen(
            command(store, name, *overrides), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: process.poll() is not None or (metrics.is_file() and metrics.stat().st_size > before))
        assert process.poll() is None, process.stderr.read()
        ranks = sorted(psutil.Process(process.pid).children(), key=lambda p: int(p.environ()["RANK"]))
        processes.extend([psutil.Process(process.pid), *ranks])
        return process, ranks

    yield begin
    for process in processes:
        if process.is_running():
            process.kill()


def wait_for(condition, seconds: float = LONG_S) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.05)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def one_message(stderr: str) -> str:
    """The only message of a command that failed."""
    begins = [i for i, line in enumerate(stderr.splitlines()) if line.startswith("error: ")]
    assert len(begins) == 1, stderr
    assert "Traceback" not in stderr, stderr
    return "\n".join(stderr.splitlines()[begins[0] :])


def test_ranks_die_with_their_command_and_hold_its_lock(store, start):
    process, ranks = start("killed", *TWO, *ENDLESS)
    assert len(ranks) == 2
    ranks[1].suspend()  # also one that cannot act for itself
    process.kill()
    process.wait()
    wait_for(lambda: gone(ranks), 10)
    resumed, _ = start("killed", *TWO, *ENDLESS)  # nobody holds the folder any more
    resumed.terminate()
    assert resumed.wait(LONG_S) == EXIT_STOPPED


def test_a_command_is_refused_beside_another_before_it_writes(store, start):
    start("taken", *ENDLESS)
    settings = store / "runs" / "taken" / "settings.yaml"
    before = settings.read_bytes()
    second = subprocess.run(
        command(store, "taken", *ENDLESS, "run.log_every=7"),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert second.returncode == EXIT_USAGE
    assert "in use by another process" in one_message(second.stderr)
    assert settings.read_bytes() == before


@pytest.mark.parametrize(("number", "devices"), [("SIGHUP", TWO), ("SIGUSR1", ())])
def test_a_request_to_stop_saves(store, start, number, devices):
    name = f"stopped-{number}"
    process, ranks = start(name, *devices, *ENDLESS, "run.checkpoint_every=100000")
    process.send_signal(getattr(signal, number))
    assert process.wait(LONG_S) == EXIT_STOPPED
    assert gone(ranks)
    steps = max(losses_of(store / "runs" / name, 1))
    newest = list_checkpoints(store / "runs" / name / "phase1" / "checkpoints")[-1]
    assert newest.name == f"step-{steps:06d}"


@pytest.mark.parametrize("devices", [(), TWO], ids=["one", "two"])
def test_a_request_before_the_first_step_is_one_too(store, devices):
    """While the plan is measured; and while the ranks start, whose interpreters have no handler yet."""
    name = f"early-{len(devices)}"
    process = subprocess.Popen(
        command(store, name, *devices, *ENDLESS), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    began = store / "runs" / name / "settings.yaml"
    wait_for(lambda: psutil.Process(process.pid).children() if devices else began.is_file())
    process.terminate()
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == EXIT_STOPPED, stderr
    assert "stopped as asked" in stderr
    assert "error" not in stderr


def test_suspended_and_continued_with_all_its_ranks(store, start):
    """For longer than a rank may be waited for, which is no time that anyone has waited."""
    process, ranks = start("suspended", *TWO, *ENDLESS, "hardware.timeout_s=2")
    process.send_signal(signal.SIGTSTP)
    everyone = [psutil.Process(process.pid), *ranks]
    wait_for(lambda: all(p.status() == psutil.STATUS_STOPPED for p in everyone), 10)
    time.sleep(3)
    metrics = store / "runs" / "suspended" / "phase1" / "metrics.jsonl"
    before = metrics.stat().st_size
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: metrics.stat().st_size > before)
    time.sleep(1)
    process.terminate()
    assert process.wait(LONG_S) == EXIT_STOPPED


def test_a_rank_that_cannot_be_started_takes_the_others_along(tmp_path):
    program = (
        "import subprocess, sys; from pathlib import Path; from bert_lamb.parallel import launch\n"
        "real = subprocess.Popen\n"
        "def popen(*arguments, env, **more):\n"
        "    if env['RANK'] == '1': raise OSError(11, 'Resource temporarily unavailable')\n"
        "    process = real(['sleep', '1000'], env=env, **more); print(process.pid, flush=True); return process\n"
        "launch.subprocess.Popen = popen; launch.start_ranks('none', Path(sys.argv[1]), 2)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], env=environment(), capture_output=True, text=True)
    assert "Resource temporarily unavailable" in done.stderr
    assert not psutil.pid_exists(int(done.stdout))


SLEEPER = """
import signal, sys, time
from bert_lamb import signals
signals.SAME_REQUEST_S = 0.2
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
stop = signals.StopRequest()
print("ready", flush=True)
while not (sys.argv[1] == "nohup" and stop):
    time.sleep(0.05)
sys.exit(33)
"""


def sleeper(kind: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, kind], env=environment(), stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


LATE = """
import time
time.sleep(0.5)
from bert_lamb.signals import StopRequest
first = StopRequest()
second = StopRequest()
print(bool(first), bool(second))
"""


def test_a_signal_before_there_is_a_handler_is_received_then():
    with held_back():
        process = subprocess.Popen([sys.executable, "-c", LATE], env=environment(), stdout=subprocess.PIPE, text=True)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=LONG_S)[0] == "True True\n"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM}


def test_a_second_request_ends_at_once_with_the_same_code():
    process = sleeper("ends")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.4)
    assert process.wait(10) == EXIT_STOPPED


def test_nohup_is_honoured():
    process = sleeper("nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 33  # its own end, once it saw the request


def test_a_killed_rank_is_named_and_ends_the_others(store, start):
    process, ranks = start("rank-killed", *TWO, *ENDLESS)
    ranks[1].kill()
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == EXIT_FAILED
    message = one_message(stderr)
    assert "rank 1 of 2" in message
    assert "SIGKILL" in message
    assert gone(ranks)


def test_a_rank_that_hangs_is_named(store, start):
    process, ranks = start("stopped-rank", *TWO, *ENDLESS, "hardware.timeout_s=4")
    ranks[1].suspend()
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == EXIT_FAILED
    message = one_message(stderr)
    assert "rank 1 of 2" in message
    assert f"process {ranks[1].pid}" in message
    assert "does not answer" in message
    assert "hardware.timeout_s" in message
    assert gone(ranks)


def test_a_second_request_ends_a_run_whose_rank_hangs(store, start):
    process, ranks = start("asked-twice", *TWO, *ENDLESS)
    ranks[1].suspend()
    process.send_signal(signal.SIGINT)
    time.sleep(SAME_REQUEST_S + 0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == EXIT_STOPPED
    wait_for(lambda: gone(ranks), 10)


def test_where_a_rank_hangs_is_told(store):
    """A rank whose loader sleeps: the message has the line it waits in, its stacks the line that sleeps."""
    program = (
        "import sys; from bert_lamb.parallel import start_ranks; from bert_lamb.run import open_run;"
        "from bert_lamb.settings import compose_settings; folder = open_run(compose_settings(sys.argv[1:])).path;"
        "sys.exit(start_ranks('ranks.hang', folder, 2))"
    )
    given = [*tiny_overrides(store), "run.name=hangs", *TWO, "hardware.timeout_s=4"]
    done = subprocess.run([sys.executable, "-c", program, *given], env=environment(), capture_output=True, text=True)
    assert done.returncode == EXIT_FAILED
    message = one_message(done.stderr)
    assert "rank 1 of 2" in message
    assert "bert_lamb/data/loader.py" in message
    assert "does not answer" not in message
    stacks = [(store / "runs" / "hangs" / "stacks" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert "in nap" in stacks[1]
    assert "in nap" not in stacks[0]
    assert "reduce" in stacks[0]


@pytest.mark.parametrize("devices", [(), TWO], ids=["one", "two"])
def test_a_diverged_run_gives_one_message_and_one_code(store, devices):
    given = ["phase1.peak_lr=1e30", "phase1.warmup_steps=0", "phase1.steps=40", "recovery.max_skipped_in_row=2"]
    name = f"diverged-{len(devices)}"
    done = subprocess.run(
        command(store, name, *devices, *given), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == EXIT_USAGE, done.stderr
    assert "the run has diverged" in one_message(done.stderr)


def test_damaged_checkpoints_give_one_message_and_one_code(store):
    name, devices = "damaged", TWO
    subprocess.run(command(store, name), cwd=ROOT, env=environment(), capture_output=True, check=True)
    phase = store / "runs" / name / "phase2"
    (phase / "result.json").unlink()
    for checkpoint in list_checkpoints(phase / "checkpoints"):
        with (checkpoint / "optimizer.safetensors").open("r+b") as file:
            file.seek(200)
            file.write(b"damage")
    done = subprocess.run(command(store, name, *devices), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == EXIT_USAGE, done.stderr
    assert "SHA256SUMS" in one_message(done.stderr)


@pytest.mark.parametrize("devices", [(), TWO], ids=["one", "two"])
def test_a_disk_without_room_gives_one_message(store, devices):
    """A limit on the size of files stands for a full disk: the write fails amid a checkpoint."""
    name = f"full-{len(devices)}"
    limit = 50_000  # bytes: more than the small files have, less than the weights
    done = subprocess.run(
        command(store, name, *devices), cwd=ROOT, env=environment(), capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == EXIT_USAGE, done.stderr
    assert "ulimit -f" in one_message(done.stderr)
    assert not list_checkpoints(store / "runs" / name / "phase1" / "checkpoints")


def test_two_commands_that_prepare_one_store_both_succeed(tmp_path):
    small = ["data.articles=200", "data.books=4", "data.vocab_size=400", "data.passes=1", "data.seq_lens=[64,128]"]
    given = [f"data.root={tmp_path}", "data.name=one", "data.processes=1", "data.shard_mib=1", *small]
    line = [sys.executable, "-m", "data_prep.prepare", *given]
    both = [subprocess.Popen(line, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("waiting for it" in words for words in said) == 1
    assert sum("of text) with" in words for words in said) == 1
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["counts"]["documents"]


def test_a_program_error_of_a_rank_keeps_its_traceback_once(store):
    """What is nobody's input is shown whole, by the rank that failed, with its place."""
    program = (
        "import sys; from bert_lamb.parallel import start_ranks; from pathlib import Path;"
        "sys.exit(start_ranks('ranks.fails', Path(sys.argv[1]), 2))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(store)], env=environment(), capture_output=True, text=True, timeout=LONG_S
    )
    assert done.returncode == EXIT_FAILED
    assert done.stderr.count("Traceback") == 1
    assert "error: rank 1 of 2" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert os.sep + "fails.py" in done.stderr
