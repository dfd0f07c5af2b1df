"""Entropy: of the asked size, never the same, and uniform draws in their range."""

from robin.transport.entropy import SystemEntropy


def test_a_token_has_two_digits_a_byte_and_does_not_repeat():
    entropy = SystemEntropy()
    tokens = {entropy.token_hex(8) for _ in range(100)}
    assert len(tokens) == 100
    assert {len(token) for token in tokens} == {16}
    assert set("".join(tokens)) <= set("0123456789abcdef")


def test_a_uniform_draw_lies_in_the_half_open_unit_range_and_spreads():
    entropy = SystemEntropy()
    draws = [entropy.uniform() for _ in range(1000)]
    assert all(0.0 <= draw < 1.0 for draw in draws)
    assert {int(draw * 4) for draw in draws} == {0, 1, 2, 3}
