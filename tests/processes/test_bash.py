"""Commands of the shell: what they say, how they end, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, get_current_context, task
from liteflow.errors import InvalidOptionError, TaskKilled
from liteflow.operators import BashOperator, bash
from tests.conftest import descendants, lines_of, states_of, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@task
def one() -> int:
    return 1


@task
def give(value: Any) -> Any:
    return value


@task.bash
def sh(command: str) -> str:
    return command


def living(pattern: str) -> bool:
    """Whether a process has exactly this command line."""
    found = subprocess.run(["pgrep", "-xf", pattern], capture_output=True, check=False)
    return found.returncode == 0


# How it ends

FAILED = "liteflow.operators.bash.CommandFailed"


def test_the_exit_code_decides(db: str) -> None:
    with Dag("codes", db_path=db) as dag:
        sh.override(task_id="good")("exit 0")
        sh.override(task_id="skipped")("echo so far; exit 99") >> one()
        sh.override(task_id="bad")("echo oh no >&2; exit 7")
        sh.override(task_id="killed")("kill -KILL $$")
        sh.override(task_id="unknown")("no_such_command_at_all")
        sh.override(task_id="own_code", skip_on_exit_code=[3, 4])("exit 4")
        sh.override(task_id="no_code", skip_on_exit_code=[])("exit 99")
    run = dag.run(progress=False, max_workers=2)
    assert states_of(run) == {
        "good": "success",
        "skipped": "skipped",
        "one": "skipped",
        "bad": "failed",
        "killed": "failed",
        "unknown": "failed",
        "own_code": "skipped",
        "no_code": "failed",
    }
    assert run.task_instance("bad").error == f"{FAILED}: the command ended with exit code 7"
    assert run.task_instance("killed").error == f"{FAILED}: the command was killed by a signal (SIGKILL)"
    assert "99" in str(run.task_instance("skipped").error)
    assert "oh no" in lines_of(run, "bad"), "standard error is in the log"
    assert any("no_such_command_at_all" in line for line in lines_of(run, "unknown"))


@task.bash(retries=1)
def fail_first() -> str:
    return f"echo try {get_current_context()['try_number']}; exit {2 - get_current_context()['try_number']}"


def test_a_failed_command_uses_a_retry(db: str) -> None:
    with Dag("again", db_path=db) as dag:
        fail_first()
    run = dag.run(progress=False, max_workers=1)
    assert (run.state, run.xcom("fail_first")) == ("success", "try 2")
    assert [one.error for one in run.tries()] == [f"{FAILED}: the command ended with exit code 1"]


def test_what_is_no_command_fails_the_task(db: str) -> None:
    with Dag("none", db_path=db) as dag:
        for command in (None, "", "  \n", 5, ["ls"]):
            sh(command)
    run = dag.run(progress=False, max_workers=1)
    assert all("runs the text of a command" in str(instance.error) for instance in run.task_instances())


# What it says

LAST_LINES = [
    ("true", ""),
    ("echo a; echo b", "b"),
    ("printf 'a\\nno newline'", "no newline"),
    ("echo a; echo", ""),
    ("echo a; echo ' spaces  '", " spaces  "),
    ("printf 'a\\r\\nb\\r\\n'", "b"),
    ("printf 'a\\xff\\xfe\\x00b\\n'", "a\\xff\\xfe\x00b"),
    ("echo 'größe ✓'", "größe ✓"),
    ("echo out; echo err >&2", "err"),
    ("printf 'in two '; printf 'pieces'", "in two pieces"),
]


def test_the_last_line_is_the_result(db: str) -> None:
    with Dag("lines", db_path=db) as dag:
        for number, (command, _) in enumerate(LAST_LINES):
            give.override(task_id=f"got{number}")(sh.override(task_id=f"sh{number}")(command))
        sh.override(task_id="silent", do_xcom_push=False)("echo x")
        sh.override(task_id="made", output_processor=lambda line: [int(word) for word in line.split()])("echo 1 2 3")
        sh.override(task_id="unmade", output_processor=int)("echo none")
    run = dag.run(progress=False, max_workers=2)
    assert [run.xcom(f"got{number}") for number in range(len(LAST_LINES))] == [line for _, line in LAST_LINES]
    assert run.xcom("made") == [1, 2, 3]
    assert "silent" not in {xcom.task_id for xcom in run.xcoms()}
    assert "ValueError: invalid literal for int()" in str(run.task_instance("unmade").error)


def test_lines_are_in_the_log_while_the_command_runs(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("live", db_path=db) as dag:
        sh(f"echo first; echo second >&2; while [ ! -e {go} ]; do sleep 0.02; done; echo third")
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        wait_until(lambda: lines_of(handle.run) == ["first", "second"], "both lines are recorded")
        assert states_of(handle.run) == {"sh": "running"}
        go.touch()
        assert lines_of(handle.wait(timeout=60)) == ["first", "second", "third"]


HUGE = 30 * 2**20


def test_huge_output_is_read_to_its_end_and_kept_up_to_the_cap(db: str) -> None:
    """Many lines, and one line without an end: neither takes time that grows with its square."""
    with Dag("huge", db_path=db) as dag:
        lines = sh.override(task_id="lines", log_cap_bytes=100_000)("seq 1 3000000")
        flat = sh.override(task_id="flat", log_cap_bytes=100_000, do_xcom_push=False)(
            f"head -c {HUGE} /dev/zero | tr '\\0' x; echo; echo the end"
        )
        [lines, flat] >> sh.override(task_id="last")("echo over")
    run = dag.run(progress=False, max_workers=2)
    assert run.state == "success"
    assert run.xcom("lines") == "3000000"
    assert all("more characters were cut" in lines_of(run, task_id)[-1] for task_id in ("lines", "flat"))


def test_a_last_line_of_many_megabytes_is_the_result(db: str) -> None:
    with Dag("long", db_path=db) as dag:
        sh.override(log_cap_bytes=1000)(f"head -c {HUGE} /dev/zero | tr '\\0' y")
    run = dag.run(progress=False, max_workers=1)
    assert run.xcom("sh") == "y" * HUGE


# Its surroundings


def test_environment_and_directory(db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AROUND", "host")
    show = "echo $OWN,$AROUND"
    with Dag("env", db_path=db) as dag:
        sh.override(task_id="plain")(show)
        sh.override(task_id="only", env={"OWN": "mine"})(show)
        sh.override(task_id="added", env={"OWN": "mine"}, append_env=True)(show)
        sh.override(task_id="over", env={"AROUND": "mine"}, append_env=True)(show)
        sh.override(task_id="empty", env={})(show)
        sh.override(task_id="here", cwd=str(tmp_path))("pwd")
        sh.override(task_id="path", cwd=tmp_path)("pwd")
        sh.override(task_id="nowhere", cwd=str(tmp_path / "nowhere"))("pwd")
        sh.override(task_id="facts")("echo $AIRFLOW_CTX_DAG_ID $AIRFLOW_CTX_TASK_ID $AIRFLOW_CTX_TRY_NUMBER")
        sh.override(task_id="input")("cat; echo read")
    run = dag.run(progress=False, max_workers=2)
    found = {task_id: run.xcom(task_id) for task_id in dag.task_ids if task_id != "nowhere"}
    assert found == {
        "plain": ",host",
        "only": "mine,",
        "added": "mine,host",
        "over": ",mine",
        "empty": ",",
        "here": str(tmp_path),
        "path": str(tmp_path),
        "facts": "env facts 1",
        "input": "read",
    }
    assert run.task_instance("nowhere").error == (
        f"FileNotFoundError: cwd {str(tmp_path / 'nowhere')!r} of the command is no directory"
    )


@pytest.mark.parametrize("options", [{"env": ["A=1"]}, {"cwd": 5}, {"skip_on_exit_code": "99"}], ids=str)
def test_senseless_options_are_refused_where_they_are_written(options: dict[str, Any]) -> None:
    with Dag("senseless"), pytest.raises(InvalidOptionError, match=r"test_bash\.py:\d+: "):
        sh.override(**options)("true")


# What it starts


def test_what_a_command_leaves_in_the_background_does_not_hold_it_up(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("background", db_path=db) as dag:
        sh.override(task_id="silent")(f"(while [ ! -e {go} ]; do sleep 0.02; done) & echo over")
        sh.override(task_id="talks")(f"(while [ ! -e {go} ]; do echo noise; done) & echo over")
    with ExecutorService(db, max_workers=2) as service:
        run = service.submit(dag).wait(timeout=30)
        go.touch()
    assert states_of(run) == {"silent": "success", "talks": "success"}
    assert run.xcom("silent") == "over"
    assert "over" in lines_of(run, "talks")


def family() -> str:
    """A command that starts what `member` names. Other tests, in other processes, look for others."""
    one, two, three, four = map(member, range(1, 5))
    return f"{one} & (setsid {two} &) ; nohup {three} >&- 2>&- & bash -c '{four}; true'"


def member(number: int) -> str:
    """The command line of one of the family: none that ran at the same time has its like."""
    return f"sleep 7{number}.{os.getpid():07}"


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "], ids=["plain", "ignores SIGTERM"])
@pytest.mark.skipif(sys.platform != "linux", reason="what leaves the session is found on Linux only")
def test_a_timeout_ends_the_command_and_all_that_it_started(db: str, trap: str) -> None:
    with Dag("timeout", db_path=db) as dag:
        sh.override(timeout=0.5, kill_grace_s=0.3)(f"echo begun; {trap}{family()}")
        one()
    before = descendants()
    run = dag.run(progress=False, max_workers=2)
    assert states_of(run) == {"sh": "failed", "one": "success"}
    assert run.task_instance("sh").error == "TaskKilled: took longer than its timeout of 0.5 s"
    assert "begun" in lines_of(run, "sh")
    assert not descendants() - before
    assert not any(living(member(number)) for number in range(1, 5))


@pytest.mark.parametrize("operator", [False, True], ids=["decorated", "operator"])
def test_cancel_ends_the_command_and_all_that_it_started(db: str, operator: bool) -> None:
    command = f"echo begun; {family()}"
    with Dag("cancel", db_path=db) as dag:
        if operator:
            BashOperator(task_id="sh", bash_command=command, kill_grace_s=0.3)
        else:
            sh.override(kill_grace_s=0.3)(command)
    with ExecutorService(db, max_workers=2) as service:
        handle = service.submit(dag)
        wait_until(lambda: living(member(4)) and living(member(2)), "all of it runs")
        wait_until(lambda: "begun" in lines_of(handle.run), "what it wrote is passed on")
        handle.cancel()
        run = handle.wait(timeout=30)
        assert not any(living(member(number)) for number in range(1, 5)), "gone when the run is over"
    assert (run.state, run.end_reason) == ("failed", "cancelled")
    assert "begun" in lines_of(run)


def test_what_a_killed_command_had_written_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def be_killed(process: subprocess.Popen[bytes], _encoding: str) -> str:
        process.wait()
        raise TaskKilled("before it was read")

    monkeypatch.setattr(bash, "_pass_on", be_killed)
    process = subprocess.Popen(["sh", "-c", "echo begun; kill -9 $$"], stdout=subprocess.PIPE)
    with pytest.raises(TaskKilled):
        bash._followed(process, "utf-8")
    assert capfd.readouterr().out == "begun\n"


def test_what_a_failed_command_left_is_gone_before_the_next_try(db: str) -> None:
    with Dag("left", db_path=db) as dag:
        sh.override(retries=1)("pgrep -xf 'sleep 75' && exit 99; setsid sleep 75 & exit 1")
    run = dag.run(progress=False, max_workers=1)
    assert (states_of(run), len(run.tries())) == ({"sh": "failed"}, 1), "99 would say that the child was found"


# Templates


def test_the_command_is_a_template_and_so_are_environment_and_directory(db: str, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with Dag("templates", db_path=db, params={"word": "p"}) as dag:
        sh.override(env={"A": "{{ params.word }}{{ 1 + 1 }}"}, cwd=str(tmp_path / "{{ params.word }}"))(
            "echo {{ run_id }} $A $(basename $PWD)"
        )
        BashOperator(
            task_id="operator",
            bash_command="echo {{ params.word }} $A {{ ti.xcom_pull(task_ids='sh') }}",
            env={"A": "{{ ds }}"},
        ) << dag.get_task("sh")
    run = dag.run(run_id="r1", progress=False, max_workers=1)
    assert run.xcom("sh") == "r1 p2 p"
    assert run.xcom("operator") == f"p {run.logical_date:%Y-%m-%d} r1 p2 p"


@task
def make_template() -> str:
    return "echo '{{ ds }}'"


def test_a_value_of_another_task_is_not_rendered_in_an_operator(db: str) -> None:
    with Dag("value", db_path=db) as dag:
        BashOperator(task_id="echo", bash_command=make_template())
    run = dag.run(progress=False, max_workers=1)
    assert run.xcom("echo") == "{{ ds }}"


def test_an_operator_can_be_mapped(db: str) -> None:
    with Dag("mapped", db_path=db) as dag:
        BashOperator.partial(task_id="echo", env={"B": "b"}).expand(bash_command=["echo 1$B", "exit 99", "echo 3$B"])
    run = dag.run(progress=False, max_workers=2)
    assert [str(instance.state) for instance in run.task_instances()] == ["success", "skipped", "success"]
    assert [run.xcom("echo", map_index=index) for index in (0, 2)] == ["1b", "3b"]


@task.bash(env={"SEEN": "{{ ds }}"}, append_env=True)
def tell_environment() -> str:
    return 'echo "$SEEN"'


def test_the_environment_may_hold_a_value_of_another_task(db: str) -> None:
    with Dag("environment", db_path=db) as dag:
        before = tell_environment()
        tell_environment.override(task_id="after", env={"SEEN": before})()
    run = dag.run(progress=False, logical_date=datetime(2026, 2, 3, tzinfo=UTC), max_workers=2)
    assert states_of(run) == {"tell_environment": "success", "after": "success"}
    assert run.xcom("after") == "2026-02-03"
