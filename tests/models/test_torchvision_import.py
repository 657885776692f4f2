"""torchvision, timm and open_clip are imported without torch's compiler, and work all the same."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import concept_monitor_cli._torchvision
import torch, torchvision
assert "torch._dynamo" not in sys.modules, "torchvision brought the compiler"
assert "torch._dynamo.utils" not in sys.modules, "the stand-in was left"

import open_clip, timm
assert "torch._dynamo" not in sys.modules, "timm or open_clip brought the compiler"

from torchvision.ops import roi_align
print(tuple(roi_align(torch.rand(1, 3, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])], 2).shape))

graphs = []

@torch.compiler.disable
def left_alone(x):
    assert not torch.compiler.is_compiling()
    return x + 1

def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

print(torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).item())
print(torch.compile(lambda x: left_alone(x * 2) * 3, backend=backend)(torch.ones(1)).item(), len(graphs))
"""


def test_the_compiler_comes_when_it_is_asked_for_and_leaves_alone_what_asks_for_that() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(1, 3, 2, 2)", "1.0", "9.0 2"]
