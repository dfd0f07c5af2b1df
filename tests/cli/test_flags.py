"""Flags are made from the table: one for each setting, and what they carry is text for its parser."""

import argparse

import pytest

from robin.cli.flags import add_settings, given, load_or_exit, refuse, seconds
from robin.config.layers import Layer, SettingError
from robin.config.table import SETTINGS


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(allow_abbrev=False)
    add_settings(made)
    return made


def test_every_setting_has_its_flag_and_no_other_exists() -> None:
    flags = {option for action in parser()._actions for option in action.option_strings} - {"-h", "--help"}
    negated = {f"--no-{setting.flag[2:]}" for setting in SETTINGS.values() if setting.kind.name == "boolean"}
    assert flags == {setting.flag for setting in SETTINGS.values()} | negated


def test_only_what_was_given_is_given() -> None:
    assert given(parser().parse_args([])) == {}
    words = ["--audience", "a,b", "--admin-quit", "--no-unsafe-listen", "--svid-hint", ""]
    assert given(parser().parse_args(words)) == {
        "ROBIN_AUDIENCE": "a,b",
        "ROBIN_ADMIN_QUIT": "true",
        "ROBIN_UNSAFE_LISTEN": "false",
        "ROBIN_SVID_HINT": "",
    }


def test_the_help_of_each_flag_has_its_default() -> None:
    text = " ".join(parser().format_help().split())
    for setting in SETTINGS.values():
        assert f"{setting.flag} " in text
        assert f"[{setting.default_text}]" in text.replace("- ", "-"), setting.key


def test_settings_that_are_not_shown_are_taken_all_the_same() -> None:
    made = argparse.ArgumentParser(allow_abbrev=False)
    add_settings(made, shown=("ROBIN_AUDIENCE",))
    text = made.format_help()
    assert [flag for flag in (setting.flag for setting in SETTINGS.values()) if flag in text] == ["--audience"]
    assert "Identity:" in text
    assert "Listeners:" not in text
    assert given(made.parse_args(["--drain-max", "5s", "--no-admin-quit"])) == {"ROBIN_DRAIN_MAX": "5s", "ROBIN_ADMIN_QUIT": "false"}


def test_a_choice_names_its_values() -> None:
    text = parser().format_help()
    assert "--token-source {file,jwtsvid}" in text
    assert "--log-level {debug,info,warning,error}" in text
    assert "CHOICE" not in text


def test_a_flag_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBIN_UPSTREAM_URL", "https://broker.example")
    monkeypatch.setenv("ROBIN_ADMIN_QUIT", "true")
    assert load_or_exit(parser().parse_args(["--no-admin-quit"])).settings.listeners.admin_quit is False


def test_refusing_prints_each_error_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    errors = [SettingError(key=key, layer=Layer.ENV, what="wrong", fix="mend") for key in ("ROBIN_A", "ROBIN_B")]
    with pytest.raises(SystemExit) as caught:
        refuse(errors)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "robin: ROBIN_A (from env): wrong; mend\nrobin: ROBIN_B (from env): wrong; mend\n"


def test_other_durations_speak_the_settings_grammar() -> None:
    assert seconds("1m30s") == 90.0
    with pytest.raises(argparse.ArgumentTypeError, match="has no unit"):
        seconds("30")
    with pytest.raises(argparse.ArgumentTypeError, match="above 168h"):
        seconds("169h")
