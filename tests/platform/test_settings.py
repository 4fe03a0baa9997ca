"""Settings that nothing knows are refused when they are read, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus import config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kafka: {security_protocol: sasl_ssl}", r"kafka\.security_protocol: expected one of .*SASL_SSL.*got 'sasl_ssl'"),
        ("kafka: {sasl_mechanism: GSSAPI}", r"kafka\.sasl_mechanism: expected one of SCRAM-SHA-512, .*got 'GSSAPI'"),
        ("kafka: {security_protocol: [SASL_SSL]}", r"kafka\.security_protocol: expected one of"),
        ("kafka: {lanse: 4}", r"'kafka\.lanse': did you mean 'lanes'"),
        ("kafka: {lanes: many}", r"kafka\.lanes: expected int, got 'many'"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_do(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / config.SETTINGS_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(config.ConfigError, match=words):
        config.load(tmp_path, env={})


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL", "SSL", "PLAINTEXT"])
def test_what_every_client_knows_is_taken(protocol: str, tmp_path: Path) -> None:
    (tmp_path / config.SETTINGS_FILE).write_text(f"kafka: {{security_protocol: {protocol}}}", encoding="utf-8")
    assert config.load(tmp_path, env={}).kafka.security_protocol == protocol
