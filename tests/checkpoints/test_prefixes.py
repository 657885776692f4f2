from __future__ import annotations

import pytest

from concept_monitor_cli.checkpoints import strip_prefixes

NAMES = [
    "conv1.weight",
    "bn1.weight",
    "bn1.bias",
    *(f"layer1.{i}.conv.weight" for i in range(17)),
    "fc.weight",
]


@pytest.mark.parametrize(
    "prefixes",
    [
        (),
        ("module.",),
        ("_orig_mod.",),
        ("model.",),
        ("net.",),
        ("backbone.",),
        ("module.", "_orig_mod."),
        ("_orig_mod.", "module."),
        ("model.", "module.", "backbone."),
        ("_fsdp_wrapped_module.", "module."),
        ("module.", "module."),
    ],
)
def test_prefixes_in_any_nesting(prefixes: tuple[str, ...]) -> None:
    wrapped = ["".join(prefixes) + name for name in NAMES]
    stripped = strip_prefixes(wrapped)
    assert list(stripped.names) == wrapped
    assert list(stripped.names.values()) == NAMES
    assert stripped.prefixes == prefixes
    assert stripped.ignored == ()


def test_a_few_names_outside_are_set_aside() -> None:
    stripped = strip_prefixes([f"model.{name}" for name in NAMES] + ["criterion.weight"])
    assert list(stripped.names.values()) == NAMES
    assert stripped.ignored == ("criterion.weight",)


def test_a_network_with_a_part_called_model_keeps_its_names() -> None:
    names = [f"model.{name}" for name in NAMES[:10]] + [f"head.{name}" for name in NAMES[10:]]
    assert list(strip_prefixes(names).names.values()) == names
    assert strip_prefixes(names).prefixes == ()


def test_wrappers_inside_the_network_go_too() -> None:
    names = ["layer1._orig_mod.0.weight", "layer2._checkpoint_wrapped_module.0.weight", "fc.weight"]
    assert list(strip_prefixes(names).names.values()) == ["layer1.0.weight", "layer2.0.weight", "fc.weight"]


def test_a_running_average_beside_the_network_is_set_aside() -> None:
    stripped = strip_prefixes([f"model.{name}" for name in NAMES] + [f"ema_model.{name}" for name in NAMES])
    assert list(stripped.names.values()) == NAMES
    assert len(stripped.copies) == len(NAMES)


def test_averaged_model_of_torch() -> None:
    stripped = strip_prefixes(["n_averaged"] + [f"module.{name}" for name in NAMES])
    assert list(stripped.names.values()) == NAMES


def test_nothing_is_left_over_of_a_name() -> None:
    assert list(strip_prefixes(["module."]).names.values()) == ["module."]
    assert strip_prefixes([]).names == {}
