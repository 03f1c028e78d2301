"""``blockvid models``: which models there are, what they may be used for, and whether their files are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from blockvid_cli.commands import display, options
from blockvid_cli.errors import UsageError
from blockvid_cli.models.card import ModelCard, bundled_models, find_card
from blockvid_cli.models.hub import accept_licence, hub_files, is_local, licence_accepted, local_path
from blockvid_cli.models.pull import list_downloads, remove
from blockvid_cli.models.pull import pull as pull_files

app = typer.Typer(
    no_args_is_help=True,
    help="List, pull, check and convert models.\n\nExample: blockvid models list",
)
Name = Annotated[str, typer.Argument(help="a model's name, folder or file", autocompletion=options.complete_model)]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]


@app.command("list")
def list_(as_json: options.AsJson = False) -> None:
    """Models that blockvid has a card for, and whether their files are on this machine.

    Example: blockvid models list --json
    """
    rows = [_brief(find_card(name)) for name in bundled_models()]
    if as_json:
        print(json.dumps(rows))
        return
    display.table(
        ("model", "here", "size", "fps", "licence"),
        [(r["model"], "yes" if r["here"] else "no", r["size"], f"{r['fps']:g}", r["licence"]) for r in rows],
    )


@app.command("show")
def show_(model: Name, as_json: options.AsJson = False) -> None:
    """A model's card: where it comes from, its sizes and default recipe, what it may be used for, what it cannot do.

    Example: blockvid models show self-forcing
    """
    from blockvid_cli.models.registry import find_model
    from blockvid_cli.runtime.memory_estimate import sizes

    card = find_model(model)
    facts = _brief(card) | {
        "summary": card.summary,
        "weights": sizes(card).weights,
        "block": card.block,
        "frame_conditioning": list(card.frame_conditioning),
        "recipe": card.recipe,
        "repositories": [f"{want.repository}@{want.revision}" for want in hub_files(card)],
        "provenance": card.provenance,
        "limits": card.limits,
    }
    print(json.dumps(facts, ensure_ascii=False) if as_json else display.lines(facts))


@app.command()
def pull(model: Name, yes: Yes = False, as_json: options.AsJson = False) -> None:
    """Download a model into the hub's cache; a broken download goes on where it stopped.

    Example: blockvid models pull self-forcing
    """
    from blockvid_cli.models.registry import find_model

    card = find_model(model)
    if not hub_files(card):
        raise UsageError(f"the model '{card.name}' lies at {card.folder}; there is nothing to pull.")
    _tell(f"{card.name}: licence {card.licence}")
    if card.noncommercial and not licence_accepted(card):
        if not yes and not typer.confirm("These weights are for non-commercial use only. Do you agree?", err=True):
            raise UsageError(f"the licence of '{card.name}' was not agreed to; nothing was downloaded.")
        accept_licence(card)
    missing = 0
    if not is_local(card):
        files = list_downloads(card)
        missing = sum(file.bytes for file in files if not file.local)
        _tell(f"{len(files)} files, {missing / 1e9:.1f} GB to download")
        if missing and not yes and not typer.confirm("Download?", default=True, err=True):
            raise UsageError("nothing was downloaded.")
        pull_files(card)
    display.result({"model": card.name, "bytes": missing}, f"{card.name} is here", as_json)


@app.command()
def path(model: Name, as_json: options.AsJson = False) -> None:
    """Where a model's files lie.

    Example: blockvid models path storybook
    """
    from blockvid_cli.models.registry import find_model

    card = find_model(model)
    places = [str(local_path(card, part)) for part in card.files]
    print(json.dumps(places) if as_json else "\n".join(places))


@app.command()
def verify(model: Name, as_json: options.AsJson = False) -> None:
    """Read all of a model's files: names, shapes, hashes, numbers. Exit code 3 if one is not right.

    Example: blockvid models verify storybook
    """
    from blockvid_cli.models.registry import find_model
    from blockvid_cli.models.verify import verify_model

    found = verify_model(find_model(model))
    values = [{"part": f.part, "file": str(f.file), "says": f.says} for f in found]
    print(json.dumps(values) if as_json else "\n".join(f"{f.part:14} {f.says}\n{'':14} {f.file}" for f in found))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="a network's weights: a file, or a folder with shards")],
    target: Annotated[Path, typer.Argument(help="a .safetensors file to write")],
    names: Annotated[
        str, typer.Option("--to", help="whose names: diffusers or original", autocompletion=options.complete_key_layout)
    ] = "diffusers",
    dtype: Annotated[
        str, typer.Option(help="as-stored, fp32, bf16 or fp16", autocompletion=options.complete_weight_dtype)
    ] = "as-stored",
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a network's weights in another layout, as one safetensors file.

    Example: blockvid models convert self_forcing_dmd.pt self-forcing.safetensors --dtype bf16
    """
    from blockvid_cli.models.convert import convert as converted

    count = converted(source, target, names, dtype, force)
    display.result({"file": str(target), "tensors": count}, f"{target}: {count} tensors in {names} names", as_json)


@app.command()
def rm(model: Name, yes: Yes = False, as_json: options.AsJson = False) -> None:
    """Delete a model from the hub's cache; parts that other models share stay.

    Example: blockvid models rm causvid
    """
    card = find_card(model)
    if not hub_files(card):
        raise UsageError(f"the model '{card.name}' came with blockvid or lies in a folder of yours; it is not removed.")
    if not yes and not typer.confirm(f"Delete {card.name} from the cache?", err=True):
        raise UsageError("nothing was deleted.")
    freed = remove(card)
    display.result({"model": card.name, "bytes": freed}, f"{card.name}: {freed / 1e9:.1f} GB freed", as_json)


def _brief(card: ModelCard) -> dict[str, Any]:
    return {
        "model": card.name,
        "here": is_local(card),
        "size": "x".join(map(str, card.size)),
        "fps": card.fps,
        "licence": card.licence,
        "noncommercial": card.noncommercial,
    }


def _tell(line: str) -> None:
    typer.echo(line, err=True)
