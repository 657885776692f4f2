"""`cmon doctor`: what this machine has, what is missing, what to do."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from concept_monitor_cli import __version__
from concept_monitor_cli.cli.app import DONE, FAILED, cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.sizes import readable_size
from concept_monitor_cli.options import StoreOptions
from concept_monitor_cli.wording import counted

app = cmon_app()

# The encoder that a real probing set gets by default, and where its weights are published.
_CLIP = "ViT-B-16/openai"

_LIBRARIES = (
    *("torch", "torchvision", "timm", "open_clip_torch", "numpy", "scipy", "pandas", "pyarrow", "h5py"),
    *(
        "scikit-learn",
        "umap-learn",
        "matplotlib",
        "pillow",
        "safetensors",
        "huggingface_hub",
        "typer",
        "rich",
    ),
)
_OPTIONAL = {
    "submitit": "cmon submit",
    "tensorboard": "TensorBoard exports",
    "sentence_transformers": "mpnet cos of cmon evaluate",
    "transformers": "--captioner hf:...",
}
_ENOUGH_ROOM = 10e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: `ok`; `note`, where something is absent that not everybody needs; `problem`.
        value: what was found.
        advice: what to do about it.
        command: that does it.
    """

    name: str
    state: str
    value: str
    advice: str = ""
    command: str = ""


@cmon_command(
    app,
    "doctor",
    examples=[("cmon doctor", "look"), ("cmon doctor --json > machine.json", "for a bug report")],
)
def doctor(console: Console, options: StoreOptions) -> int:
    """Look at what this machine has and what is missing, and say what to do about it.

    Nothing is changed and no network is used. Exit code 1 where something is wrong that every run needs.
    """
    findings: list[Finding] = []
    with console.task("checking", None, "checks") as advance:
        for look in _checks(options.cache, console):
            # What is broken here is what we are asked about: no single look may end the whole.
            try:
                findings.extend(look())
            except Exception as error:
                text = f"{type(error).__name__}: {error}".splitlines()[0]
                findings.append(
                    Finding(look.__name__.strip("_"), "problem", text, "reinstall cmon in a fresh .venv")
                )
            advance(1)
    problems = [finding for finding in findings if finding.state == "problem"]
    console.result({"ok": not problems, "findings": [asdict(finding) for finding in findings]})
    if not console.json:
        _show(console, findings)
    return FAILED if problems else DONE


def _checks(cache: Path, console: Console) -> list[Callable[[], Iterator[Finding]]]:
    def terminal() -> Iterator[Finding]:
        yield from _terminal(console)

    def cache_folder() -> Iterator[Finding]:
        yield from _cache(cache)

    return [_python, _libraries, _torch, _torchvision, _encoder, cache_folder, _slurm, terminal, _fonts]


def _python() -> Iterator[Finding]:
    yield Finding("cmon", "ok", f"{__version__} in {Path(__file__).resolve().parents[1]}")
    yield Finding(
        "python",
        "ok",
        f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}",
    )
    yield Finding("processor", "ok", f"{_cores()} usable cores")


def _cores() -> int:
    # A batch job may use fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _libraries() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    versions = {name: installed(name) for name in _LIBRARIES}
    missing = [name for name, found in versions.items() if found is None]
    yield Finding(
        "libraries", "ok", ", ".join(f"{name} {found}" for name, found in versions.items() if found)
    )
    if missing:
        install = f"pip install -c constraints.txt {' '.join(missing)}"
        yield Finding("missing libraries", "problem", ", ".join(missing), install)
    for name, use in _OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            install = f"pip install {name.replace('_', '-')}"
            yield Finding(name, "note", f"not installed: needed for {use} only", install)


def _torch() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            yield Finding(
                f"cuda:{index}", "ok", f"{device.name}, {readable_size(device.total_memory)}, {bf16}"
            )
    elif torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple GPU")
    elif shutil.which("nvidia-smi"):
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA at all"
        yield Finding(
            "GPU",
            "problem",
            f"there is an NVIDIA driver, but this torch ({torch.__version__}, {build}) sees no GPU",
            "in a batch job, ask for a GPU; else install the torch build for your driver (pytorch.org)",
        )
    else:
        yield Finding("GPU", "note", "none: networks run on the processor")
    yield Finding("threads", "ok", f"torch uses {torch.get_num_threads()}")


def _torchvision() -> Iterator[Finding]:
    from concept_monitor_cli._torchvision import make_importable

    compiled = make_importable()
    import torchvision

    if compiled:
        yield Finding("torchvision", "ok", f"{torchvision.__version__}, its compiled operators work")
    else:
        yield Finding(
            "torchvision",
            "note",
            f"{torchvision.__version__}, its compiled part does not match torch; cmon works without it",
            "install torch and torchvision from the same place to have both",
        )


def _encoder() -> Iterator[Finding]:
    import concept_monitor_cli._torchvision  # isort: skip  # noqa: F401
    import open_clip
    from huggingface_hub import constants, try_to_load_from_cache

    hub = Path(constants.HF_HUB_CACHE)
    yield Finding("hub cache", "ok", f"{hub}{'' if hub.is_dir() else ' (not there yet)'}")
    name, tag = _CLIP.split("/")
    repository = open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "").strip("/")
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    found = next(
        (path for file in files if isinstance(path := try_to_load_from_cache(repository, file), str)), None
    )
    if found is not None:
        yield Finding(_CLIP, "ok", found)
    else:
        fetch = f"python -c \"import open_clip; open_clip.create_model('{name}', pretrained='{tag}')\""
        yield Finding(
            _CLIP,
            "note",
            "not in the hub cache; needed with --probe, unless --encoder names another",
            "fetch it on a machine with network and the same HF_HOME, with the command below",
            fetch,
        )


def _cache(cache: Path) -> Iterator[Finding]:
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        yield Finding("cache", "problem", f"{cache} cannot be written", "name another with --cache-dir")
        return
    from concept_monitor_cli.store import Store

    held = Store(cache).info()
    value = (
        f"{cache}: {readable_size(held.bytes)} in {counted(held.entries, 'entries')}, "
        f"{readable_size(free)} free"
    )
    if free < _ENOUGH_ROOM:
        yield Finding(
            "cache", "note", value, "name a folder on a larger disk with --cache-dir or CMON_CACHE_DIR"
        )
    else:
        yield Finding("cache", "ok", value)


def _slurm() -> Iterator[Finding]:
    if job := os.environ.get("SLURM_JOB_ID"):
        yield Finding("SLURM", "ok", f"inside job {job}")
    elif path := shutil.which("sbatch"):
        yield Finding("SLURM", "ok", path)
    else:
        yield Finding("SLURM", "note", "not found: cmon submit does not work here, everything else does")


def _terminal(console: Console) -> Iterator[Finding]:
    size = shutil.get_terminal_size()
    encoding = getattr(console.err, "encoding", None) or "unknown encoding"
    kind = (
        counted(size.columns, "columns") if console.draws else "none: plain lines with the time are written"
    )
    if encoding.lower().replace("-", "") != "utf8":
        advice = "export PYTHONIOENCODING=utf-8 if file names look wrong"
        yield Finding("terminal", "note", f"{kind}, {encoding}", advice)
    else:
        yield Finding("terminal", "ok", f"{kind}, {encoding}")


def _fonts() -> Iterator[Finding]:
    import matplotlib
    from matplotlib import font_manager

    families = matplotlib.rcParams["font.sans-serif"]
    path = font_manager.findfont(font_manager.FontProperties(family=families))
    yield Finding("plot font", "ok", f"{Path(path).name} (wanted: {families[0]})")


_MARKS = {"ok": ("ok", "green"), "note": ("note", "cyan"), "problem": ("problem", "bold red")}


def _show(console: Console, findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.state]
        value = Text(finding.value)
        if finding.advice:
            value.append(f"\n-> {finding.advice}", style="bold")
        table.add_row(Text(mark, style=style), finding.name, value)
    console.print(table)
    for finding in findings:
        if finding.command:
            # On a line of its own and not wrapped, to be copied.
            console.print(f"\n{finding.name}:\n    {finding.command}\n")
    problems = sum(finding.state == "problem" for finding in findings)
    console.print(f"{problems} to put right" if problems else "Nothing is wrong.")
