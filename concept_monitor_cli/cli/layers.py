"""`cmon layers`: what can be dissected."""

from __future__ import annotations

from fnmatch import fnmatchcase

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.sizes import readable_count
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import LayersOptions, split_name

app = cmon_app()


@cmon_command(
    app,
    "layers",
    examples=[
        ("cmon layers ckpts/epoch_0.pt", "the stages of the network; --all for every layer"),
        ("cmon layers ckpts/ --match 'layer4*'", "some of them; of a folder, the first checkpoint"),
    ],
)
def layers(console: Console, options: LayersOptions) -> None:
    """List the layers of a network that `cmon dissect --layer` can name, with their output and units.

    Shown are the stages: layer1 to layer4 of a residual network, the blocks of a transformer. `--layer auto`,
    the default of `run` and `dissect`, takes the last two of them.
    """
    from concept_monitor_cli.checkpoints import load_checkpoint, resolve
    from concept_monitor_cli.models.build import resolve_model
    from concept_monitor_cli.models.layers import list_layers
    from concept_monitor_cli.models.preprocess import target_preprocessing
    from concept_monitor_cli.models.pretrained import pretrained_files
    from concept_monitor_cli.models.stages import LAST, stages
    from concept_monitor_cli.study.training import reader_of

    if not options.match and options.sources.get("match", "default") != "default":
        raise InputError(
            "the pattern is empty", where="--match", hint="write 'layer4*' or '*attn*'; --all for all"
        )
    specs, model = pretrained_files([options.checkpoint], options.model)
    loading = {**options.loading, "model": model}
    file = resolve(specs, reader_of(**loading)).kept[0].file
    loaded = load_checkpoint(file.path, **loading)
    source = resolve_model(
        model, loaded.state_dict, said=loaded.arch, family=loaded.family, config=loaded.config
    )
    size = target_preprocessing(source, input_size=options.input_size).geometry.size
    network = source.build(device="meta")
    modules = dict(network.named_modules())
    # A layer that passes on what it gets is the one before it.
    found = [
        layer
        for layer in list_layers(network, size)
        if type(modules.get(split_name(layer.name)[0])).__name__ != "Identity"
    ]
    main = {layer.name for layer in stages(network, found)}
    console.notice(source.describe())
    if options.match:
        chosen = [each for each in found if any(fnmatchcase(each.name, pattern) for pattern in options.match)]
    else:
        chosen = found if options.all else [each for each in found if each.name in main]
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
                    "stage": layer.name in main,
                }
                for layer in chosen
            ],
        }
    )
    if console.json:
        return

    from rich.text import Text

    console.print(f"{source.label} at {size} x {size} pixels, from {file.path}")
    table = plain_table()
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
    if len(chosen) < len(found) and not options.match:
        last = ",".join(layer.name for layer in chosen[-LAST:])
        console.print(f"{len(found) - len(chosen)} more with --all. --layer auto is {last}.")
