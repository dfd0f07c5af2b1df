"""The explicit table of fuzz targets: one file each, whose first line is its invariant."""

from types import ModuleType

from tests.fuzz import (
    fuzz_chunks,
    fuzz_dns,
    fuzz_frames,
    fuzz_gateway,
    fuzz_jwt,
    fuzz_kube,
    fuzz_passports,
    fuzz_requests,
    fuzz_responses,
    fuzz_settings,
    fuzz_token_answers,
    fuzz_workload_api,
)

TARGETS: dict[str, ModuleType] = {
    "requests": fuzz_requests,
    "responses": fuzz_responses,
    "chunks": fuzz_chunks,
    "settings": fuzz_settings,
    "jwt": fuzz_jwt,
    "workload_api": fuzz_workload_api,
    "frames": fuzz_frames,
    "passports": fuzz_passports,
    "kube": fuzz_kube,
    "token_answers": fuzz_token_answers,
    "gateway": fuzz_gateway,
    "dns": fuzz_dns,
}
