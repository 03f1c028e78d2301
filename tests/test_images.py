"""Pictures that a chunk begins or ends with: held bit for bit, resumed; bad ones get a sentence."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from blockvid_cli.errors import StoryboardError, UsageError
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.models.loading import load_vae
from blockvid_cli.render import render
from blockvid_cli.rollout.conditioning import NO_CONDITIONING, FrameConditioning, encode_frames
from blockvid_cli.rollout.guidance import GuidedDenoiser
from blockvid_cli.rollout.rollout import Rollout, RolloutSegment
from blockvid_cli.storyboard.exports import dump_storyboard
from blockvid_cli.storyboard.storyboard import read_storyboard
from blockvid_cli.video.reference_images import ReferenceImage, read_reference_image
from tests import small

SIZE = (64, 32)  # of the films rendered here


@pytest.fixture(scope="module")
def guided(model, tmp_path_factory) -> Path:
    """The random model, told to be one that may be given pictures."""
    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("guided") / "model"))
    card = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "frame_conditioning": ["first", "last"]}))
    return folder


def picture(file: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """A picture of coloured squares."""
    dice = np.random.default_rng(seed)
    Image.fromarray(dice.integers(0, 256, (4, 8, 3), np.uint8)).resize(size, Image.Resampling.NEAREST).save(file)
    return file


def with_picture(story: Path, chunk: int, name: str, field: str = "image") -> None:
    """Gives a chunk of the storyboard (from 1) a picture."""
    board = yaml.safe_load(story.read_text())
    board["chunks"][chunk - 1][field] = name
    story.write_text(yaml.safe_dump(board, sort_keys=False))


def render_story(story: Path, model: Path, **options) -> list:
    """Renders; returns what was told."""
    events = []
    render(prepare(RenderRequest(story, model=str(model), **options)), events.append)
    return events


def latents(story: Path) -> list[torch.Tensor]:
    """Each chunk's latents, as they are kept."""
    files = sorted(story.with_suffix(".blockvid").glob("chunks/*/take-1.safetensors"))
    return [load_file(file)["latents"] for file in files]


def rendered_chunks(events) -> set[int]:
    return {b.chunk for e in events if e.step and not e.step.resumed for b, _ in e.step.finished}


def latent(guide: ReferenceImage, model: Path, first: bool) -> torch.Tensor:
    """What the codec makes of a picture: alone, or as four frames after one."""
    from blockvid_cli.models.find import find_model

    still = torch.from_numpy(guide.pixels).permute(2, 0, 1)[None] / 255
    return load_vae(find_model(str(model)), "cpu").encode(still.expand(1 if first else 5, -1, -1, -1))[-1]


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_chunk_begins_with_its_picture_and_those_before_stay_as_they_are(story, guided, chunk):
    render_story(story, guided)
    plain = latents(story)
    with_picture(story, chunk, picture(story.parent / "a.png").name)
    events = render_story(story, guided)
    after = latents(story)
    assert rendered_chunks(events) == set(range(chunk, 4))
    assert all(torch.equal(a, b) for a, b in zip(plain[: chunk - 1], after, strict=False))
    held = latent(read_reference_image(story.parent / "a.png", SIZE), guided, first=chunk == 1)
    assert torch.equal(after[chunk - 1][0], held)
    assert not torch.allclose(after[chunk - 1][1], plain[chunk - 1][1], atol=1e-3)  # its neighbours see it


def test_a_chunk_ends_with_its_picture(story, guided):
    with_picture(story, 2, picture(story.parent / "a.png").name, "end_image")
    with_picture(story, 3, picture(story.parent / "b.png", 1).name, "image")
    render_story(story, guided)
    after = latents(story)
    assert torch.equal(after[1][-1], latent(read_reference_image(story.parent / "a.png", SIZE), guided, first=False))
    assert torch.equal(after[2][0], latent(read_reference_image(story.parent / "b.png", SIZE), guided, first=False))


def test_the_last_picture_is_one_that_is_shown(story, guided):
    """The film's last block is rendered whole and its end trimmed off: the picture stands before that."""
    story.write_text(story.read_text().replace("up and down.\n    duration: 2s", "up and down.\n    duration: 1.8s"))
    with_picture(story, 3, picture(story.parent / "a.png").name, "end_image")
    job = prepare(RenderRequest(story, model=str(guided)))
    (number,) = job.reference_images
    assert 4 * number - 3 <= job.plan.frames - 1 <= 4 * number and number < job.plan.blocks[-1].frame_indices[-1]


def test_another_picture_rerenders_from_its_chunk_on_and_the_same_elsewhere_nothing(story, guided):
    with_picture(story, 2, picture(story.parent / "a.png").name)
    render_story(story, guided)
    before = latents(story)
    shutil.copy(story.parent / "a.png", story.parent / "moved.png")
    with_picture(story, 2, "moved.png")
    assert rendered_chunks(render_story(story, guided)) == set()
    picture(story.parent / "moved.png", 7)
    assert rendered_chunks(render_story(story, guided)) == {2, 3}
    assert torch.equal(latents(story)[0], before[0]) and not torch.equal(latents(story)[1], before[1])
    identities = json.loads((story.with_suffix(".blockvid") / "manifest.json").read_text())["identities"]
    sha256 = read_reference_image(story.parent / "moved.png", SIZE).sha256
    assert [identity["images"] for identity in identities] == [{}, {"0": sha256}, {}]


def test_without_pictures_keys_are_as_they_were(story, guided, model):
    one, other = (prepare(RenderRequest(story, model=str(folder))) for folder in (guided, model))
    assert one.keys.keys == other.keys.keys


SCHEDULES = [
    "block",
    "joint",
    {"name": "diagonal", "lag": 1},
    {"name": "matrix", "window": 2, "overlap": 1, "context_sigma": 0.05},
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("solver", "rows"), [("euler", 2), ("renoise", 1), ("unipc", 1)])
def test_given_frames_are_held_and_resumed_by_every_schedule_and_solver(schedule, solver, rows):
    film, how, inner = small.plan((1, 2)), small.recipe(schedule=schedule, solver=solver, steps=2), small.denoiser()
    rendered_by = GuidedDenoiser(inner, 2.0) if rows == 2 else inner
    given = FrameConditioning(
        {n: torch.randn(small.LATENT, generator=torch.Generator().manual_seed(n)) for n in (2, 5)}
    )

    @torch.inference_mode()
    def rendered(done, held=given):
        rollout = Rollout(film, how.kv_cache(), inner.rope, (1, 2, 2), lambda b: small.read(b, rows), conditioning=held)
        results = rollout.run([RolloutSegment(film.blocks, how, rendered_by)], done)
        return {block.number: values for result in results for block, values in result.finished}

    whole, plain = rendered({}), rendered({}, NO_CONDITIONING)
    frames, free = (torch.cat([x[n] for n in sorted(x)]) for x in (whole, plain))
    assert all(torch.equal(frames[n], given.latents[n]) for n in given.latents)
    assert not torch.allclose(frames[3], free[3], atol=1e-3) and torch.isfinite(frames).all()
    for kept in (1, 2):
        again = rendered({n: whole[n] for n in range(kept)})
        assert all(torch.equal(whole[n], again[n]) for n in whole), kept


def test_a_given_frame_is_at_level_0_while_its_block_is_rendered():
    film, fake = small.plan((1, 1)), small.FakeDenoiser()
    rollout = Rollout(film, small.recipe().kv_cache(), small.denoiser().rope, (1, 2, 2), small.read)
    rollout.conditioning = FrameConditioning({2: torch.zeros(small.LATENT)})
    list(rollout.run([RolloutSegment(film.blocks, small.recipe(steps=2), fake)]))
    assert fake.sigmas == [(1, 1), (0.6667, 0.6667), (0, 0), (0, 1), (0, 0.6667), (0, 0)]


def test_a_film_stopped_within_the_chunk_goes_on_to_the_same_film(story, guided):
    with_picture(story, 1, picture(story.parent / "a.png").name)
    with_picture(story, 3, picture(story.parent / "b.png", 1).name, "end_image")
    render_story(story, guided)
    whole = latents(story)
    folder = story.with_suffix(".blockvid") / "chunks"
    shutil.rmtree(folder / "003")
    shutil.rmtree(folder / "002")
    assert rendered_chunks(render_story(story, guided)) == {2, 3}
    assert all(torch.equal(a, b) for a, b in zip(whole, latents(story), strict=True))


def test_the_first_latent_of_a_film_is_one_frame_and_later_ones_four():
    class Counting:
        def encode(self, frames):
            return torch.full((1 + (len(frames) - 1) // 4, 1, 1, 1), float(len(frames)))

    given = encode_frames({0: np.zeros((8, 8, 3), np.uint8), 3: np.zeros((8, 8, 3), np.uint8)}, Counting(), 4)
    assert [float(given.latents[n]) for n in (0, 3)] == [1, 5]


@pytest.mark.parametrize(("field", "allowed"), [("image", []), ("image", ["last"]), ("end_image", ["first"])])
def test_a_model_that_cannot_be_given_it_says_so_with_file_and_line(story, model, tmp_path, field, allowed):
    folder = Path(shutil.copytree(model, tmp_path / "other"))
    card = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "frame_conditioning": allowed}))
    with_picture(story, 2, picture(story.parent / "a.png").name, field)
    with pytest.raises(StoryboardError, match=rf"story\.yaml:\d+: {field}: the model 'random' cannot") as caught:
        prepare(RenderRequest(story, model=str(folder)))
    assert caught.value.exit_code == 2


def test_two_pictures_need_two_frames(story, model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "framewise"))
    card = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "frame_conditioning": ["first", "last"], "block": 1}))
    story.write_text(story.read_text().replace("duration: 1s", "duration: 0.3s"))
    for field in ("image", "end_image"):
        with_picture(story, 2, picture(story.parent / "a.png").name, field)
    with pytest.raises(StoryboardError, match=r"end_image: .*too short"):
        prepare(RenderRequest(story, model=str(folder)))


def test_a_storyboard_with_pictures_is_written_as_it_was_read(story):
    for field in ("image", "end_image"):
        with_picture(story, 2, picture(story.parent / f"{field}.png").name, field)
    board = read_storyboard(story)
    assert board.chunks[1].end_image == (story.parent / "end_image.png").resolve()
    story.write_text(dump_storyboard(board))
    assert read_storyboard(story) == board


def frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (9, 9), (90 * n, 0, 0)) for n in range(count)]


def claiming(file: Path) -> None:
    """A PNG of a few bytes that says it has 100000 x 100000 pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), b"IDAT", b"IEND")
    written = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))


def cut_short(file: Path) -> None:
    picture(file, size=(256, 256))
    file.write_bytes(file.read_bytes()[:200])


BAD = {
    "pipe.png": (os.mkfifo, "a pipe, not a regular file"),
    "empty.png": (lambda file: file.write_bytes(b""), "is empty"),
    "text.png": (lambda file: file.write_text("a cat"), "is not a picture"),
    "drawing.eps": (lambda file: file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"), "is not a picture"),
    "cut.png": (cut_short, "damaged"),
    "bomb.png": (claiming, "million pixels"),
    "large.png": (lambda file: Image.new("1", (9000, 9000)).save(file), "9000x9000 pixels"),
    "moves.gif": (lambda f: frames(3)[0].save(f, save_all=True, append_images=frames(3)[1:]), "more than one picture"),
    "moves.png": (lambda f: frames(3)[0].save(f, save_all=True, append_images=frames(3)[1:]), "more than one picture"),
    "moves.webp": (lambda f: frames(3)[0].save(f, save_all=True, append_images=frames(3)[1:]), "more than one picture"),
    "fractions.tiff": (lambda file: Image.new("F", (8, 8)).save(file), "fractions"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_gets_one_sentence(tmp_path, name):
    make, said = BAD[name]
    make(tmp_path / name)
    with pytest.raises(UsageError, match=said) as caught:
        read_reference_image(tmp_path / name, SIZE)
    assert name in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_picture_that_is_not_there_is_a_fault_of_the_storyboard(story, guided):
    with_picture(story, 2, "nowhere.png")
    with pytest.raises(StoryboardError, match=r"story\.yaml:\d+: chunks\[2\]\.image: 'nowhere\.png' is not there"):
        prepare(RenderRequest(story, model=str(guided)))
    with_picture(story, 2, "../outside.png", "end_image")
    with pytest.raises(StoryboardError, match=r"chunks\[2\]\.end_image: .*--allow-outside"):
        prepare(RenderRequest(story, model=str(guided)))


def test_a_picture_of_the_films_size_is_taken_as_it_is_and_others_are_noted(tmp_path):
    own = read_reference_image(picture(tmp_path / "own.png"), SIZE)
    assert np.array_equal(own.pixels, np.asarray(Image.open(tmp_path / "own.png"))) and not own.notes
    wide = read_reference_image(picture(tmp_path / "wide.png", size=(256, 64)), SIZE)
    assert wide.pixels.shape == (32, 64, 3)
    assert wide.notes == ("wide.png: 256x64 is cropped to the shape of 64x32, 50% of its width is lost",)
    little = read_reference_image(picture(tmp_path / "little.png", size=(16, 8)), SIZE)
    assert little.notes == ("little.png: 16x8 is enlarged 4.0 times",)


def test_the_crop_is_told_of_while_rendering(story, guided):
    with_picture(story, 2, picture(story.parent / "wide.png", size=(256, 64)).name)
    assert any("wide.png: 256x64 is cropped" in event.note for event in render_story(story, guided))


def shades(levels: int, dtype: type) -> Image.Image:
    return Image.fromarray(np.linspace(0, levels, 64).round().astype(dtype)[None].repeat(32, 0))


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey.png", shades(255, np.uint8)),
        ("deep.png", shades(65535, np.uint16)),
        ("deep.tiff", shades(65535, np.uint16)),
        ("integers.tiff", shades(65535, np.int32)),
        ("palette.png", shades(255, np.uint8).convert("P")),
        ("print.tiff", shades(255, np.uint8).convert("CMYK")),
    ],
)
def test_grey_deep_and_printed_pictures_keep_their_shades(tmp_path, name, image):
    image.save(tmp_path / name)
    pixels = read_reference_image(tmp_path / name, SIZE).pixels.astype(int)
    assert np.abs(pixels - np.linspace(0, 255, 64)[None, :, None]).max() <= 1


def test_transparent_parts_are_white_and_noted(tmp_path):
    clear = np.zeros((32, 64, 4), np.uint8)
    clear[:, 32:, 0], clear[:, 32:, 3] = 200, 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    guide = read_reference_image(tmp_path / "clear.png", SIZE)
    assert (guide.pixels[:, :32] == 255).all() and (guide.pixels[:, 32:] == (200, 0, 0)).all()
    assert guide.notes == ("clear.png: its transparent parts are white",)


def test_a_picture_stands_as_its_camera_was_held(tmp_path):
    upright = Image.open(picture(tmp_path / "upright.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_reference_image(tmp_path / "turned.png", SIZE).pixels, np.asarray(upright))
