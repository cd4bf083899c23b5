"""We leave no trace: the script runs as under plain Python."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from halftime.errors import UserError
from halftime.measure.command import parse_command
from halftime.measure.launch import Limits, Orders, run_in_trial
from halftime.measure.workspace import private_workspace, project_roots, snapshot
from tests.conftest import SCRIPTS

Program = Callable[..., subprocess.CompletedProcess[str]]

TELL = """
import os, sys
print(sys.argv, os.getcwd(), __name__, sys.path, __file__, sys.flags, sorted(
    name for name in sys.modules if "halftime" in name and not name.startswith("_halftime")))
print("to stderr", file=sys.stderr)
print(sys.stdin.read())
sys.exit(7)
"""


def project(tmp_path: Path, text: str, name: str = "train.py") -> Path:
    folder = tmp_path / "project"
    folder.mkdir(exist_ok=True)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("words", [["train.py", "--a", "b c"], ["-m", "pkg.train", "x"]])
def test_run_is_as_plain_python(tmp_path: Path, halftime: Program, words: list[str]) -> None:
    folder = project(tmp_path, TELL)
    project(tmp_path, TELL, "pkg/train.py")
    plain = subprocess.run(
        [sys.executable, *words], cwd=folder, input="typed", capture_output=True, text=True
    )
    ours = halftime(
        "run", "--python", sys.executable, *words, cwd=folder, stdin=None, input="typed"
    )
    assert ours.stdout == plain.stdout
    assert ours.returncode == plain.returncode == 7
    assert "to stderr" in ours.stderr
    assert all(line.startswith("halftime: ") for line in ours.stderr.splitlines()[1:])


def test_trial_is_as_plain_python(tmp_path: Path) -> None:
    # Trials fix PYTHONHASHSEED, which sys.flags shows.
    text = TELL.replace("sys.exit(7)", "").replace("sys.flags, ", "")
    folder = project(tmp_path, text)
    plain = subprocess.run(
        [sys.executable, "train.py", "x"], cwd=folder, input="typed", capture_output=True, text=True
    )
    (tmp_path / "stdin").write_text("typed")
    said = in_trial(folder, ["train.py", "x"], tmp_path, stdin=str(tmp_path / "stdin"))
    assert said == plain.stdout


def in_trial(
    folder: Path, words: list[str], tmp_path: Path, stdin: str = os.devnull, wall: float = 60
) -> str:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        command = parse_command(words, sys.executable)
    finally:
        os.chdir(before)
    orders = Orders(run_folder=str(run_folder), in_trial=True)
    limits = Limits(wall_seconds=wall, silence_seconds=wall)
    run_in_trial(
        command, orders, private_workspace(command, "overlay", ()), limits, stdin, lambda e: None
    )
    return (run_folder / "stdout.txt").read_text()


@pytest.mark.parametrize(
    ("ending", "status"),
    [("sys.exit(3)", 3), ("os._exit(4)", 4), ("raise ValueError", 1), ("pass", 0)],
)
def test_exit_code_is_the_scripts_own(
    tmp_path: Path, halftime: Program, ending: str, status: int
) -> None:
    folder = project(tmp_path, f"import os, sys\n{ending}\n")
    assert halftime("run", "train.py", cwd=folder).returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_script_that_a_signal_ended_ends_us_by_the_same(
    tmp_path: Path, halftime: Program, number: signal.Signals
) -> None:
    folder = project(tmp_path, f"import os\nos.kill(os.getpid(), {int(number)})\n")
    ended = halftime("run", "train.py", cwd=folder)
    assert (ended.returncode, ended.stderr) == (-number, "")


def test_signal_of_a_scheduler_reaches_the_script(tmp_path: Path) -> None:
    text = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    folder = project(tmp_path, text)
    with subprocess.Popen(
        [sys.executable, "-m", "halftime", "run", "train.py"], cwd=folder, text=True,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(30) == 5


def test_run_starts_where_there_is_no_folder_of_that_name(
    tmp_path: Path, halftime: Program
) -> None:
    folder = project(tmp_path, "print('ran')\n")
    ran = halftime("run", "train.py", cwd=folder, env={"TMPDIR": str(tmp_path / "gone")})
    assert ran.stdout == "ran\n"


def test_own_sitecustomize_still_runs(tmp_path: Path, halftime: Program) -> None:
    folder = project(tmp_path, "import builtins; print(builtins.own)")
    project(tmp_path, "import builtins; builtins.own = 'mine'", "path/sitecustomize.py")
    answer = halftime("run", "-q", "train.py", cwd=folder, env={"PYTHONPATH": str(folder / "path")})
    assert answer.stdout == "mine\n"


def test_python_that_ignores_us_is_said(tmp_path: Path, halftime: Program) -> None:
    folder = project(tmp_path, "print(1)")
    answer = halftime("run", "--", sys.executable, "-I", "train.py", cwd=folder)
    assert answer.stdout == "1\n"
    assert "-I, -S or -E" in answer.stderr


def test_spawned_and_forked_workers_run(tmp_path: Path, halftime: Program) -> None:
    text = (
        "import multiprocessing as mp\n"
        "def square(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    for kind in ('fork', 'spawn'):\n"
        "        with mp.get_context(kind).Pool(2) as pool: print(pool.map(square, [1, 2, 3]))\n"
    )
    folder = project(tmp_path, text)
    assert halftime("run", "-q", "train.py", cwd=folder).stdout == "[1, 4, 9]\n" * 2


def test_halftime_of_another_environment_observes_the_script(
    tmp_path: Path, halftime: Program
) -> None:
    """The script's interpreter has no site-packages of ours: the agent needs none."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    folder = project(tmp_path, "import sys; print('numpy' in sys.modules, sys.prefix)")
    answer = halftime("run", "--python", str(bare / "bin" / "python"), "train.py", cwd=folder)
    assert answer.returncode == 0
    assert answer.stdout == f"False {bare}\n"


MESS = """
import os, pathlib, shutil
pathlib.Path("checkpoint.pt").write_text("new")
pathlib.Path("results/log.txt").write_text("changed")
shutil.rmtree("old")
os.chdir("results")
pathlib.Path("deep").mkdir()
print(sorted(os.listdir("..")))
"""


def test_trial_leaves_the_users_tree_as_it_was(tmp_path: Path) -> None:
    folder = project(tmp_path, MESS)
    project(tmp_path, "mine", "results/log.txt")
    project(tmp_path, "mine", "old/file.txt")
    (folder / "large.bin").write_bytes(b"x" * 2_000_000)
    before = snapshot((str(folder),), ())
    said = in_trial(folder, ["train.py"], tmp_path)
    assert said == "['checkpoint.pt', 'large.bin', 'results', 'train.py']\n"
    assert snapshot((str(folder),), ()) == before


def test_trial_in_a_copy_leaves_the_tree_too_and_finds_its_neighbours(tmp_path: Path) -> None:
    folder = project(tmp_path, MESS.replace("print(", "print(open('../large.bin').read(1),"))
    project(tmp_path, "mine", "results/log.txt")
    project(tmp_path, "mine", "old/file.txt")
    (folder / "large.bin").write_bytes(b"x" * 2_000_000)
    before = snapshot((str(folder),), ())
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.symlink_to(sys.executable)
    command = parse_command([str(folder / "train.py")], str(python))
    command = type(command)(**{**vars(command), "cwd": str(folder)})
    run_in_trial(
        command, Orders(run_folder=str(run_folder), in_trial=True),
        private_workspace(command, "copy", ()), Limits(wall_seconds=60, silence_seconds=60),
        os.devnull, lambda event: None,
    )  # fmt: skip
    assert (run_folder / "stdout.txt").read_text().startswith("x ["), (
        run_folder / "stderr.txt"
    ).read_text()
    assert snapshot((str(folder),), ()) == before
    assert not (run_folder / "job.json").exists(), "it holds the environment, and so keys"


def test_copy_of_a_project_holds_no_study_and_no_file_that_cannot_be_read(tmp_path: Path) -> None:
    folder = project(tmp_path, MESS)
    locked = folder / "locked.txt"
    locked.write_text("x")
    locked.chmod(0)
    run_folder = folder / "study" / "runs" / "0001"
    run_folder.mkdir(parents=True)
    command = parse_command([str(folder / "train.py")], sys.executable)
    command = type(command)(**{**vars(command), "cwd": str(folder)})
    workspace = private_workspace(command, "copy", ())
    job = workspace.job(command, run_folder, (), tmp_path / "compiled")
    here = Path(str(job["cwd"]))
    assert (here / "train.py").exists()
    assert (here / "locked.txt").is_symlink() or os.access(locked, os.R_OK)  # root reads all
    assert not (here / "study").exists()


def test_place_to_write_that_is_not_there_is_said(tmp_path: Path) -> None:
    folder = project(tmp_path, "")
    command = parse_command([str(folder / "train.py")], sys.executable)
    with pytest.raises(UserError, match="no such file or folder"):
        private_workspace(command, "overlay", (str(tmp_path / "gone"),))


def test_write_outside_the_project_is_denied_and_named(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    folder = project(tmp_path, f"open({str(outside / 'x')!r}, 'w')")
    in_trial(folder, ["train.py"], tmp_path)
    assert not (outside / "x").exists()
    assert "Permission denied" in (tmp_path / "run" / "stderr.txt").read_text()


FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("pids", "a").write(f"{os.getpid()}\\n")
        while True: time.sleep(1)
    os._exit(0)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(child.pid, os.getpid(), flush=True)
while True:
    pass
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_nothing_survives_the_limit(tmp_path: Path) -> None:
    folder = project(tmp_path, FAMILY)
    said = in_trial(folder, ["train.py"], tmp_path, wall=2)
    pids = [int(word) for word in said.split()]
    assert len(pids) == 2
    assert not [pid for pid in pids if alive(pid)]
    names = [path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [name for name in names if str(folder) in name]


def test_nothing_survives_when_we_are_killed(tmp_path: Path) -> None:
    folder = project(tmp_path, FAMILY.replace("while True:\n    pass", "time.sleep(1000)"))
    state = tmp_path / "state2"
    tuning = subprocess.Popen(
        [sys.executable, "-m", "halftime", "tune", "--study", str(tmp_path / "s"), "train.py"],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(state)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    pids = wait_for_pids(tmp_path / "s" / "runs")
    tuning.kill()
    tuning.wait()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if alive(pid)]


def wait_for_pids(runs: Path) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for path in runs.glob("*/stdout.txt"):
            words = path.read_text().split()
            if len(words) == 2:
                return [int(word) for word in words]
        time.sleep(0.05)
    pytest.fail("the script did not start")


def test_endless_output_is_capped_and_ends_no_run(tmp_path: Path) -> None:
    text = (
        "import sys\nline = b'\\xff\\xfe' + b'x' * 998 + b'\\n'\n"
        "for _ in range(60_000): sys.stdout.buffer.write(line)\nprint('the end')\n"
    )
    folder = project(tmp_path, text)
    with pytest.raises(UnicodeDecodeError):
        in_trial(folder, ["train.py"], tmp_path)
    log = (tmp_path / "run" / "stdout.txt").read_bytes()
    assert len(log) < 17_000_000
    assert log.endswith(b"the end\n")


def test_project_roots_are_the_repository_and_the_scripts_folder(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / ".git").mkdir(parents=True)
    (repository / "deep").mkdir()
    script = repository / "deep" / "train.py"
    script.write_text("")
    command = parse_command([str(script)], sys.executable)
    inside = type(command)(**{**vars(command), "cwd": str(repository / "deep")})
    assert project_roots(inside) == (str(repository),)


def test_torchrun_is_passed_through_and_ranks_are_told_apart(
    tmp_path: Path, halftime: Program
) -> None:
    folder = project(tmp_path, (SCRIPTS / "ranks.py").read_text())
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    # PyTorch 2.13 by itself aborts at the end of a gloo script on a loaded machine: it did in 3 of
    # 20 plain runs, and in none of 20 of ours.
    for _ in range(3):
        answer = halftime("run", "--", torchrun, "--nproc-per-node", "2", "train.py", cwd=folder)
        if "Signal 6 (SIGABRT)" not in answer.stderr:
            break
    assert answer.returncode == 0, answer.stderr
    # Two processes write to one stream: their lines may run into each other.
    assert sorted(re.findall(r"rank \d of 2", answer.stdout)) == ["rank 0 of 2", "rank 1 of 2"]
    assert "rank 0: after" in answer.stderr
    assert "rank 1: after" in answer.stderr


def test_what_is_mounted_in_the_project_is_read_and_never_written(tmp_path: Path) -> None:
    """A folder of another file system, and a file, as containers mount them."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("needs the right to mount")  # said by name: CI runs as root
    text = (
        "import pathlib\n"
        "print(pathlib.Path('data/rows').read_text(), pathlib.Path('settings').read_text())\n"
        "pathlib.Path('data/rows').write_text('spoilt')\n"
        "pathlib.Path('data/more').write_text('more')\n"
        "pathlib.Path('settings').write_text('spoilt')\n"
    )
    folder = project(tmp_path, text)
    project(tmp_path, "", "data/beneath")
    project(tmp_path, "", "settings")
    (tmp_path / "mounted").write_text("of the host")
    run = tmp_path / "run"
    run.mkdir()
    ask = (
        "import os, sys\n"
        "from halftime.measure.command import parse_command\n"
        "from halftime.measure.launch import Limits, Orders, run_in_trial\n"
        "from halftime.measure.workspace import private_workspace\n"
        f"os.chdir({str(folder)!r})\n"
        "command = parse_command(['train.py'], python=sys.executable)\n"
        "ended = run_in_trial(\n"
        f"    command, Orders(run_folder={str(run)!r}, in_trial=True),\n"
        "    private_workspace(command, 'overlay', ()),\n"
        "    Limits(wall_seconds=60, silence_seconds=60), '/dev/null', print)\n"
        "sys.exit(ended.setup_failure or ended.exit_code)\n"
    )
    script = tmp_path / "ask.py"
    script.write_text(ask)
    steps = (
        f"mount -t tmpfs tmpfs {folder}/data && echo -n kept > {folder}/data/rows",
        f"mount --bind {tmp_path}/mounted {folder}/settings",
        f"{sys.executable} {script}",
        f"cat {folder}/data/rows {folder}/settings && ls {folder}/data",
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", " && ".join(steps)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run / "stdout.txt").read_text() == "kept of the host\n"
    assert done.stdout.endswith("keptof the hostrows\n")
