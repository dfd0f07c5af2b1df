"""`robin up`, its flags and its errors; what it does when it runs is in tests/journeys/test_up.py."""

import argparse
import asyncio
import re

import pytest
from tests.testing.asking import port_above_a_free_one

from robin.cli.commands import up
from robin.testing.demos.catalog import DEMOS


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    up.configure(parser)
    return parser.parse_args(words)


def test_the_defaults_are_what_the_tutorial_says():
    alone = {"demo": None, "json": False, "keep": False, "port_base": None}
    assert vars(parse()) == {"source": "file", "port": 4000, "rotate": 20.0, **alone}


def test_each_flag_is_taken():
    given = parse("--source", "jwtsvid", "--port", "0", "--rotate", "1s")
    assert (given.source, given.port, given.rotate) == ("jwtsvid", 0, 1.0)


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
        (("--demo", "vault"), "invalid choice"),
        (("--demo", "grants", "--port-base", "0"), "from 1 to 65531"),
        (("--demo", "grants", "--port-base", "65532"), "from 1 to 65531"),
    ],
)
def test_a_bad_flag_is_refused_with_the_reason(words, said, capsys):
    with pytest.raises(SystemExit) as left:
        parse(*words)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--port", "0"), ("--source", "jwtsvid"), ("--rotate", "1s")])
def test_flags_of_the_main_job_are_refused_beside_a_demonstration(words, capsys):
    assert up.run(parse("--demo", "gateway", *words)) == up.EXIT_USAGE
    assert capsys.readouterr().err.startswith(f"robin up: {words[0]}: not for --demo; ")


@pytest.mark.parametrize("at", [0, 1])
def test_the_gateway_demonstration_takes_the_ports_from_the_first_one(at, capsys):
    with port_above_a_free_one() as taken:
        port = taken.getsockname()[1]
        assert up.run(parse("--demo", "gateway", "--port-base", str(port - at))) == up.EXIT_USAGE
    assert f"port {port} on 127.0.0.1 is not free" in capsys.readouterr().err


def test_each_demonstration_has_a_line_of_the_help():
    parser = argparse.ArgumentParser()
    up.configure(parser)
    assert all(f"\n  {name}: " in parser.format_help() for name in DEMOS)


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
