"""Networks on the meta device fetch no compiler, and leave it as it is for others."""

from __future__ import annotations

import subprocess
import sys

_TRACE = """
import sys
import concept_monitor_cli._torchvision
import timm, torch, torchvision
from concept_monitor_cli.models.dependencies import weights_of_layers
from concept_monitor_cli.models.layers import describe_layers

def network(name):
    kind, _, name = name.partition("/")
    return timm.create_model(name) if kind == "timm" else torchvision.models.get_model(name)

"""


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", _TRACE + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tracing_fetches_no_compiler_and_leaves_no_stand_in() -> None:
    said = _run(
        """
for name, layer in (("tv/resnet18", "layer4"), ("tv/vit_b_16", "encoder"), ("timm/mixer_s32_224", "norm")):
    model = network(name).to("meta")
    infos = describe_layers(model, [layer], 224)
    used = weights_of_layers(model, [layer], 224, infos)
    assert used
    assert "torch._dynamo" not in sys.modules, name
print("traced")
"""
    )
    assert said == "traced\n"


def test_the_compiler_that_comes_later_works_and_is_obeyed() -> None:
    said = _run(
        """
describe_layers(network("tv/resnet18"), ["layer1"], 64)
from torch._prims_common import wrappers
x = torch.zeros(1, 3, 8, 8, device="meta")
torch.nn.BatchNorm2d(3, device="meta").eval()(x)  # outside: sets the compiler's own mark
assert "torch._dynamo" in sys.modules
added = torch.compile(lambda a: a + 1, backend="eager")(torch.ones(2))
print(added.tolist(), torch._dynamo.__name__, bool(torch._dynamo.__path__))
"""
    )
    assert said == "[2.0, 2.0] torch._dynamo True\n"


def test_whoever_asks_for_more_gets_the_compiler() -> None:
    said = _run(
        """
from concept_monitor_cli.models.without_compiler import without_compiler
with without_compiler():
    import torch._dynamo.utils
    assert torch._dynamo.config.cache_size_limit > 0
with without_compiler():
    print(sys.modules["torch._dynamo"] is torch._dynamo, torch._dynamo.utils.__name__)
"""
    )
    assert said == "True torch._dynamo.utils\n"
