"""`cmon layers`: what can be dissected."""

from __future__ import annotations

from fnmatch import fnmatchcase

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.sizes import readable_count
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import LayersOptions

app = cmon_app()


@cmon_command(
    app,
    "layers",
    examples=[
        ("cmon layers ckpts/epoch_0.pt", "every layer with its output"),
        ("cmon layers ckpts/ --match 'layer4*'", "some of them; of a folder, the first checkpoint"),
    ],
)
def layers(console: Console, options: LayersOptions) -> None:
    """List the layers of a network that `cmon dissect --layer` can name, with their output and units."""
    from concept_monitor_cli.checkpoints import load_checkpoint, resolve
    from concept_monitor_cli.models.build import resolve_model
    from concept_monitor_cli.models.layers import list_layers
    from concept_monitor_cli.models.preprocess import target_preprocessing
    from concept_monitor_cli.models.pretrained import pretrained_files
    from concept_monitor_cli.study.training import reader_of

    specs, model = pretrained_files([options.checkpoint], options.model)
    loading = {**options.loading, "model": model}
    file = resolve(specs, reader_of(**loading)).kept[0].file
    loaded = load_checkpoint(file.path, **loading)
    source = resolve_model(
        model, loaded.state_dict, said=loaded.arch, family=loaded.family, config=loaded.config
    )
    size = target_preprocessing(source, input_size=options.input_size).geometry.size
    found = list_layers(source.build(device="meta"), size)
    console.notice(source.describe())
    chosen = [
        layer
        for layer in found
        if not options.match or any(fnmatchcase(layer.name, pattern) for pattern in options.match)
    ]
    if not chosen:
        raise InputError(
            f"no layer is called {' or '.join(options.match)}",
            where=str(file.path),
            hint="patterns are as in a shell: 'layer4*' or '*attn*'",
        )
    console.result(
        {
            "checkpoint": str(file.path),
            "architecture": source.label,
            "input_size": size,
            "layers": [
                {
                    "name": layer.name,
                    "type": layer.type,
                    "shape": list(layer.shape),
                    "units": layer.units,
                    "map_size": layer.map_size,
                    "parameters": layer.parameters,
                }
                for layer in chosen
            ],
        }
    )
    if console.json:
        return

    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(f"{source.label} at {size} x {size} pixels, from {file.path}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("type", overflow="fold")
    table.add_column("output", justify="right")
    table.add_column("units", justify="right")
    table.add_column("map", justify="right")
    table.add_column("parameters", justify="right")
    for layer in chosen:
        table.add_row(
            Text(layer.name),
            Text(layer.type),
            " x ".join(map(str, layer.shape)),
            str(layer.units),
            "" if layer.map_size in (None, (1, 1)) else "{} x {}".format(*layer.map_size),
            readable_count(layer.parameters) if layer.parameters else "-",
        )
    console.print(table)
