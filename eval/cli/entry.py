"""The command ``mast``: verbs that call the rooms, and nothing of their own.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. Everything heavy is imported when its verb runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mast import __version__
from mast.errors import Interrupted, UserError, unknown

if TYPE_CHECKING:
    from ..running.plan import Plan, Source

Handler = Callable[[argparse.Namespace], int]
KINDS = ("tasks", "protocols", "checkpoints", "layouts", "suites", "recipes", "augmentations", "data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    try:
        parsed = parse(arguments)
        handler: Handler = parsed.handler
        return handler(parsed)
    except UserError as error:
        return _told(" ".join(str(error).split()), error.code)
    except (KeyboardInterrupt, Interrupted) as error:
        return _told(str(error) or "interrupted; the same command goes on from here", 130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _told(f"{place}{error.strerror or error}", 1)


def _told(message: str, code: int) -> int:
    print(f"mast: error: {message}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Errors on one line, with the near name where one was misspelt."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument (.+?): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            what = wrong[1].lower() if wrong[1].isupper() else f"value of {wrong[1]}"
            raise unknown(what, wrong[2], [name.strip(" '") for name in wrong[3].split(",")])
        raise UserError(message, remedy=f"see `{self.prog} --help`", code=2)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line; where a verb takes a list of words, they may stand before, between and after options.

    Raises:
        UserError: For anything that the verb does not know.
    """
    parsed, rest = build_parser().parse_known_args(arguments)
    verb, words = parsed.verb, parsed.words
    unknown_options = rest if words is None else [word for word in rest if word.startswith("-")]
    if unknown_options:
        verb.error(f"unrecognized arguments: {' '.join(unknown_options)}")
    if words is not None:  # argparse ends a list of words at the first option
        getattr(parsed, words.dest).extend(map(words.type or str, rest))
    return parsed


def build_parser() -> argparse.ArgumentParser:
    """The parser with every verb."""
    parser = _Parser(
        prog="mast",
        description="Pretrain with Masked Augmentation Subspace Training, and measure how backbones transfer.",
        epilog="Start with `mast demo`. Every verb has its own --help with an example.",
    )
    parser.add_argument("--version", action="version", version=f"mast {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    many: dict[str, Any] = {"nargs": "+", "action": "extend"}  # `--task a b` and `--task a --task b`

    def verb(name: str, handler: Handler, summary: str, example: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(handler=handler, verb=added, words=None)
        return added

    new = verb(
        "demo",
        demo,
        "pretrain, transfer, table and report on embedded data, in minutes",
        "mast demo --out demo",
    )
    new.add_argument("--out", type=Path, default=Path("demo"), help="the run's folder (default: demo)")
    _quiet(new)

    new = verb(
        "pretrain",
        pretrain,
        "pretrain a backbone from a recipe",
        "mast pretrain imagenette96-mini method=mast views.single_fraction=0.25 --data-root data --out runs/mast5\n"
        "  torchrun --nproc-per-node 8 -m eval.cli pretrain imagenet-r50-mast5-100ep --out runs/mast5",
    )
    new.add_argument("recipe", help="a name from `mast list recipes`, or a YAML file")
    words = new.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the recipe, dots reach into parts"
    )
    new.set_defaults(words=words)
    new.add_argument("--data-root", type=Path, default=Path(), help="where the recipe's image folder lies")
    new.add_argument("--out", type=Path, required=True, help="the run's folder")
    new.add_argument("--resume", action="store_true", help="go on with the run in --out")
    new.add_argument(
        "--workers", type=int, help="decoding workers (default: this process's share of the cores)"
    )
    new.add_argument("--tensorboard", action="store_true", help="log for TensorBoard as well")
    _quiet(new)

    new = verb(
        "inspect", inspect, "say what a checkpoint file is", "mast inspect moco_v2_800ep.pth.tar --json"
    )
    _checkpoint(new)
    _json(new)

    new = verb(
        "convert",
        convert,
        "convert a checkpoint and certify that the copy computes the same",
        "mast convert backbone.safetensors --to detectron2 backbone-d2.pth",
    )
    _checkpoint(new)
    new.add_argument("output", type=Path, help="the file to write")
    new.add_argument("--to", required=True, help="torchvision, detectron2, timm, huggingface or safetensors")
    new.add_argument("--half", action="store_true", help="round the weights to half precision")
    _json(new)

    new = verb(
        "eval",
        evaluate,
        "run tasks on checkpoints, skipping what is done",
        "mast eval --checkpoint mine=backbone.safetensors random:resnet18@0 --task cifar10 caltech101_20\n"
        "    --protocol linear knn --data-root data --out runs/mine",
    )
    new.add_argument(
        "--checkpoint",
        **many,
        required=True,
        metavar="[NAME=]REF",
        help="files or random:<arch>[@seed]; random ones take over the first other one's preprocessing",
    )
    new.add_argument(
        "--against",
        **many,
        default=[],
        metavar="REF",
        help="run these as well, and compare with them on the same test examples: mast5-imagenette96, ...",
    )
    new.add_argument("--task", **many, required=True, help="names from `mast list tasks`")
    new.add_argument(
        "--protocol", **many, help="names from `mast list protocols` (default: each task's first)"
    )
    new.add_argument("--seeds", **many, type=int, help="evaluation seeds (default: 0)")
    new.add_argument(
        "--set", **many, default=[], metavar="KEY=VALUE", help="changes to the protocols' parameters"
    )
    _reading(new)
    _running(new)

    new = verb(
        "run",
        run,
        "run a suite: checkpoints x tasks x protocols x seeds",
        "mast run eval/suites/mini.yaml --data-root data --out runs/mini --dry-run",
    )
    new.add_argument("suite", help="a name from `mast list suites`, or a YAML file")
    _running(new)

    new = verb(
        "table",
        table,
        "print a table from records and published numbers",
        "mast table demo --title Results --out results.md; mast table demo --title Results --check results.md",
    )
    new.add_argument("--format", default="md", choices=("text", "md", "csv", "tex", "html"))
    new.add_argument("--published", **many, type=Path, default=[], help="more CSV files of published numbers")
    new.add_argument("--title", default="Results", help="heading of the table")
    _delivering(new)

    new = verb(
        "delta",
        delta,
        "say how much of a gap is protocol: all versions of one on the same features",
        "mast delta backbone.safetensors --task caltech101_20 --data-root data --out runs/mine",
    )
    _checkpoint(new)
    new.add_argument("--task", required=True, help="a name from `mast list tasks`")
    new.add_argument("--kind", default="linear", choices=("linear", "knn"), help="default: linear")
    new.add_argument("--protocol", **many, help="only these, the first as the one to compare with")
    new.add_argument("--data-root", type=Path, required=True, help="where data sets lie")
    new.add_argument("--out", type=Path, required=True, help="a run's folder, for its feature store")
    _json(new)

    new = verb(
        "compare",
        compare,
        "compare methods over pretraining seeds, or two checkpoints on the same examples",
        "mast compare runs/subspaces --pair mast5 vicreg --group classes=cifar10,caltech101_20",
    )
    new.add_argument(
        "--pair",
        nargs=2,
        action="append",
        required=True,
        metavar=("A", "B"),
        help="checkpoints, or methods whose checkpoints are called NAME-SEED",
    )
    new.add_argument("--metric", **many, default=[], help="default: each task's own")
    new.add_argument(
        "--group", **many, default=[], metavar="NAME=TASK,TASK", help="also compare the mean over these tasks"
    )
    new.add_argument("--format", default="md", choices=("md", "csv"))
    _delivering(new)
    new.add_argument("--figure", type=Path, help="draw the differences into this file (.svg, .png, .pdf)")

    new = verb("report", report, "write one self-contained page", "mast report runs/mini --out mini.html")
    new.add_argument("place", type=Path, metavar="DIR", help="a run's folder")
    new.add_argument("--out", type=Path, required=True, help="the HTML file")
    new.add_argument("--title", default="Transfer evaluation", help="heading of the page")
    new.add_argument("--data-root", type=Path, help="show detections on the test images that lie here")

    new = verb(
        "analyze",
        analyze,
        "analyze a MAST run: its masks, uncertainty and neighbours; or a suite against one of its checkpoints",
        "mast analyze runs/mast5 --data-root data --out runs/mast5/analysis\n"
        "  mast analyze runs/leave-one-out --against all --out runs/leave-one-out/analysis",
    )
    new.add_argument(
        "checkpoint", type=Path, help="a pretraining run's folder, or a file in it; or a suite's folder"
    )
    new.add_argument("--data-root", type=Path, help="look at the run's own images, which lie here, as well")
    new.add_argument("--images", type=int, default=2000, help="how many of them (default: 2000)")
    new.add_argument(
        "--against", metavar="NAME", help="differences of a suite's checkpoints to this one, by task"
    )
    new.add_argument("--out", type=Path, required=True, help="folder for CSV files and figures")
    _json(new)

    new = verb("list", listing, "list what there is by name", "mast list tasks")
    new.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    _json(new)

    new = verb(
        "data",
        verify,
        "download a data set, or look one over: counts, hashes, decodability, split overlap",
        "mast data verify cifar10 --data-root data",
    )
    new.add_argument("action", choices=("verify", "download"))
    new.add_argument("name", help="a data set's name, or its folder under the data root")
    new.add_argument("--data-root", type=Path, required=True, help="where data sets lie")
    _json(new)

    new = verb(
        "doctor", doctor, "say what is installed, what works, and what to do about the rest", "mast doctor"
    )
    new.add_argument("--quick", action="store_true", help="leave out running Detectron2")
    _json(new)
    return parser


def _delivering(parser: argparse.ArgumentParser) -> None:
    """What is read, and where the text made of it goes."""
    words = parser.add_argument(
        "places", nargs="+", type=Path, metavar="DIR", help="folders of runs, or record files"
    )
    parser.set_defaults(words=words)
    parser.add_argument("--out", type=Path, help="write to this file instead")
    parser.add_argument(
        "--check", type=Path, metavar="FILE", help="compare with this file; exit 1 with a diff"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layout", help="read the file in this layout, whatever it looks like")
    parser.add_argument("--arch", help="take this architecture where the file leaves a choice")
    parser.add_argument("--trust-pickle", action="store_true", help="run the code that a pickle asks for")


def _checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a file, or random:<arch>[@seed]")
    _reading(parser)


def _running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, help="where data sets lie")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; a run in it goes on")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what it will cost")
    _json(parser)
    _quiet(parser)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("layout", "arch", "trust_pickle")}


def _writable(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done for it."""
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}", remedy="give another --out", code=2
        ) from error


def _print_json(value: Any) -> int:
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))
    return 0


# -------------------------------------------------------------------------------------------------------- verbs


def demo(arguments: argparse.Namespace) -> int:
    """``mast demo``: the suite ``demo``, its table and its report."""
    arguments.suite, arguments.data_root, arguments.dry_run, arguments.json = "demo", None, False, False
    return run(arguments)


def pretrain(arguments: argparse.Namespace) -> int:
    """``mast pretrain``."""
    from mast.config import load_recipe
    from mast.train import pretrain as train

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    try:
        written = train(
            recipe,
            arguments.out,
            resume=arguments.resume,
            data_root=arguments.data_root,
            progress=not arguments.quiet,
            workers=arguments.workers,
            tensorboard=arguments.tensorboard,
        )
    except Interrupted as error:
        raise Interrupted("stopped; the same command with --resume goes on from here") from error
    if os.environ.get("RANK", "0") == "0":  # torchrun starts one of us for each device
        print(written)
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """``mast inspect``."""
    from .. import checkpoints

    passport = checkpoints.inspect(arguments.checkpoint, **_options(arguments)).to_json()
    if arguments.json:
        return _print_json(passport)
    for key, value in passport.items():
        if value not in ([], {}, ""):
            print(f"{key:<16} {_short(value)}")
    return 0


def convert(arguments: argparse.Namespace) -> int:
    """``mast convert``."""
    from ..checkpoints.conversion import convert as write

    if Path(arguments.output).exists():
        raise UserError(f"{arguments.output} exists", remedy="name another file, or remove it", code=2)
    certificate = write(
        arguments.checkpoint, arguments.output, to=arguments.to, half=arguments.half, **_options(arguments)
    )
    if arguments.json:
        return _print_json(certificate)
    print(arguments.output)
    print(f"compared with {certificate['peer']}; largest difference over largest value:")
    for precision, differences in certificate["differences"].items():
        print(f"  {precision}  " + "  ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """``mast eval``."""
    from mast import yaml

    from .. import tasks
    from ..checkpoints import references

    if arguments.data_root is None:
        raise UserError("mast eval needs --data-root", remedy="give the folder of data sets", code=2)
    _is_folder(arguments.data_root)
    changes = {}
    for change in arguments.set:
        key, sign, value = change.partition("=")
        if not sign:
            raise UserError(f"--set {change}: not of the form key=value", code=2)
        changes[key] = yaml.parse(value, f"--set {change}")
    pairs = [
        (task, protocol)
        for task in arguments.task
        for protocol in arguments.protocol or [tasks.get(task).default]
    ]
    for task, protocol in pairs:  # before torch is imported
        tasks.resolve(task, protocol, changes)
    for text in [*arguments.checkpoint, *arguments.against]:
        references.check(_named(text)[1])

    from ..running.plan import Plan, make_cell

    sources = _sources(arguments)
    cells = [
        make_cell(source.name, task, protocol, changes, seed)
        for source in sources
        for task, protocol in pairs
        for seed in arguments.seeds or [0]
    ]
    failed = _carry_out(Plan("eval", sources, tuple(cells)), arguments, arguments.data_root, "Evaluation")
    if arguments.against and not (arguments.dry_run or arguments.json):
        _against(arguments, sources)
    return failed


def _against(arguments: argparse.Namespace, sources: tuple[Source, ...]) -> None:
    """Print every checkpoint's differences to those of ``--against``, on the same examples and episodes."""
    from ..results import compare as comparing
    from ..results import records

    others = {_named(text)[1] for text in arguments.against}
    book = records.read([arguments.out])
    there = {record.checkpoint.name for record in book.counting()}
    pairs = [
        (source.name, other.name)
        for source in sources
        for other in sources
        if source.ref not in others and other.ref in others and {source.name, other.name} <= there
    ]
    if pairs:
        print(comparing.markdown(comparing.build(book, pairs)))


def _named(text: str) -> tuple[str, str]:
    """``[NAME=]REF`` in its parts; no name is an empty one."""
    match = re.match(r"([A-Za-z0-9][\w.-]*)=(.+)", text)
    return (match[1], match[2]) if match and not Path(text).exists() else ("", text)


def _is_folder(data_root: Path) -> None:
    if not data_root.is_dir():
        raise UserError(
            f"{data_root}: no such folder", remedy="give the folder of data sets as --data-root", code=2
        )


def _sources(arguments: argparse.Namespace) -> tuple[Source, ...]:
    """Checkpoints of a command line: named, or by file; controls take over the first other one's preprocessing."""
    from mast.train import PUBLISHED

    from ..running.plan import Source

    found = {}
    for text in [*arguments.checkpoint, *arguments.against]:
        name, ref = _named(text)
        path = Path(ref)
        stem = path.absolute().parent.name if path.name == PUBLISHED else path.name.partition(".")[0]
        name = name or re.sub(r"[^\w.-]+", "-", ref if ref.startswith("random:") else stem).strip("-.")
        if name in found:
            raise UserError(f"two checkpoints are named {name}", remedy="name them: NAME=FILE", code=2)
        found[name] = ref
    trained = next((name for name, ref in found.items() if not ref.startswith("random:")), "")
    given, others = _options(arguments), {_named(text)[1] for text in arguments.against}
    ordered = sorted(found.items(), key=lambda item: item[1].startswith("random:"))
    return tuple(
        Source(name, ref, like=trained)
        if ref.startswith("random:")
        else Source(name, ref, options={} if ref in others else given)
        for name, ref in ordered
    )


def run(arguments: argparse.Namespace) -> int:
    """``mast run``."""
    from .. import suites

    suite = suites.load(arguments.suite)
    data_root = arguments.data_root
    if data_root is not None:
        _is_folder(data_root)
    elif suite.scenes is None:
        raise UserError(
            f"the suite {suite.name} needs --data-root", remedy="give the folder of data sets", code=2
        )
    from ..running.folder import claim
    from ..running.local import embedded
    from ..running.plan import plan

    todo = plan(suite)
    if data_root is None:
        data_root = arguments.out / "data"
        if not arguments.dry_run:
            with claim(arguments.out, Path()):
                embedded(data_root, suite.scenes or "demo", progress=not arguments.quiet)
    if arguments.dry_run and suite.minutes and not arguments.json:
        print(f"{suite.name} as a whole took {suite.minutes:g} min on {suite.hardware}.")
    return _carry_out(todo, arguments, data_root, suite.title or suite.name)


def _carry_out(todo: Plan, arguments: argparse.Namespace, data_root: Path, title: str) -> int:
    """Run a plan, or say what it would do; then its table and its report."""
    from ..running.costs import counted, duration
    from ..running.local import Runner

    runner = Runner(todo, data_root=data_root, out=arguments.out, progress=not arguments.quiet)
    if arguments.dry_run:
        cells = runner.preview()
        if arguments.json:
            return _print_json(cells)
        for cell in cells:
            cost = "" if cell["seconds"] is None else f"  {duration(cell['seconds'])}"
            seed = f"seed {cell['seed']}"
            print(f"{cell['checkpoint']}  {cell['task']}  {cell['protocol']}  {seed}  {cell['state']}{cost}")
        to_run = [cell["seconds"] for cell in cells if cell["state"] == "to run"]
        known = [seconds for seconds in to_run if seconds is not None]
        unknown_costs = len(to_run) - len(known)
        costs = [duration(sum(known))] if known else []
        costs += [f"{unknown_costs} whose cost no record here tells"] if unknown_costs else []
        stuck = sum(cell["state"] not in ("to run", "done") for cell in cells)
        print(f"{counted(len(cells), 'cell')}, {len(to_run)} to run: {' and '.join(costs) or 'nothing'}.")
        if stuck:
            print(f"{counted(stuck, 'cell')} cannot be run as things stand, for the reason beside it.")
        return 0
    summary = runner.run()
    from ..results import records, report, tables
    from ..results.render import render

    files = []
    if summary.done + summary.skipped:
        files = report.publish(arguments.out, title=title, data_root=data_root)
    if arguments.json:
        _print_json({**vars(summary), "files": [str(path) for path in files]})
    elif files:
        print(render(tables.build(records.read([arguments.out]), title=title), "text"))
        print(f"{counted(summary.done, 'cell')} run, {summary.skipped} done before, {summary.failed} failed.")
        print("Open:")
        for path in files[:5]:
            print(f"  {path}")
        print(f"  {arguments.out / 'figures'}/")
    for message, count in summary.errors.items():
        _told(f"{message} [{counted(count, 'cell')}]", 1)
    return 1 if summary.failed else 0


def table(arguments: argparse.Namespace) -> int:
    """``mast table``."""
    from ..results import records, report, tables
    from ..results.render import render

    if arguments.out:
        _writable(arguments.out)
    book = records.read(arguments.places)
    for problem in book.problems:
        print(problem, file=sys.stderr)
    published = tables.read_published([*report.published_files(arguments.places), *arguments.published])
    built = tables.build(book, published, title=arguments.title)
    if not built.sections:
        raise UserError(
            f"no records in {', '.join(map(str, arguments.places))}", remedy="name the --out folder of a run"
        )
    text = report.standalone(built) if arguments.format == "html" else render(built, arguments.format)
    return _deliver(text, arguments)


def _deliver(text: str, arguments: argparse.Namespace) -> int:
    """Print a text, or write it to ``--out``, or hold it against ``--check``."""
    import difflib

    from mast.files import atomic_write

    if arguments.check:
        there = arguments.check.read_text(encoding="utf-8")
        if there == text:
            return 0
        before, after = there.splitlines(keepends=True), text.splitlines(keepends=True)
        sys.stdout.writelines(difflib.unified_diff(before, after, str(arguments.check), "from the records"))
        return _told(f"{arguments.check} is not what the records give", 1)
    if arguments.out:
        with atomic_write(arguments.out) as file:
            file.write(text)
        print(arguments.out)
    else:
        sys.stdout.write(text)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """``mast compare``."""
    from ..results import compare as comparing
    from ..results import records

    for path in (arguments.out, arguments.figure):
        if path:
            _writable(path)
    book = records.read(arguments.places)
    for problem in book.problems:
        print(problem, file=sys.stderr)
    found = comparing.build(
        book,
        [tuple(pair) for pair in arguments.pair],
        metrics=arguments.metric,
        groups=comparing.parse_groups(arguments.group),
    )
    if not found.lines:
        raise UserError("no task has both sides of a pair", remedy="see `mast table` for what was measured")
    if arguments.figure:
        from ..results import figures

        figures.save(figures.paired_differences(found), arguments.figure)
    return _deliver(
        comparing.markdown(found) if arguments.format == "md" else comparing.as_csv(found), arguments
    )


def delta(arguments: argparse.Namespace) -> int:
    """``mast delta``."""
    from dataclasses import asdict

    from .. import checkpoints, protocols, tasks
    from ..running import delta as room

    task = tasks.get(arguments.task)
    chosen = room.versions(task, arguments.kind)
    if arguments.protocol:
        chosen = [protocols.get(name) for name in arguments.protocol]
    rows = room.measure(
        checkpoints.load(arguments.checkpoint, **_options(arguments)),
        task,
        chosen,
        data_root=arguments.data_root,
        store=arguments.out / "features",
        progress=lambda name: print(name, file=sys.stderr, flush=True),
    )
    if arguments.json:
        return _print_json([asdict(row) for row in rows])
    print(room.render(rows), end="")
    return 0


def report(arguments: argparse.Namespace) -> int:
    """``mast report``."""
    from ..results.report import write

    _writable(arguments.out)
    write(arguments.place, arguments.out, title=arguments.title, data_root=arguments.data_root)
    print(arguments.out)
    return 0


def analyze(arguments: argparse.Namespace) -> int:
    """``mast analyze``."""
    from ..analysis.write import compare, write

    _writable(arguments.out / "masks.csv")
    if arguments.against:
        found = compare(arguments.out, arguments.checkpoint, arguments.against)
    else:
        found = write(
            arguments.checkpoint, arguments.out, data_root=arguments.data_root, images=arguments.images
        )
    if arguments.json:
        return _print_json(found)
    for path in found["files"]:
        print(path)
    if left_out := found.get("left_out"):
        print(f"left out, without {arguments.against}: {', '.join(left_out)}", file=sys.stderr)
    return 0


def listing(arguments: argparse.Namespace) -> int:
    """``mast list``."""
    from .listing import rows

    found = rows(arguments.kind)
    if arguments.json:
        return _print_json(found)
    width = max((len(row["name"]) for row in found), default=0)
    for row in found:
        print(f"{row['name']:<{width}}  {row['description']}".rstrip())
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """``mast data verify`` and ``mast data download``, which ends with a verification."""
    from ..doctor.data import verify as look

    if arguments.action == "download":
        from ..datasets import download

        arguments.data_root.mkdir(parents=True, exist_ok=True)
        download(arguments.name, arguments.data_root)
    found = look(arguments.name, arguments.data_root)
    problems = found["problems"]
    if arguments.json:
        _print_json(found)
    else:
        if found.get("against") == []:
            found["against"] = "nothing: no official numbers are known, and its folder has no SHA256SUMS"
        for key, value in found.items():
            if key != "problems" and value != []:
                print(f"{key:<10} {_short(value)}")
        for problem in problems:
            _told(problem, 1)
    return 1 if problems else 0


def doctor(arguments: argparse.Namespace) -> int:
    """``mast doctor``."""
    from ..doctor import machine as room

    found = room.report(quick=arguments.quick)
    if arguments.json:
        _print_json(found)
    else:
        print(room.render(found))
    return 0 if found["ok"] else 1


def _short(value: Any) -> str:
    """A value on one line, long lists and texts cut."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        some = ", ".join(_short(item) for item in value[:6])
        return some + (f", ... ({len(value)})" if len(value) > 6 else "")
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
