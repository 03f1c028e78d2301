"""``blockvid data``: datasets of captioned videos for ``blockvid finetune``, and films to test metrics with."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from blockvid_cli.commands import display, options, terminal
from blockvid_cli.errors import UsageError, plural

app = typer.Typer(
    no_args_is_help=True,
    help="Make, check and prepare datasets for 'blockvid finetune'.\n\nExample: blockvid data demo lv1m-demo",
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="a dataset folder")]
Video = Annotated[str, typer.Argument(metavar="VIDEO", help="a video's name in the dataset, as 000001")]


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="the dataset folder to write")] = None,
    videos: Annotated[int, typer.Option(min=1, max=10_000, help="how many videos to learn from")] = 24,
    held_out: Annotated[int, typer.Option(min=0, max=1000, help="how many more that are only measured on")] = 4,
    bench: Annotated[
        Path | None, typer.Option(help="write films whose drift is known into this folder, to test metrics with")
    ] = None,
    stories: Annotated[
        int, typer.Option(min=1, max=100, help="with --bench: how many stories; each has every kind of drift")
    ] = 3,
    seconds: Annotated[int | None, typer.Option(min=1, max=600, help="length of each video; without this, 24")] = None,
    size: Annotated[str, typer.Option(help="with --bench: WIDTHxHEIGHT in pixels, 160x96 to 640x384")] = "160x96",
    seed: Annotated[int, typer.Option(min=0, help="with --bench: another seed gives other stories")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="with --bench: make existing films again")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a dataset of picture-book films, so that training can be tried at once.

    With --bench FOLDER it writes films whose drift is known instead, to test whether a metric ranks them correctly.

    Each story is made without drift, and with six kinds of drift at four severities each; bench.json lists the films.

    The same command continues where it stopped.

    Example: blockvid data demo lv1m-demo
    """
    if (folder is None) == (bench is None):
        raise UsageError("'blockvid data demo' needs one folder: lv1m-demo for a dataset, or --bench runs/drifts.")
    if folder is not None:
        from blockvid_cli.datasets.demo import write_demo

        write_demo(folder, videos, held_out, seconds or 24, terminal.note)
        facts = {"dataset": str(folder), "videos": videos, "held_out": held_out}
        display.result(
            facts, f"{folder}: {plural(videos + held_out, 'video')}; next: blockvid data prepare {folder}", as_json
        )
        return
    from blockvid_cli.evaluation.demo import plan_demo, write_bench

    values: dict[str, Any] = write_bench(
        plan_demo(stories, seconds or 60, size, seed), Path(str(bench)), fresh, terminal.note
    )
    summary = f"{bench}: {plural(values['films'], 'film')} of {seconds or 60} s, {values['rendered']} of them made now"
    display.result(values, f"{summary}; measure them: blockvid eval --suite {bench}", as_json)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="a folder of videos with captions")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the dataset folder to write")],
    held_out: Annotated[
        float, typer.Option(min=0, max=0.5, help="the share of videos that are only measured on")
    ] = 0.0,
    title: Annotated[str, typer.Option(help="the dataset's title")] = "",
    licence: Annotated[str, typer.Option("--license", help="the licence of the videos")] = "",
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT to train at; without this, the model's")] = None,
    fps: Annotated[float | None, typer.Option(help="frames a second to train at; without this, the model's")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a dataset of a folder of captioned videos.

    It reads clips with .txt, .srt, .vtt or .json beside them, and tables as LoRA trainers use them (metadata.jsonl).

    It reads LongLive's folders of shots too. Timed captions, as LV-Bench prints them, become chunks.

    Example: blockvid data import clips/ -o lv1m/
    """
    from blockvid_cli.datasets.folder import DatasetSettings
    from blockvid_cli.datasets.importing import import_folder
    from blockvid_cli.models.card import parse_size

    try:
        settings = DatasetSettings(
            title=title or source.name, license=licence, fps=fps, size=parse_size(size) if size else None
        )
    except ValueError as error:
        raise UsageError(f"--size or --fps: {error}.") from error
    count, left_out = import_folder(source, output, held_out, terminal.note, settings)
    for sentence in left_out:
        terminal.note(f"left out: {sentence}")
    values = {"dataset": str(output), "videos": count, "left_out": left_out}
    display.result(values, f"{output}: {plural(count, 'video')}; next: blockvid data check {output}", as_json)


@app.command()
def check(
    folder: Folder,
    model: options.Model = None,
    fast: Annotated[bool, typer.Option("--fast", help="look at the rows only, decode nothing")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Find what is wrong with a dataset: undecodable, short, doubled videos; gaps, overlaps and long captions.

    Example: blockvid data check lv1m/
    """
    from blockvid_cli.datasets.checking import check_dataset
    from blockvid_cli.datasets.folder import read_dataset
    from blockvid_cli.job import DEFAULT_MODEL
    from blockvid_cli.models.find import find_model
    from blockvid_cli.models.loading import load_text_encoder

    card, dataset = find_model(model or DEFAULT_MODEL), read_dataset(folder)
    encoder = load_text_encoder(card) if not card.text.repository else None
    problems = list(check_dataset(dataset, card, encoder, decode=not fast))
    if not as_json:
        for problem in problems:
            terminal.write(f"{problem.split}/{problem.video}: {problem.sentence}")
    fatal = sum(problem.fatal for problem in problems)
    videos = sum(map(len, dataset.splits.values()))
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(problem.kind for problem in problems).items())
    summary = f"{folder}: {plural(videos, 'video')}, {plural(len(problems), 'problem')}{f' ({kinds})' if kinds else ''}"
    end = f"; {fatal} must be corrected" if fatal else f"; next: blockvid data prepare {folder}"
    display.result({"videos": videos, "problems": [asdict(p) for p in problems]}, summary + end, as_json)
    if fatal:
        raise typer.Exit(1)


@app.command()
def prepare(
    folder: Folder,
    model: options.Model = None,
    device: options.Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it takes, and do nothing")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Encode a dataset's videos and captions for a model, once; the same command continues where it stopped.

    Example: blockvid data prepare lv1m/ --model wan2.1-t2v-1.3b
    """
    from blockvid_cli.datasets.folder import read_dataset
    from blockvid_cli.datasets.preparation import estimate, prepare_dataset
    from blockvid_cli.job import DEFAULT_MODEL
    from blockvid_cli.models.devices import resolve_device
    from blockvid_cli.models.find import find_model

    card, dataset = find_model(model or DEFAULT_MODEL), read_dataset(folder)
    wanted = estimate(dataset, card)
    size = f"{wanted.bytes / 1e9:.2f} GB" if wanted.bytes >= 1e8 else f"{wanted.bytes / 1e6:.1f} MB"
    terminal.note(f"{plural(wanted.videos, 'video')} to encode, about {size} on disk in {folder}/.cache")
    values = {"videos": wanted.videos, "prompts": wanted.prompts, "bytes": wanted.bytes}
    if dry_run:
        display.result(values, f"{folder}: nothing was written", as_json)
        return
    prepare_dataset(
        dataset, card, resolve_device(device), lambda what, done, total: terminal.note(f"{what}: {done} of {total}")
    )
    display.result(values, f"{folder}: prepared for {card.name}; next: blockvid finetune --data {folder}", as_json)


@app.command()
def preview(
    folder: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", help="the image to write")] = Path("dataset.png"),
    videos: Annotated[int, typer.Option(min=1, max=20, help="how many videos are shown")] = 5,
) -> None:
    """Write a contact sheet: the first frame of every chunk with its caption.

    Example: blockvid data preview lv1m/ -o lv1m.png
    """
    from blockvid_cli.datasets.folder import read_dataset
    from blockvid_cli.datasets.preview import write_preview

    shown = write_preview(read_dataset(folder), output, videos)
    terminal.write(f"{output}: {plural(shown, 'chunk')}")


@app.command()
def export(
    folder: Folder,
    video: Video,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the storyboard; without this, printed")] = None,
) -> None:
    """Write the captions of a video as a storyboard, to render the same story.

    Example: blockvid data export lv1m/ 000001 -o story.yaml
    """
    from blockvid_cli.datasets.folder import read_dataset
    from blockvid_cli.project.atomic_files import write_atomically
    from blockvid_cli.storyboard.exports import dump_storyboard

    dataset = read_dataset(folder)
    row = dataset.train.find(video)
    text = dump_storyboard(row.storyboard(dataset.settings, output or Path("story.yaml")))
    if output is None:
        terminal.write(text, end="")
        return
    write_atomically(output, text.encode())
    terminal.write(f"{output}: {plural(len(row.spans()), 'chunk')}")
