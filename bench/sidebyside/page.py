"""The result as text: one table, one of ratios, the targets with their verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidebyside.ledger import DIRECT, ROWS, Ledger
from sidebyside.tools import BENCH

PAGE = BENCH.parent / "docs" / "reference" / "benchmarks.md"
FULL_PERCENT = 90
FILLING = ("small", "varied", "tls", "absolute", "tunnels", "bridge", "bridge_new")  # cases in which a proxy has nothing to wait for
MARKERS = {
    "sidecar": ("<!-- measured: begin -->", "<!-- measured: end -->"),
    "gateway": ("<!-- measured gateway: begin -->", "<!-- measured gateway: end -->"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One promise: a bound on a ratio to a contender, or on Robin's own value."""

    row: str
    over: str | None  # None: the value itself
    bound: float
    at_least: bool
    aim: float | None = None


GATEWAY_TARGETS = (
    Target(row="absolute", over="Envoy", bound=1.0, at_least=True),
    Target(row="absolute", over="mitmproxy", bound=20, at_least=True),
    Target(row="tunnels", over="smokescreen", bound=0.8, at_least=True),
    Target(row="tunnel_stream", over="smokescreen", bound=0.9, at_least=True),
    Target(row="bridge", over="mitmproxy", bound=20, at_least=True),
    Target(row="bridge", over="Squid", bound=0.5, at_least=True),
    Target(row="bridge_new", over="mitmproxy", bound=5, at_least=True),
    Target(row="grant_extra", over=None, bound=2, at_least=False),
    Target(row="rules_ratio", over=None, bound=1.5, at_least=False),
    Target(row="gateway_idle", over=None, bound=60, at_least=False),
    Target(row="gateway_tunnels", over=None, bound=110, at_least=False),
    Target(row="gateway_growth", over=None, bound=16, at_least=False),
)

TARGETS = (
    Target(row="small", over="Go", bound=1.5, at_least=True, aim=2.5),
    Target(row="small", over="Envoy", bound=1.0, at_least=True, aim=1.5),
    Target(row="small", over="nginx", bound=0.35, at_least=True, aim=0.5),
    Target(row="varied", over="Go", bound=1.5, at_least=True),
    Target(row="varied", over="Envoy", bound=1.0, at_least=True),
    Target(row="varied", over="nginx", bound=0.35, at_least=True),
    Target(row="tls", over="Go", bound=1.5, at_least=True),
    Target(row="download", over="Go", bound=0.8, at_least=True),
    Target(row="upload", over="Go", bound=0.8, at_least=True),
    Target(row="idle_file", over=None, bound=40, at_least=False),
    Target(row="idle_jwtsvid", over=None, bound=50, at_least=False),
    Target(row="clients_1000", over=None, bound=70, at_least=False),
    Target(row="growth_download", over=None, bound=16, at_least=False),
    Target(row="growth_upload", over=None, bound=16, at_least=False),
    Target(row="first_answer", over=None, bound=1.0, at_least=False),
)

TITLES = {row.key: row for row in ROWS}


def table(ledger: Ledger, names: Sequence[str]) -> str:
    """Medians, a line per row that was measured."""
    columns = [DIRECT, *names]
    lines = [["", "unit", *columns]]
    for row in ROWS:
        if ledger.has(row.key):
            cells = [ledger.median(row.key, name) for name in columns]
            lines.append([row.title, row.unit, *("-" if cell is None else f"{cell:,.{row.digits}f}" for cell in cells)])
    return _grid(lines)


def ratios(ledger: Ledger, names: Sequence[str]) -> str:
    """Robin over each other contender."""
    others = [name for name in names if name != "Robin"]
    lines = [["", *(f"Robin/{name}" for name in others), "better is"]]
    for row in ROWS:
        if row.ratio and ledger.has(row.key):
            cells = [ledger.ratio(row.key, "Robin", name) for name in others]
            side = "above 1" if row.more_is_better else "below 1"
            lines.append([row.title, *("-" if cell is None else f"{cell:.2f}" for cell in cells), side])
    return _grid(lines)


def verdicts(ledger: Ledger, plane: str = "sidecar") -> str:
    """Each target with what was measured; what was not measured says so, and a disturbed turn is judged by processor time."""
    lines = [["target", "wanted", "measured", "by processor time", "verdict"]]
    for target in GATEWAY_TARGETS if plane == "gateway" else TARGETS:
        row = TITLES[target.row]
        what, unit = row.title, f" {row.unit}"
        measured, by_time = ledger.median(target.row, "Robin"), None
        if target.over is not None:
            what, unit = f"{row.title}, Robin/{target.over}", "x"
            measured = ledger.ratio(target.row, "Robin", target.over)
            by_time = ledger.ratio(f"{target.row}_cpu", target.over, "Robin")
        disturbed = shares_of_core(ledger, target.row, ("Robin", target.over)) if target.over else {}
        wanted = f"{'>=' if target.at_least else '<='} {target.bound:g}{unit}" + (f" (aim {target.aim:g}x)" if target.aim else "")
        cells = ["-" if value is None else f"{value:.2f}{unit}" for value in (measured, by_time)]
        verdict = _verdict(target, by_time) + " by processor time" if disturbed else _verdict(target, measured)
        lines.append([what, wanted, *cells, verdict])
    return _grid(lines)


def shares_of_core(ledger: Ledger, row: str, names: Sequence[str]) -> dict[str, float]:
    """Who did not get its core in a case that should fill it, and how much it got, in percent."""
    if row not in FILLING:
        return {}
    shares = {name: ledger.median(f"{row}_busy", name) for name in names}
    return {name: share for name, share in shares.items() if share is not None and share < FULL_PERCENT}


def disturbances(ledger: Ledger, names: Sequence[str]) -> str:
    """Where the proxy did not get its core: there, only processor time may be quoted."""
    found = [f"{name} {share:.0f} % in `{row}`" for row in FILLING for name, share in shares_of_core(ledger, row, names).items()]
    if not found:
        return "No proxy was kept from its core."
    return (
        f"DISTURBED: of its core, {', '.join(found)}. Something else ran there, or the load could not keep up; either takes more from "
        "the quick than from the slow. Quote the ratios by processor time, or run again on a quiet machine (or as root with --undisturbed)."
    )


def whole(ledger: Ledger, names: Sequence[str], versions: Mapping[str, str], facts: Mapping[str, str], plane: str = "sidecar") -> str:
    """The page's measured part."""
    parts = ["\n".join(f"- {name}: {fact}" for name, fact in facts.items())]
    parts.append("\n".join(f"- {name}: {version}" for name, version in versions.items()))
    parts += [table(ledger, names), disturbances(ledger, names), ratios(ledger, names), verdicts(ledger, plane)]
    if ledger.failures:
        parts.append("Failed:\n\n" + "\n".join(f"- {failure.splitlines()[0]}" for failure in ledger.failures))
    return "\n\n".join(parts) + "\n"


def _verdict(target: Target, measured: float | None) -> str:
    if measured is None:
        return "not measured"
    met = measured >= target.bound if target.at_least else measured <= target.bound
    return "pass" if met else "FAIL"


def _grid(lines: Sequence[Sequence[str]]) -> str:
    """Markdown that also reads as plain text: padded columns, numbers to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def render(line: Sequence[str]) -> str:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths)) + "|"
    return "\n".join([render(lines[0]), rule, *(render(line) for line in lines[1:])])


def write(text: str, plane: str = "sidecar") -> None:
    """Replace the measured part of the page, between its two markers; the rest is written by hand."""
    page, (begin, end) = PAGE.read_text(), MARKERS[plane]
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"bench: {PAGE.name} has lost its markers {begin} and {end}")
    PAGE.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")
