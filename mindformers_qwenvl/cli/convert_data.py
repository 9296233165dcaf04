"""Convert LLaVA, ShareGPT and COCO data to the JSON that Qwen-VL is fine-tuned with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mindformers_qwenvl.cli._interrupt import unwound_by_sigterm
from mindformers_qwenvl.datasets.convert.converter import FORMATS, convert_file, dropped_file

EPILOG = """examples:
  # LLaVA-Instruct; --image_location holds train2014/COCO_train2014_000000442786.jpg, ...
  mindformers-qwenvl convert-data --data_path detail_23k.json --image_location coco --output_path train.json

  # LLaVA-1.5 mix: coco/, gqa/, ocr_vqa/, textvqa/ and vg/ are in --image_location
  mindformers-qwenvl convert-data --data_path llava_v1_5_mix665k.json --image_location data --output_path train.jsonl

  # boxes of COCO, scaled to 0-999: "Find every dog in the picture." <ref>dog</ref><box>(588,499),(725,789)</box>
  mindformers-qwenvl convert-data --data_path instances_train2017.json --image_location coco --output_path boxes.json

input: a JSON list, JSON Lines or a COCO object; each record is one of
  {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", ...}]}
  {"images": ["a.jpg", "b.jpg"], "messages": [{"role": "user", "content": "<image><image>Compare."}, ...]}
  {"messages": [...], "images": [...], "objects": {"ref": [...], "bbox": [...]}}, with <ref-object> and <bbox> in texts
  {"file_name": "a.jpg", "bbox": [x, y, width, height], "sentences": ["the dog on the left"]}

Records that cannot be used (a missing picture, an unknown role, video, ...) are left out; the summary counts them, and
OUTPUT.dropped.jsonl lists each. In the YAML, set `dataset_dir` to the folder given as --image_location.

exit code: 0; 1 if the input cannot be read or no sample is left; 2 for bad usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command. The first five are those of the old data_convert.py."""
    parser.add_argument("--data_path", required=True, type=Path, metavar="FILE", help="the file to convert")
    parser.add_argument(
        "--image_location",
        type=Path,
        metavar="DIR",
        help="folder of the pictures; paths are written relative to it (default: the folder of --data_path)",
    )
    parser.add_argument(
        "--output_path", required=True, type=Path, metavar="FILE", help="OUT.json, or OUT.jsonl for JSON Lines"
    )
    parser.add_argument(
        "--user_role_name", default="user", metavar="NAME", help="role of the user in the output (default: user)"
    )
    parser.add_argument(
        "--assistant_role_name", default="assistant", metavar="NAME", help="role of the assistant (default: assistant)"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="format of --data_path (default: auto, which looks at each record)",
    )
    parser.add_argument(
        "--box_format",
        choices=["xywh", "xyxy"],
        default="xywh",
        help="boxes as left, top, width, height (default) or as two corners",
    )
    parser.add_argument("--box_prompt", metavar="TEXT", help="the question for boxes, with {label} in it")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(usage=parser.error)


@unwound_by_sigterm()
def run(args: argparse.Namespace) -> int:
    """Convert and print the summary. Returns 0; faults of the input as a whole are raised as ValueError or OSError."""
    if args.user_role_name == args.assistant_role_name:
        args.usage("--user_role_name and --assistant_role_name must differ")
    if args.box_prompt is not None and "{label}" not in args.box_prompt:
        args.usage("--box_prompt must contain {label}")
    from tqdm import tqdm

    total = args.data_path.stat().st_size if args.data_path.is_file() else None
    with tqdm(total=total, unit="B", unit_scale=True, desc="converting", disable=args.quiet, mininterval=0.2) as bar:
        report = convert_file(
            args.data_path,
            args.image_location or args.data_path.parent,
            args.output_path,
            user_role_name=args.user_role_name,
            assistant_role_name=args.assistant_role_name,
            format=args.format,
            box_format=args.box_format,
            prompt=args.box_prompt,
            progress=lambda count: bar.update(count - bar.n) if count > bar.n else None,
        )
    print(report)
    if report.dropped:
        print(f"{dropped_file(args.output_path)} lists what was left out", file=sys.stderr)
    return 0
