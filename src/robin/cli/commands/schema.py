"""Print the JSON Schema (draft 2020-12) of a section of robin.yaml or of provider profiles, for editors and checks in a pipeline."""

import argparse
import json

from robin.config.robin_yaml import SECTIONS, section
from robin.config.schema import document_schema


def configure(parser: argparse.ArgumentParser) -> None:
    """The plane, or `profile`."""
    parser.usage = "robin schema PLANE | profile"
    choices = (*SECTIONS, "profile")
    parser.add_argument("plane", choices=choices, metavar="PLANE", help=f"one of {', '.join(choices)}")


def run(args: argparse.Namespace) -> int:
    """0 printed, 2 usage."""
    if args.plane == "profile":
        from robin.config.profile_schema import PROFILE  # noqa: PLC0415 - the kinds of grants load PyYAML

        schema = document_schema(PROFILE, "a provider profile")
    else:
        schema = document_schema(section(args.plane), f"the section `{args.plane}` of robin.yaml")
    print(json.dumps(schema, indent=2))
    return 0
