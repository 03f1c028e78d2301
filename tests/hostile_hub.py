"""A process of its own that pulls from a hub that lies: the hub's library reads its variables when it is imported."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import yaml

from tests.fake_hub import FakeHub

REPOSITORY = "someone/tiny-wan"
UP = "../../../../outside"
FILE = {"type": "file", "path": "model.safetensors", "size": 4, "oid": "ab" * 20}
LIES = {
    "etag": {"headers": {"ETag": f'"{UP}"'}},
    "linked etag": {"headers": {"X-Linked-ETag": UP}},
    "commit": {"headers": {"X-Repo-Commit": UP}},
    "revision": {"sha": UP},
    "absolute revision": {"sha": "/tmp/outside"},
    "file name": {"tree": json.dumps([{**FILE, "path": f"vae/{UP}/model.safetensors"}])},
    "absolute file name": {"tree": json.dumps([{**FILE, "path": "/vae/config.json"}])},
    "hash": {"tree": json.dumps([{**FILE, "lfs": {"oid": UP, "size": 4, "pointerSize": 1}}])},
    "size": {"tree": json.dumps([{**FILE, "size": 10**400}])},
    "no size": {"tree": json.dumps([{**FILE, "size": "four"}])},
    "entry": {"tree": "[7]"},
    "no listing": {"tree": "{}"},
    "depth": {"tree": "[" * 200_000},
    "number": {"tree": "[" + "9" * 9000 + "]"},
    "no text": {"tree": "\ud83e".encode("utf-8", "surrogatepass").decode("utf-8", "replace") + "}"},
    "pages": {"link": True},
    "endless": {"endless": True},
}


def lie(folder: Path) -> dict[str, str]:
    """Lists and pulls a model from a hub that lies, a lie at a time; returns the sentences."""
    hub = FakeHub(folder / "source", REPOSITORY)
    os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(folder / "cache" / "hub")}
    from blockvid_cli.errors import MissingModelError
    from blockvid_cli.models.card import find_card
    from blockvid_cli.models.hub import list_downloads, pull
    from tests import tiny_wan

    source = tiny_wan.model(folder / "source", "original")
    card = yaml.safe_load((source / "card.yaml").read_text())
    for part in ("transformer", "vae", "text"):
        card[part]["repository"] = REPOSITORY
    (folder / "card").mkdir()
    (folder / "card" / "card.yaml").write_text(yaml.safe_dump(card))
    model, sentences = find_card(str(folder / "card")), {}
    for number, (name, lies) in enumerate(LIES.items()):
        hub.lies, hub.commit = lies, f"{number:040x}"  # the library asks for the listing of a commit only once
        for act in (list_downloads, pull):
            try:
                sum(file.bytes for file in act(model) or ())
                sentence = "nothing was wrong"
            except MissingModelError as error:
                sentence = str(error)
            sentences[f"{name}: {'pull' if act is pull else 'list'}"] = sentence
    hub.close()
    return sentences


if __name__ == "__main__":
    print(json.dumps(lie(Path(sys.argv[1]))))
