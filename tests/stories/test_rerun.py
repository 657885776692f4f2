"""What a rerun does not do again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.stories.conftest import Answer, Bench


def test_the_network_is_neither_run_nor_looked_through_again(
    bench: Bench, cmon: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cmon(*bench.dissect()).code == 0
    before = bench.tables()

    def never(*_: object, **__: object) -> object:
        raise AssertionError("was known already")

    for name in ("networks.describe_layers", "passes.record"):
        monkeypatch.setattr(f"concept_monitor_cli.study.{name}", never)
    again = cmon(*bench.dissect())
    assert again.code == 0, again.err
    assert bench.tables() == before
    other_layer = cmon(*bench.dissect(layer="layer2"))
    assert "was known already" in other_layer.err
