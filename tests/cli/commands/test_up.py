"""`robin up`, its flags and its errors; what it does when it runs is in tests/journeys/test_up.py."""

import argparse
import asyncio
import re

import pytest
from tests.testing.asking import port_above_a_free_one

from robin.cli.commands import up


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    up.configure(parser)
    return parser.parse_args(words)


def test_the_defaults_are_what_the_tutorial_says():
    assert vars(parse()) == {"source": "file", "port": 4000, "rotate": 20.0}


def test_each_flag_is_taken():
    assert vars(parse("--source", "jwtsvid", "--port", "0", "--rotate", "1s")) == {"source": "jwtsvid", "port": 0, "rotate": 1.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--port", "65535"), "from 1 to 65534"),
        (("--port", "-1"), "from 1 to 65534"),
        (("--port", "http"), "from 1 to 65534"),
        (("--rotate", "20"), "no unit"),
        (("--rotate", "999ms"), "use 1s to 1h"),
        (("--rotate", "61m"), "use 1s to 1h"),
        (("--source", "vault"), "invalid choice"),
    ],
)
def test_a_bad_flag_is_refused_with_the_reason(words, said, capsys):
    with pytest.raises(SystemExit) as left:
        parse(*words)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("which", ["port", "admin port"])
def test_a_taken_port_is_named_with_the_way_out(which, capsys):
    with port_above_a_free_one() as taken:
        port = taken.getsockname()[1]
        asked = port if which == "port" else port - 1
        assert up.run(parse("--port", str(asked))) == up.EXIT_BIND
    said = capsys.readouterr()
    assert said.out.startswith("robin up: starting")
    assert f"port {port} on 127.0.0.1 is not free (Address already in use)" in said.err
    other = re.search(r": robin up --port (\d+) ", said.err)[1]
    assert said.err.endswith(f": robin up --port {other} (the admin port is the next one), or make up ARGS='--port {other}'\n")


def test_it_leaves_no_event_loop_behind():
    with port_above_a_free_one() as taken:
        up.run(parse("--port", str(taken.getsockname()[1])))
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
