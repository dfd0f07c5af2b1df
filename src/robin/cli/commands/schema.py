"""Print the JSON Schema (draft 2020-12) of one plane's section of robin.yaml, for editors and for checks in a pipeline."""

import argparse
import json

from robin.config.robin_yaml import SECTIONS
from robin.config.schema import document_schema


def configure(parser: argparse.ArgumentParser) -> None:
    """The plane."""
    parser.usage = "robin schema PLANE"
    parser.add_argument("plane", choices=tuple(SECTIONS), metavar="PLANE", help=f"one of {', '.join(SECTIONS)}")


def run(args: argparse.Namespace) -> int:
    """0 printed, 2 usage."""
    print(json.dumps(document_schema(SECTIONS[args.plane], f"the section `{args.plane}` of robin.yaml"), indent=2))
    return 0
