"""Both commands: what they leave when they are refused, a reader that goes away, and Hydra's command line on Python
3.14, whose argparse renders each help as it is added (played on older Pythons).
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import pytest
from conftest import REPO
from hydra._internal import utils as hydra_utils

from gaze.cli import LateHelpParser, escape_output, mend_help, outlive_readers

# ---- refused


def test_a_refused_command_leaves_no_folder(tmp_path):
    (tmp_path / "outputs").mkdir()  # the user's own stays
    line = [sys.executable, str(REPO / "analyze.py"), "check=a", "explain=b"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("\nerror: explain=b asks another question"), done.stderr
    assert list(tmp_path.rglob("*")) == [tmp_path / "outputs"]


# ---- Ctrl-C


INTERRUPT = """
import os, signal, sys, time

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a command started in the background lacks

class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["PRESSED_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # the signal is there

sys.meta_path.insert(0, Pressed())
"""


@pytest.mark.parametrize(
    ("script", "module"),
    [
        ("train", "hydra"),
        ("analyze", "pandas"),
        pytest.param("train", "pydantic", marks=pytest.mark.slow),
        pytest.param("train", "lightning", marks=pytest.mark.slow),
        pytest.param("analyze", "hydra", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_while_modules_are_loaded_ends_with_one_line(script, module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [sys.executable, str(REPO / f"{script}.py")], cwd=tmp_path / "here", capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path, "PRESSED_AT": module},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "\nInterrupted.\n")
    assert list((tmp_path / "here").iterdir()) == []


# ---- a reader that goes away


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_written_after_the_reader_has_gone_is_lost_and_no_error(unbuffered):
    code = (
        "import os, sys, gaze.cli as c; c.outlive_readers(); print('first', flush=True); sys.stdin.readline()\n"
        "for line in range(3000): print('more', line); print('error', line, file=sys.stderr)\n"
        "open(sys.argv[1], 'w').write(f'{sys.stdout.encoding} {sys.stdout.isatty()}')"
    )
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-c", code, f"{folder}/end"]
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": "utf-8"}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(line, cwd=REPO, env=environment, **pipes) as process:
            assert process.stdout.readline().strip() == b"first"
            process.stdout.close()
            process.stderr.close()
            process.stdin.write(b"go on\n")
            process.stdin.close()
            assert process.wait(60) == 0
        assert Path(f"{folder}/end").read_text() == "utf-8 False"


@pytest.mark.parametrize("script", ["train", "analyze"])
def test_help_into_a_closed_pipe_is_no_error(script, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, str(REPO / f"{script}.py"), "--help"]
    done = subprocess.run(line, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stream_that_stands_for_standard_output_stays(capsys):
    before = sys.stdout
    outlive_readers()
    assert sys.stdout is before


# ---- Python 3.14


# As Python 3.14's argparse has it. Its own check stands in front of this one there.
CHECK = """
import argparse

def add_argument(self, *names, add=argparse.ArgumentParser.add_argument, **settings):
    action = add(self, *names, **settings)
    try:
        action.help and "%" in action.help and action.help % vars(action)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError("badly formed help string") from error
    return action

argparse.ArgumentParser.add_argument = add_argument
"""


@pytest.fixture
def checked(monkeypatch):
    """argparse checks helps, and Hydra is as it was installed; both as before when the test is over."""
    monkeypatch.setattr(hydra_utils, "argparse", argparse)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", argparse.ArgumentParser.add_argument)
    exec(CHECK)


@pytest.fixture
def refused(checked):
    """The same, where the installed Hydra is one that falls over it."""
    try:
        hydra_utils.get_args_parser()
    except ValueError:
        return
    pytest.skip("this Hydra is mended: once it is the oldest one allowed, mend_help and these tests can go")


def test_the_command_line_is_read_where_helps_are_checked(refused):
    with pytest.raises(ValueError, match="badly formed help string"):
        hydra_utils.get_args_parser()
    mend_help()
    main = import_module("hydra.main")  # the module: the package has a function of this name
    args = main.get_args_parser().parse_args(["-m", "lambda=0,50", "--shell-completion"])
    assert args.multirun and args.shell_completion and args.overrides == ["lambda=0,50"]


def test_the_help_is_made_when_it_is_shown(refused, monkeypatch):
    shown = []
    monkeypatch.setattr(hydra_utils, "_get_completion_help", lambda: shown.append(1) or "the help")
    mend_help()
    parser = hydra_utils.get_args_parser()
    assert shown == []
    (text,) = [str(action.help) for action in parser._actions if "--shell-completion" in action.option_strings]
    assert text == "Install or Uninstall shell completion:\nthe help" and shown == [1]


def test_argparse_itself_stays_strict(refused):
    mend_help()
    mend_help()  # twice is once
    for parser in (argparse.ArgumentParser(), LateHelpParser()):
        with pytest.raises(ValueError, match="badly formed help string"):
            parser.add_argument("--half", help="50 %z")
    with pytest.raises(ValueError, match="badly formed help string"):
        argparse.ArgumentParser().add_argument("--object", help=object())


def test_other_arguments_are_added_as_ever():
    parser, plain = LateHelpParser(), argparse.ArgumentParser()
    for each in (parser, plain):
        each.add_argument("--count", "-c", type=int, help="a number, %(default)s", default=3)
        each.add_argument("--hidden", help=argparse.SUPPRESS)
        each.add_argument("--silent")
    assert parser.format_help() == plain.format_help()


def test_nothing_is_mended_where_the_parser_can_be_made(monkeypatch):
    monkeypatch.setattr(hydra_utils, "argparse", argparse)
    monkeypatch.setattr(hydra_utils, "get_args_parser", argparse.ArgumentParser)
    mend_help()
    assert hydra_utils.argparse is argparse


@pytest.mark.parametrize("script", ["train", "analyze"])
def test_both_commands_answer_where_helps_are_checked(script, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(CHECK, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(REPO / f"{script}.py"), "--help"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout, done.stderr


def test_what_the_terminal_has_no_code_for_is_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "cp1252", newline=""))
    with pytest.raises(UnicodeEncodeError):
        print("\u65e5.png", flush=True)
    escape_output()
    print("\u65e5.png", flush=True)
    assert written.getvalue() == rb"\u65e5.png" + b"\n"
