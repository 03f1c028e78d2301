"""``blockvid models``: lists, downloads, checks and converts models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from blockvid_cli.commands import display, options, terminal
from blockvid_cli.errors import UsageError, plural
from blockvid_cli.models.card import ModelCard, bundled_models, find_card
from blockvid_cli.models.hub import (
    accept_licence,
    hub_files,
    is_local,
    licence_accepted,
    list_downloads,
    local_path,
    remove,
)
from blockvid_cli.models.hub import pull as pull_files

app = typer.Typer(
    no_args_is_help=True,
    help="List, pull, check and convert models.\n\nExample: blockvid models list",
)
Name = Annotated[str, typer.Argument(help="a model's name, folder or file", autocompletion=options.complete_model)]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")]


@app.command("list")
def list_(as_json: options.AsJson = False) -> None:
    """List the models that blockvid has a card for, and whether their files are on this machine.

    Example: blockvid models list --json
    """
    rows = [_brief(find_card(name)) for name in bundled_models()]
    if as_json:
        terminal.write_json(rows)
        return
    display.table(
        ("model", "on this machine", "size", "fps", "licence"),
        [(r["model"], "yes" if r["local"] else "no", r["size"], f"{r['fps']:g}", r["licence"]) for r in rows],
    )


@app.command("show")
def show_(model: Name, as_json: options.AsJson = False) -> None:
    """Show a model's card: its origin, licence, sizes and default recipe, and what it cannot do.

    Example: blockvid models show self-forcing
    """
    from blockvid_cli.models.find import find_model
    from blockvid_cli.models.registry import model_sizes

    card = find_model(model)
    facts = _brief(card) | {
        "summary": card.summary,
        "weights": model_sizes(card).transformer_params,
        "trained_sizes": ["x".join(map(str, size)) for size in card.sizes_trained_for],
        "block": card.block,
        "frame_conditioning": list(card.frame_conditioning),
        "recipe": card.recipe,
        "repositories": [f"{files.repository}@{files.revision}" for files in hub_files(card)],
        "provenance": card.provenance,
        "limits": card.limits,
    }
    terminal.write_json(facts) if as_json else terminal.write(_description(card, facts))


@app.command()
def pull(model: Name, yes: Yes = False, as_json: options.AsJson = False) -> None:
    """Download a model into the cache of the Hugging Face hub; a broken download continues where it stopped.

    Example: blockvid models pull self-forcing
    """
    from blockvid_cli.models.find import find_model

    card = find_model(model)
    if not hub_files(card):
        raise UsageError(
            f"the model '{card.name}' is already on this machine, at {card.folder}; there is nothing to pull."
        )
    terminal.note(f"{card.name}: licence {card.licence}")
    if card.noncommercial and not licence_accepted(card):
        if not yes and not terminal.confirm("These weights are for non-commercial use only. Do you agree?"):
            raise UsageError(f"the licence of '{card.name}' was not accepted; nothing was downloaded.")
        accept_licence(card)
    missing = 0
    if not is_local(card):
        files = list_downloads(card)
        missing = sum(file.bytes for file in files if not file.local)
        terminal.note(f"{plural(len(files), 'file')}, {missing / 1e9:.1f} GB to download")
        if missing and not yes and not terminal.confirm("Download?", default=True):
            raise UsageError("nothing was downloaded.")
        pull_files(card)
    display.result({"model": card.name, "bytes": missing}, f"{card.name} is on this machine", as_json)


@app.command()
def path(model: Name, as_json: options.AsJson = False) -> None:
    """Print the paths of a model's files.

    Example: blockvid models path storybook
    """
    from blockvid_cli.models.find import find_model

    card = find_model(model)
    paths = [str(local_path(card, part)) for part in card.files]
    terminal.write_json(paths) if as_json else terminal.write("\n".join(paths))


@app.command()
def verify(model: Name, as_json: options.AsJson = False) -> None:
    """Check all files of a model: names, shapes, hashes and values. Exit code 3 if one is wrong.

    Example: blockvid models verify storybook
    """
    from blockvid_cli.models.find import find_model
    from blockvid_cli.models.loading import verify_model

    parts = verify_model(find_model(model))
    if as_json:
        terminal.write_json([{"part": f.part, "file": str(f.file), "summary": f.summary} for f in parts])
    else:
        terminal.write("\n".join(f"{f.part:14} {f.summary}\n{'':14} {f.file}" for f in parts))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="weights of a transformer: a file, or a folder with shards")],
    target: Annotated[Path, typer.Argument(help="the .safetensors file to write")],
    names: Annotated[
        str, typer.Option("--to", help="key layout: diffusers or original", autocompletion=options.complete_key_layout)
    ] = "diffusers",
    dtype: Annotated[
        str,
        typer.Option(help="dtype: as-stored, fp32, bf16 or fp16", autocompletion=options.complete_weight_dtype),
    ] = "as-stored",
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Convert the weights of a transformer to another key layout, as one safetensors file.

    Example: blockvid models convert self_forcing_dmd.pt self-forcing.safetensors --dtype bf16
    """
    from blockvid_cli.models.checkpoint import convert as convert_weights

    count = convert_weights(source, target, names, dtype, force)
    display.result(
        {"file": str(target), "tensors": count}, f"{target}: {plural(count, 'tensor')} in the {names} layout", as_json
    )


@app.command()
def rm(model: Name, yes: Yes = False, as_json: options.AsJson = False) -> None:
    """Delete a model from the hub's cache; parts that other models share are kept.

    Example: blockvid models rm causvid
    """
    card = find_card(model)
    if not hub_files(card):
        raise UsageError(f"the model '{card.name}' came with blockvid or is in a folder of yours; it is not deleted.")
    if not yes and not terminal.confirm(f"Delete {card.name} from the cache?"):
        raise UsageError("nothing was deleted.")
    freed = remove(card)
    display.result({"model": card.name, "bytes": freed}, f"{card.name}: {freed / 1e9:.1f} GB freed", as_json)


def _description(card: ModelCard, facts: Mapping[str, Any]) -> str:
    """What a card says, in words: a line for each topic, and what the model cannot do below."""
    here = "yes" if facts["local"] else f"no; this downloads it: blockvid models pull {card.name}"
    images = f"can begin with {' and '.join(card.frame_conditioning)}" if card.frame_conditioning else "no"
    licence = f"{card.licence}; for non-commercial use only" if card.noncommercial else card.licence
    topics = {
        "model": f"{card.name}: {card.summary}",
        "on this machine": here,
        "licence": licence,
        "trained for": " and ".join(facts["trained_sizes"]) + f", at {card.fps:g} frames a second",
        "block": f"{card.block} latent frames ({card.block * card.latent.time / card.fps:.2g} s) are denoised together",
        "images": images,
        "parameters": f"{facts['weights'] / 1e6:,.0f} million, in the denoising network",
        "recipe": ", ".join(f"{name.replace('_', '-')} {_in_words(value)}" for name, value in card.recipe.items()),
        "downloaded from": ", ".join(f"{f.repository} ({f.revision[:8]})" for f in hub_files(card)) or "nowhere",
        **{name: _in_words(value) for name, value in card.provenance.items()},
    }
    limits = [f"  - {limit}" for limit in card.limits]
    return "\n".join([*(f"{name:16} {text}" for name, text in topics.items()), *(["limits"] * bool(limits)), *limits])


def _in_words(value: object) -> str:
    """``window (window 12, sink 3)``, ``1, 0.938, 0.833``, ``block``."""
    if isinstance(value, dict):
        rest = ", ".join(f"{name.replace('_', ' ')} {_in_words(v)}" for name, v in value.items() if name != "name")
        return f"{value['name']} ({rest})" if "name" in value and rest else str(value.get("name", rest))
    if isinstance(value, list | tuple):
        return ", ".join(_in_words(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _brief(card: ModelCard) -> dict[str, Any]:
    return {
        "model": card.name,
        "local": is_local(card),
        "size": "x".join(map(str, card.size)),
        "fps": card.fps,
        "licence": card.licence,
        "noncommercial": card.noncommercial,
    }
