"""`predict --ground TEXT`: where in the picture is it?"""

from __future__ import annotations

import argparse
from typing import Any

from PIL import Image

from mindformers_qwenvl.cli._generation import ModelDirectory, on_screen, say
from mindformers_qwenvl.cli._inputs import check_pictures
from mindformers_qwenvl.files import check_output, replacing

__all__ = ["find"]


def find(args: argparse.Namespace) -> int:
    """Print the answer with its boxes, and draw them if --draw is given; returns 0, or 1 if there is no box."""
    [source] = args.image
    if args.draw:
        check_output(args.draw, *([] if "://" in source or source.startswith("data:") else [source]))
    check_pictures([source])
    directory = ModelDirectory(args)
    from mindformers_qwenvl.chat.ground import SETTINGS
    from mindformers_qwenvl.grounding import to_text

    given = {**SETTINGS, **({"max_new_tokens": args.max_new_tokens} if args.max_new_tokens else {})}
    config = directory.config
    network = directory.network(-(-config.seq_length // config.block_size) + 1, say)
    found = network.ground(directory.processor, source, args.ground, **given)
    for problem in found.problems:
        say(f"mindformers-qwenvl predict: {problem}")
    if not found.objects:
        say(f"mindformers-qwenvl predict: no box for {args.ground!r}")
        return 1
    print(on_screen(to_text(found.objects)))
    if args.draw:
        _draw(args, directory.processor.template.image_transform, source, found.objects)
    return 0


def _draw(args: argparse.Namespace, transform: Any, source: str, objects: Any) -> None:
    from mindformers_qwenvl.grounding import draw
    from mindformers_qwenvl.pictures.opening import open_image

    picture = open_image(source, exif_rotation=transform.exif_rotation, policy=transform.policy)
    with replacing(args.draw) as file:
        draw(picture, objects).save(file, Image.registered_extensions()[args.draw.suffix.lower()])
    say(f"boxes drawn: {args.draw}")
