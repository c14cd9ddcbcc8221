"""What the README says is so: its programs run, its commands exist, its two commands are what it promises."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from liteflow.cli import _COMMANDS
from liteflow.storage.history import open_history
from tests.conftest import ROOT, liteflow, run_python

README = (ROOT / "README.md").read_text()


def programs() -> list[str]:
    """The Python blocks, in order."""
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_program(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(programs()[0])
    done = run_python("first.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "success 6\n"), done.stderr


def test_the_program_that_shows_how_a_dag_flows(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(programs()[1])
    done = run_python("flow.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "success 100 [50, 50]\n"), done.stderr
    assert "Warning" not in done.stderr


def test_the_program_with_a_service(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(programs()[2])
    done = run_python("service.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == [f"success {n * n}" for n in range(5)]
    assert len(lines) == 8
    assert all("squaring" in line for line in lines[5:])


def test_the_program_beside_an_event_loop(tmp_path: Path) -> None:
    (tmp_path / "pictures.py").write_text(programs()[3])
    done = run_python("pictures.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *told, last = done.stdout.splitlines()
    assert (first, last) == ("success cat.png, 640 wide", "dog.png, 640 wide")
    assert told[-2:] == ["resize success", "run success"]


def test_the_tests_of_a_dag(tmp_path: Path) -> None:
    (tmp_path / "test_orders.py").write_text(programs()[4])
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_there_are_five_programs() -> None:
    assert len(programs()) == 5, "a new program in the README needs a test of its own here"


def test_every_command_is_in_the_table() -> None:
    named = set(re.findall(r"`liteflow (\w+)", README))
    assert named >= set(_COMMANDS)
    assert named <= set(_COMMANDS), "the README names a command that there is not"


def test_each_of_the_two_commands_is_one_line() -> None:
    for marker in ("main job", "test command"):
        block = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)\n```\n<!-- end -->", README, re.DOTALL)
        assert block is not None
        assert "\n" not in block.group(1)


def test_the_scaffold_is_drawn_as_the_readme_shows(tmp_path: Path) -> None:
    (tmp_path / "my_workflow.py").write_text(liteflow("scaffold", cwd=tmp_path).stdout)
    assert liteflow("run", "my_workflow.py", "-q", cwd=tmp_path).returncode == 0
    drawn = liteflow("visualize", "my_workflow", cwd=tmp_path).stdout
    shown = re.findall(r"```mermaid\n(flowchart.*?)```", README, re.DOTALL)[0]

    def without_times(text: str) -> list[str]:
        return [re.sub(r"\d+\.\d\d s", "N s", line) for line in text.splitlines() if not line.startswith("%%")]

    assert without_times(drawn) == without_times(shown)


def test_the_nightly_lines_run(tmp_path: Path) -> None:
    """As they stand, but for the directory and for liteflow, which is this one here."""
    (tmp_path / "etl.py").write_text(liteflow("scaffold", "--dag-id", "etl", cwd=tmp_path).stdout)
    block = re.search(r"<!-- cron -->\n```\n(.*?)\n```\n<!-- end -->", README, re.DOTALL)
    unit = re.search(r"<!-- systemd -->\n```ini\n(.*?)```\n<!-- end -->", README, re.DOTALL)
    assert block is not None
    assert unit is not None
    fields = block.group(1).split(maxsplit=5)
    assert fields[:5] == ["30", "2", "*", "*", "*"]
    cron = fields[5].replace("\\%", "%")  # as cron does it
    assert "%" not in fields[5].replace("\\%", "")
    directory = re.findall(r"^WorkingDirectory=(.*)$", unit.group(1), re.MULTILINE)
    systemd = re.findall(r"^ExecStart=(.*)$", unit.group(1), re.MULTILINE)
    assert directory == ["/srv/etl"]
    for line in (cron, cron, *systemd):
        here = line.replace("/srv/etl/.venv/bin/liteflow", ".venv/bin/liteflow").replace("/srv/etl", str(tmp_path))
        assert here.count(".venv/bin/liteflow") == 1
        here = here.replace(".venv/bin/liteflow", f"{shlex.quote(sys.executable)} -m liteflow")
        done = subprocess.run(
            ["/bin/sh", "-c", here], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=False
        )
        assert done.returncode == 0
    runs = [run.run_id for run in open_history(str(tmp_path / "liteflow.db")).runs()]
    assert len(runs) == 2, "the second one on the same day did nothing"
    assert re.fullmatch(r"nightly-\d{4}-\d\d-\d\d", runs[1])
    assert (tmp_path / "etl.log").read_text() == f"etl/{runs[1]} success\n" * 2
