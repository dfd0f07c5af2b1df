"""The demonstrations of `robin up --demo NAME`: one module each, with `async def run(demo: Demo) -> None`."""
