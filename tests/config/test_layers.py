"""An error is one line: `robin: KEY (from LAYER): what; fix`, whatever the key looks like."""

from robin.config.layers import Layer, SettingError


def test_an_error_is_one_line_with_key_layer_what_and_fix() -> None:
    error = SettingError(key="ROBIN_X", layer=Layer.ENV, what="is wrong", fix="mend it")
    assert str(error) == "robin: ROBIN_X (from env): is wrong; mend it"


def test_what_is_missing_is_said_plainly_and_has_no_layer() -> None:
    error = SettingError.missing("ROBIN_X", "is required", "set it to a word")
    assert str(error) == "robin: ROBIN_X is required: set it to a word"
    assert error.layer is Layer.DEFAULT


def test_a_key_with_control_characters_cannot_forge_a_line() -> None:
    error = SettingError(key="ROBIN_X\nrobin: all is well\x1b[31m", layer=Layer.ENV, what="unknown setting", fix="remove it")
    assert str(error) == "robin: 'ROBIN_X\\nrobin: all is well\\x1b[31m' (from env): unknown setting; remove it"


def test_a_long_key_is_cut() -> None:
    error = SettingError(key="ROBIN_" + "A" * 5000, layer=Layer.FILE, what="unknown setting", fix="remove it")
    assert len(str(error)) < 200
