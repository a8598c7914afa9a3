"""The command `paper`: tables, figures and comparisons of finished sweeps, on stdout and as files."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from analysis.errors import AnalysisError
from sweeps import settings as places
from sweeps.errors import SweepError
from sweeps.settings import Settings

if TYPE_CHECKING:
    from analysis.declared import Declared
    from analysis.figures import Size
    from analysis.grid import Grid
    from analysis.layout import Style
    from analysis.runs import Store
    from analysis.searches import SearchResult
    from analysis.tables import Table

    Result: TypeAlias = Grid | SearchResult | Declared

log = logging.getLogger(__name__)

Select = Literal["last", "best"]
SIZES = ("column", "talk")
"""Of `analysis.figures.SIZES`, which the command's help does not wait for."""
TABLE_FILES = {"md": "table.md", "latex": "table.tex", "csv": "table.csv", "html": "table.html"}


@dataclass(frozen=True)
class Outputs:
    """What `outputs` made: the table as Markdown, and every file written, the Markdown table first."""

    table_text: str
    files: tuple[Path, ...]


def outputs(experiment_name: str, profile_name: str, settings: Settings, folder: Path) -> Outputs:
    """Writes table and figure to `folder`/<paper>/<figure>/<profile>/; no file is ever seen half written.

    Raises:
        AnalysisError: nothing swept, a store that cannot be read, or a report that cannot be made.
        SweepError: a faulty experiment or profile file.
    """
    from analysis import runs

    result = load(runs.connect(settings), experiment_name, profile_name)
    texts = table_texts(result)
    where = place(folder, result)
    files = [write(where / TABLE_FILES[kind], texts[kind].encode()) for kind in TABLE_FILES]
    if drawable(result):
        files += figure_files(result, where)
    return Outputs(texts["md"], tuple(files))


def load(
    store: Store, name: str, profile_name: str, metrics: Sequence[str] = (), select: Select | None = None
) -> Result:
    """An experiment's results: of a grid, of a search, or the words that its methods declare."""
    from analysis import declared, grid, searches
    from sweeps import spec

    profile = spec.load_profile(profile_name)
    experiment = spec.load(name, profile)
    sweep = store.sweep(experiment.name, profile.name)
    if experiment.file.search is not None:
        return searches.load(experiment, profile.name, sweep, store, metrics, select)
    if experiment.file.report.kind == "declared":
        return declared.load(experiment, profile.name, sweep, metrics)
    return grid.load(experiment, profile.name, sweep, store, metrics, select)


def table_of(result: Result, baseline: str = "") -> tuple[Table, list[dict[str, Any]]]:
    """The table, and its rows for machines.

    Raises:
        AnalysisError: a baseline that the table's rows cannot be compared with.
    """
    from analysis import declared, grid, searches, tables
    from analysis.errors import ReportError

    if baseline and not isinstance(result, grid.Grid):
        noun = "a search" if isinstance(result, searches.SearchResult) else "a table of words"
        raise ReportError(f"{result.name}: {noun} compares no rows with {baseline!r}; leave out --arrows")
    if isinstance(result, searches.SearchResult):
        return searches.table(result), searches.rows(result)
    if isinstance(result, declared.Declared):
        return declared.table(result), declared.rows(result)
    return tables.table(result, baseline), tables.rows(result)


def table_texts(result: Result, style: Style | None = None, baseline: str = "") -> dict[str, str]:
    """The table in every format.

    Raises:
        AnalysisError: as for `table_of`.
    """
    from analysis import tables

    table, rows = table_of(result, baseline)
    texts = {name: write(table, style or tables.PLAIN) for name, write in tables.FORMATS.items()}
    return texts | {"csv": tables.csv_text(rows)}


def drawable(result: Result) -> bool:
    from analysis import figures, grid, searches

    return isinstance(result, grid.Grid | searches.SearchResult) and figures.kind_of(result) in figures.kinds()


def figure_files(result: Result, where: Path, size: Size = "column") -> list[Path]:
    """The figure's files, named after its kind and, where it is not for a column, its size.

    Raises:
        AnalysisError: a kind that nothing draws.
    """
    from analysis import declared, figures
    from analysis.errors import ReportError

    if isinstance(result, declared.Declared):
        raise ReportError(
            f"{result.name}: a table of words has no figure; "
            f"`paper table {result.name} --profile {result.profile}` shows it"
        )
    figure, kind = figures.draw(result), figures.kind_of(result)
    name = kind if size == "column" else f"{kind}-{size}"
    return [
        write(where / f"{name}.{extension}", figures.render(figure, extension, size)) for extension in figures.FORMATS
    ]


def missing(result: Result) -> int:
    """Trials (in a search and in a table of words: cells) that should have a value and have none."""
    from analysis import grid

    if not isinstance(result, grid.Grid):
        return len(result.missing)
    return len(result.holes.drop_duplicates([*result.axes, "seed"]))


def place(folder: Path, result: Result) -> Path:
    return folder / result.name / result.profile


def write(path: Path, content: bytes) -> Path:
    """The file, replaced in one step.

    Raises:
        AnalysisError: the folder cannot be written.
    """
    from analysis.errors import ReportError

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ReportError(f"{path}: cannot be written: {error.strerror}; choose another folder with --out") from error
    return path


# --- command line ----------------------------------------------------------------------------------------------------

EXAMPLES: Mapping[str, tuple[str, str]] = {
    "table": (
        "print an experiment's table and write it as Markdown, LaTeX, CSV and HTML",
        "paper table cudfkd/fig9 --profile demo\npaper table 'cudfkd/*' --profile demo --format latex --select last\n"
        "paper table cudfkd/table2 --format latex --arrows DAFL --siunitx --standalone",
    ),
    "figure": (
        "draw an experiment's figure as PNG, PDF and SVG and print the files' paths",
        "paper figure cudfkd/fig9 --profile demo --out figures\npaper figure cudfkd/fig9 --profile demo --size talk",
    ),
    "diff": (
        "print our values, the printed ones and the differences",
        "paper diff cudfkd/fig9 --profile demo --metric test/acc1_pct",
    ),
}
CLAIMS = (
    "check the papers' claims against finished sweeps and against the papers' own values",
    "paper claims --profile demo --paper cudfkd\npaper claims C06 P01 --format csv",
)
REPORT = (
    "write one HTML file: tables, figures, comparisons, failures, provenance and claims, nothing fetched from a network",
    "paper report --profile demo\npaper report cudfkd/fig9 'cudfkd/table*' --profile demo --out results.html",
)
DIFF_FORMATS = ("md", "csv")


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="paper",
        description="Tables, figures and comparisons made from finished sweeps.",
        epilog="example:\n  paper table cudfkd/fig9 --profile demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (text, example) in EXAMPLES.items():
        lines = "\n".join(f"  {line}" for line in example.splitlines())
        ending = f"exit codes: 0 done, 1 cells are missing, 2 bad usage or nothing to show\n\nexample:\n{lines}"
        verb = verbs.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=ending,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_argument(
            "experiments", nargs="+", metavar="EXPERIMENT", help="name, glob, `all`, or the path of your own file"
        )
        verb.add_argument("--profile", default="paper", help="scale at which it was swept (default: %(default)s)")
        verb.add_argument(
            "--metric",
            action="append",
            default=[],
            metavar="NAME",
            help="show this metric instead of the file's; may be repeated",
        )
        verb.add_argument("--select", choices=("last", "best"), help="epoch that counts, instead of the file's")
        output = verb.add_mutually_exclusive_group()
        output.add_argument("--json", action="store_true", help="print JSON for machines")
        if name == "table":
            output.add_argument(
                "--format", choices=tuple(TABLE_FILES), default="md", help="format on stdout (default: %(default)s)"
            )
            style_options(verb)
        if name == "figure":
            verb.add_argument(
                "--size",
                choices=SIZES,
                default="column",
                help="for a column or the width of a page, or enlarged to a slide's width (default: %(default)s)",
            )
        if name == "diff":
            output.add_argument(
                "--format", choices=DIFF_FORMATS, default="md", help="format on stdout (default: %(default)s)"
            )
        if name != "diff":
            verb.add_argument(
                "--out", type=Path, metavar="DIR", help="folder for the files (default: paper/ beside .sweeps)"
            )
    claims_parser(verbs)
    report_parser(verbs)
    return root


def style_options(verb: argparse.ArgumentParser) -> None:
    """How `table` writes; an option that means nothing in one of the formats leaves that one as it is."""
    verb.add_argument(
        "--spread",
        choices=("pm", "subscript"),
        default="pm",
        help="std over seeds as 93.50 ± 0.71 or as a subscript (default: %(default)s)",
    )
    verb.add_argument(
        "--arrows", metavar="ROW", default="", help="in parentheses the difference to this row, e.g. 75.64 (↑0.72)"
    )
    verb.add_argument(
        "--links", action="store_true", help="Markdown, LaTeX: values link to their runs; HTML always does"
    )
    verb.add_argument(
        "--siunitx", action="store_true", help="LaTeX: align numbers at the point, in siunitx's S columns"
    )
    verb.add_argument("--standalone", action="store_true", help="LaTeX: a document of its own, not a part for \\input")


def own_verb(verbs: Any, name: str, about: tuple[str, str], codes: str) -> argparse.ArgumentParser:
    """A verb with exit codes of its own; `about` is what it does, and an example."""
    text, example = about
    lines = "\n".join(f"  {line}" for line in example.splitlines())
    verb: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"{codes}\n\nexample:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return verb


def claims_parser(verbs: Any) -> None:
    """The verb whose arguments are claims, not experiments."""
    codes = "exit codes: 0 done, whatever the verdicts; 1 runs are missing that would settle a claim; 2 bad usage"
    verb = own_verb(verbs, "claims", CLAIMS, codes)
    verb.add_argument("ids", nargs="*", metavar="CLAIM", help="ids such as C06; default: all")
    verb.add_argument("--paper", choices=("cudfkd", "pckd"), help="the claims of one paper")
    verb.add_argument("--profile", default="paper", help="scale at which it was swept (default: %(default)s)")
    output = verb.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON for machines")
    output.add_argument("--format", choices=DIFF_FORMATS, default="md", help="format on stdout (default: %(default)s)")


def report_parser(verbs: Any) -> None:
    """The verb that makes one page of many experiments."""
    codes = "exit codes: 0 done, 1 cells are missing or were never swept, 2 bad usage, or something cannot be shown"
    verb = own_verb(verbs, "report", REPORT, codes)
    verb.add_argument(
        "experiments",
        nargs="*",
        default=["all"],
        metavar="EXPERIMENT",
        help="name, glob, `all` (default), or the path of your own file",
    )
    verb.add_argument("--profile", default="paper", help="scale at which it was swept (default: %(default)s)")
    verb.add_argument(
        "--out", type=Path, metavar="FILE", help="the file (default: report-PROFILE.html in paper/ beside .sweeps)"
    )
    verb.add_argument("--json", action="store_true", help="print JSON for machines")


def report_verb(args: argparse.Namespace, settings: Settings) -> int:
    """Writes the page, prints its path, and returns the exit code."""
    from analysis import report as pages
    from analysis import runs
    from sweeps import spec

    try:
        profile = spec.load_profile(args.profile)
        name = f"report-{profile.name}.html"
        path = settings.home.parent / "paper" / name if args.out is None else args.out
        if path.is_dir():
            return report([f"{path}: is a folder; --out takes the name of a file, e.g. {path / name}"])
        made = pages.make(spec.find(args.experiments), runs.connect(settings), args.profile)
        write(path, made.html.encode())
    except (AnalysisError, SweepError) as error:
        return report(error.faults)
    if args.json:
        content = {"file": str(path), "profile": profile.name, "experiments": made.rows}
        sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(f"{path}\n")
    if made.missing:
        sys.stderr.write(f"missing: {made.missing} cells have no value, or not all of theirs\n")
    return report(made.faults) if made.faults else 1 if made.missing else 0


def claims_verb(args: argparse.Namespace, settings: Settings) -> int:
    """Prints the verdicts and returns the exit code."""
    from analysis import claims, runs, tables
    from analysis.claims import _report
    from sweeps import spec

    try:
        wanted = claims.find(args.ids, args.paper)
        profile = spec.load_profile(args.profile)
        pairs = _report.judged(wanted, runs.connect(settings), profile)
    except (AnalysisError, SweepError) as error:
        return report(error.faults)
    if args.json:
        content = _report.objects(pairs, profile.name)
        sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif args.format == "csv":
        sys.stdout.write(tables.csv_text(_report.rows(pairs, profile.name)))
    else:
        sys.stdout.write(tables.markdown(_report.table(pairs, profile.name)))
    waiting = sum(mine.waits for mine, _ in pairs)
    if waiting:
        sys.stderr.write(f"missing: {waiting} of the claims asked for wait for runs\n")
    return 1 if waiting else 0


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    settings = places.load()
    if args.verb == "claims":
        return claims_verb(args, settings)
    if args.verb == "report":
        return report_verb(args, settings)
    faults: list[str] = []
    holes = 0
    answers: list[Any] = []
    try:
        from analysis import runs
        from sweeps import spec

        found = spec.find(args.experiments)
        spec.load_profile(args.profile)
        store = runs.connect(settings)
    except (AnalysisError, SweepError) as error:
        return report(error.faults)
    for name in found:
        try:
            result = load(store, name, args.profile, args.metric, args.select)
            answers.append(answer(result, args, settings))
            holes += missing(result)
        except (AnalysisError, SweepError) as error:
            faults += error.faults
    if args.json:
        sys.stdout.write(json.dumps(answers, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif answers:
        sys.stdout.write("\n".join(answers))
    if holes and not faults:
        sys.stderr.write(f"missing: {holes} of the trials asked for have no value\n")
    return report(faults) if faults else 1 if holes else 0


def answer(result: Result, args: argparse.Namespace, settings: Settings) -> Any:
    """What one experiment adds to stdout: text, or an object with --json. Writes the files of `table` and `figure`."""
    head = {"experiment": result.name, "profile": result.profile}
    where = place(settings.home.parent / "paper" if args.verb == "diff" or args.out is None else args.out, result)
    if args.verb == "diff":
        return diff_answer(result, head) if args.json else diff_text(result, args.format)
    if args.verb == "figure":
        files = [str(path) for path in figure_files(result, where, args.size)]
        return head | {"files": files} if args.json else "".join(f"{path}\n" for path in files)
    texts = table_texts(result, style_of(args), args.arrows)
    files = [str(write(where / TABLE_FILES[kind], texts[kind].encode())) for kind in TABLE_FILES]
    if args.json:
        return head | {"remarks": list(result.remarks), "rows": table_of(result)[1], "files": files}
    return texts[args.format]


def style_of(args: argparse.Namespace) -> Style:
    from analysis.layout import Style

    return Style(args.spread, args.siunitx, args.standalone, args.links)


def diff_answer(result: Result, head: Mapping[str, Any]) -> dict[str, Any]:
    """Ours beside the printed values, for machines."""
    from analysis import declared, diff

    result = comparable(result)
    if isinstance(result, declared.Declared):
        return {**head, "comparable": True, "remarks": list(result.remarks), "rows": declared.diff_rows(result)}
    return {**head, "comparable": result.comparable, "remarks": list(result.remarks), "rows": diff.rows(result)}


def diff_text(result: Result, kind: str = "md") -> str:
    from analysis import declared, diff, tables

    result = comparable(result)
    if kind == "csv":
        return tables.csv_text(
            declared.diff_rows(result) if isinstance(result, declared.Declared) else diff.rows(result)
        )
    found = declared.diff(result) if isinstance(result, declared.Declared) else diff.table(result)
    return tables.markdown(found)


def comparable(result: Result) -> Grid | Declared:
    """
    Raises:
        AnalysisError: a search, which no paper prints.
    """
    from analysis import searches
    from analysis.errors import ReportError

    if isinstance(result, searches.SearchResult):
        raise ReportError(f"{result.name}: a search has no printed values; `paper table {result.name}` shows it")
    return result


def report(faults: Sequence[str]) -> int:
    """One line on stderr for each fault; returns the exit code of bad usage."""
    for fault in faults:
        sys.stderr.write(f"error: {fault}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
