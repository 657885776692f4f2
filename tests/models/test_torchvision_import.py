"""torchvision is imported without torch's compiler, and works all the same."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import concept_monitor_cli._torchvision
import torch, torchvision
assert "torch._dynamo" not in sys.modules, "the compiler was imported"
assert "torch._dynamo.utils" not in sys.modules, "the stand-in was left"
from torchvision.ops import roi_align
print(tuple(roi_align(torch.rand(1, 3, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])], 2).shape))
print(torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).item())
"""


def test_the_compiler_comes_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["(1, 3, 2, 2)", "1.0"]


TIMM = """
import sys
import concept_monitor_cli._torchvision
import torch
import open_clip, timm
assert "torch._dynamo" not in sys.modules, "the compiler was imported"
graphs = []

@torch.compiler.disable
def left_alone(x):
    assert not torch.compiler.is_compiling()
    return x + 1

def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

print(torch.compile(lambda x: left_alone(x * 2) * 3, backend=backend)(torch.ones(1)).item(), len(graphs))
"""


def test_timm_and_open_clip_come_without_the_compiler_and_are_left_alone_by_it_where_they_ask_for_that() -> (
    None
):
    done = subprocess.run([sys.executable, "-c", TIMM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["9.0", "2"]
