"""The installed command as a process: streams, the live line, Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.cli.shell import COMMAND, Ended

import bilevel as bl

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals and SIGINT")


@posix
class Terminal:
    """A running command whose stderr is a terminal."""

    def __init__(self, *arguments):
        import pty

        self.terminal, side = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=side,
            text=True,
            env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
        )
        os.close(side)

    def read_until(self, text, seconds=250.0):
        """Read what is shown until some text appears."""
        ends = time.monotonic() + seconds
        while text not in self.shown and time.monotonic() < ends:
            self.shown += os.read(self.terminal, 4096).decode()
        assert text in self.shown

    def interrupt(self):
        """Press Ctrl-C and return how the command ended."""
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=250)
        os.close(self.terminal)
        assert "Traceback" not in out + self.shown
        return Ended(self.process.returncode, out, self.shown)


def test_version_and_help(process):
    assert process("--version") == Ended(0, f"bilevel {bl.__version__}\n", "")
    assert "Exit codes" in process("--help").out


def test_stdout_is_one_json_object_whatever_vendors_write(process, write):
    text = "import os, bilevel as bl\np = bl.instances.get('T1').problem\nos.write(1, b'noise')\n"
    done = process("solve", f"{write('noisy.py', text)}:p", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["status"] == "OPTIMAL"


def test_nothing_is_shown_where_stderr_is_no_terminal(process):
    done = process("solve", "T16")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("status             OPTIMAL")


def test_a_reader_that_stops_reading_is_no_error():
    command = subprocess.Popen(
        [*COMMAND, "methods"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    command.stdout.close()
    assert "Traceback" not in command.stderr.read()
    command.stderr.close()
    command.wait(250)


@posix
def test_ctrl_c_returns_the_best_point(hard):
    running = Terminal("solve", f"{hard}:problem", "--method", "kkt-sos1")
    running.read_until("nodes")  # the live line: seconds, incumbent, bound, gap, nodes
    for part in (" s ", "incumbent ", "bound ", "gap "):
        assert part in running.shown
    done = running.interrupt()
    assert done.code == 0
    assert done.out.startswith("status             FEASIBLE")
    assert "certificate        accepted" in done.out
    assert "CTRL-C" not in done.out  # SCIP says so on stdout


@posix
def test_ctrl_c_without_a_point_has_exit_code_130(hard):
    running = Terminal("solve", f"{hard}:without_point", "--method", "kkt-sos1")
    running.read_until("nodes")
    done = running.interrupt()
    assert done.code == 130
    assert done.out.startswith("status             NOT_FOUND")


@posix
def test_ctrl_c_while_a_file_is_loaded(write):
    file = write("slow.py", "import sys, time\nprint('here', file=sys.stderr)\ntime.sleep(60)\n")
    running = Terminal("solve", f"{file}:problem")
    running.read_until("here")
    done = running.interrupt()
    assert (done.code, done.out) == (130, "")


@posix
@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_no_live_line_where_it_is_not_wanted(option):
    running = Terminal("solve", "T16", option)
    running.process.wait(250)
    os.close(running.terminal)
    running.process.stdout.close()
    assert running.process.returncode == 0
    assert running.shown == ""
