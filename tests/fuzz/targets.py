"""The explicit table of fuzz targets: one file each, whose first line is its invariant."""

from types import ModuleType

from tests.fuzz import fuzz_chunks, fuzz_frames, fuzz_jwt, fuzz_requests, fuzz_responses, fuzz_settings, fuzz_workload_api

TARGETS: dict[str, ModuleType] = {
    "requests": fuzz_requests,
    "responses": fuzz_responses,
    "chunks": fuzz_chunks,
    "settings": fuzz_settings,
    "jwt": fuzz_jwt,
    "workload_api": fuzz_workload_api,
    "frames": fuzz_frames,
}
