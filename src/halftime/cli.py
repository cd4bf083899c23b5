"""Arguments in, one workflow call, exit code out."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import __version__
from .errors import INTERRUPTED, USAGE, UserError
from .options import Options, parse_duration, parse_length

_MEASURING = ("diagnose", "compare", "tune", "run")
_OTHER = ("resume", "report", "verify", "techniques", "workloads", "doctor", "store")
_WITH_VALUE = ("--budget", "--margin", "--metric", "--length", "--trial-args", "--with", "--only",
               "--without", "--study", "--store", "--python", "--plan", "--price",
               "--allow-write")  # fmt: skip
_MACHINE_SAYS_NO = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_FLAGS = ("--quick", "--article", "--dry-run", "--require-gain", "--json", "--quiet")
_HELP = """\
usage: halftime [diagnose|compare|tune|run] [options] train.py [the script's own options]

Cut deep-learning training time on the hardware you have. The script is never changed.

commands
  diagnose train.py …   where the time goes, and the most each family could win (1 to 3 minutes;
                        `halftime train.py` is the same)
  tune train.py …       try what could help, prove the result is as good, write a plan (--budget)
  compare train.py …    named techniques side by side in random blocks (--with; else those of the
                        article that halftime grew from), or each once (--quick)
  run train.py …        the script under its newest plan; without one it only observes
  resume [STUDY]        go on with a study that was stopped
  report [STUDY]        the record again: --html, --markdown or --json
  verify [STUDY]        recompute every figure and word of a study from its raw files
  techniques [NAME]     what can be tried: why, best when, trade-off, source
  workloads             bundled training scripts to try halftime on
  store list|clear DIR  what `run --store DIR` has kept there, and to be rid of it
  doctor                what works on this machine

train.py may also be a notebook, `-m package.module`, a bundled workload, or a launcher after --:
  halftime tune -- torchrun --nproc-per-node 2 train.py
Options of halftime stand before the script; everything after it belongs to the script.

options
  --budget 30m          how long tune or compare may take (90s, 30m, 1h); diagnose looks for 1/20
  --quick               one run an arm: exploratory, no claims
  --dry-run             stop before the first trial, after saying what would run
  --margin 0.5pp        what the metric may lose at most: 0.5pp of a share, or 1% relative
  --metric NAME=REGEX   the held-out metric in the output, one group around the number; :min|:max
  --length 50epochs     how long you train (or 100000steps), to tell the gain at that length
  --trial-args "…"      what makes a trial short ("--epochs 1"): full runs of that short form
  --with A,B+C          the arms of compare: a comma separates arms, + stacks
  --only A,B            try these techniques alone;  --without A,B  leave these out
  --study DIR           keep the study there (else ~/.local/state/halftime); run then needs --plan
  --store DIR           let run keep a dataset's samples there for later runs (PyTorch)
  --python PATH         the script's interpreter (else the active environment's)
  --plan FILE           the plan for run
  --allow-write PATH    let trials write there
  --price 2.5           price of an hour of this machine
  --require-gain        exit 3 where there is nothing to gain
  --json                print the record as JSON
  -q, --quiet           no progress
  -h, --help · --version

exit codes: 0 done, 1 verify found a difference, 2 usage, 3 no gain (--require-gain), 4 faster but
not proven, 5 no step observed, 6 the script fails by itself, 130 interrupted; run passes the
script's own through
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run halftime; gives the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _refuse_other_systems()
        return _dispatch(words)
    except UserError as error:
        sys.stderr.write(f"halftime: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _MACHINE_SAYS_NO:
            raise
        sys.stderr.write(
            f"halftime: {error.strerror}: {error.filename or 'the study folder'}. What was "
            "acknowledged is kept; make room, or choose another place with --study DIR (and "
            "XDG_STATE_HOME for what halftime itself keeps), and go on with: halftime resume\n"
        )
        return USAGE
    except KeyboardInterrupt:
        sys.stderr.write("halftime: interrupted; nothing is left running\n")
        return INTERRUPTED


def _refuse_other_systems() -> None:
    if sys.platform != "linux":
        raise UserError(
            f"halftime measures on Linux (also WSL2, containers and Colab), not on {sys.platform}."
        )


def _dispatch(words: list[str]) -> int:
    if not words:
        return _welcome()
    if words[0] in ("-h", "--help"):
        sys.stdout.write(_HELP)
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"halftime {__version__}\n")
        return 0
    if words[0] in _OTHER and not os.path.isfile(words[0]):
        return _other(words[0], words[1:])
    name = "diagnose"
    if words[0] in _MEASURING and not os.path.isfile(words[0]):
        name, words = words[0], words[1:]
    return _measure(name, words)


def _measure(name: str, words: list[str]) -> int:
    ours, theirs = split_words(words)
    if {"-h", "--help"} & set(ours):
        sys.stdout.write(_HELP)
        return 0
    options = parse_options(ours)
    options = replace(options, compares=name == "compare", diagnoses=name == "diagnose")
    if name != "compare" and (options.arms or options.article):
        raise UserError(
            "--with and --article belong to compare: halftime compare --with cache x.py"
        )
    from . import workflow
    from .measure.command import parse_command

    command = parse_command(theirs, options.python)
    flow = workflow.run if name == "run" else workflow.measure
    try:
        return flow(command, options)
    except UserError as error:
        raise UserError(f"{error}{_misplaced(theirs)}", error.exit_code) from error


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Our options, and the script with everything after it."""
    place = 0
    while place < len(words):
        word = words[place]
        if word in ("--", "-m") or not word.startswith("-"):
            break
        place += 2 if word in _WITH_VALUE else 1
    return words[:place], words[place:]


def _misplaced(theirs: list[str]) -> str:
    ours = {*_WITH_VALUE, *_FLAGS} - {"--json", "--quiet"}
    late = [word for word in theirs[1:] if word.partition("=")[0] in ours]
    if not late:
        return ""
    return (
        f"\n{late[0]} stood after the script, so it went to the script. Options of halftime stand "
        "before it: halftime tune --budget 10m train.py"
    )


def parse_options(words: list[str]) -> Options:
    """Our options as one value. Raises UserError for what we do not know."""
    given: dict[str, list[str]] = {}
    left = list(words)
    while left:
        name, joined, value = left.pop(0).partition("=")
        name = {"-q": "--quiet"}.get(name, name)
        if name in _WITH_VALUE:
            if not joined and not left:
                raise UserError(f"{name} expects a value. Options of halftime: halftime --help")
            given.setdefault(name, []).append(value if joined else left.pop(0))
        elif name in _FLAGS and not joined:
            given[name] = []
        else:
            raise UserError(f"Unknown option {name}. Options of halftime: halftime --help")

    def last(name: str) -> str | None:
        return given[name][-1] if name in given else None

    parse_length(last("--length"))
    if "--margin" in given or "--metric" in given:
        from .trials.metric import parse_margin, parse_metric

        parse_margin(last("--margin"))
        parse_metric(last("--metric"))
    return Options(
        budget_seconds=parse_duration(last("--budget") or "30m"),
        quick="--quick" in given,
        dry_run="--dry-run" in given,
        margin=last("--margin"),
        metric=last("--metric"),
        length=last("--length"),
        trial_args=last("--trial-args"),
        arms=_arms(given.get("--with", [])),
        article="--article" in given,
        only=_names(given.get("--only", [])),
        without=_names(given.get("--without", [])),
        study=last("--study"),
        store=last("--store"),
        python=last("--python"),
        plan=last("--plan"),
        price_an_hour=_price(last("--price")),
        require_gain="--require-gain" in given,
        allow_write=tuple(map(os.path.abspath, given.get("--allow-write", []))),
        json="--json" in given,
        quiet="--quiet" in given,
    )


def _price(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise UserError(f"--price {text}: expected a number, the price of an hour.") from error


def _arms(given: list[str]) -> tuple[tuple[str, ...], ...]:
    """`A,B+C` as arms of stacked ideas. Raises UserError for a name that is none."""
    arms = [arm for part in given for arm in part.split(",") if arm]
    return tuple(_names([",".join(arm.split("+"))]) for arm in arms)


def _names(given: list[str]) -> tuple[str, ...]:
    names = tuple(name for part in given for name in part.split(",") if name)
    if names:
        from .ideas import IDEAS, find_idea

        for name in names:
            if find_idea(name) is None:
                known = ", ".join(idea.name for idea in IDEAS)
                raise UserError(f"There is no technique {name!r}. There are: {known}.")
    return names


def _other(name: str, words: list[str]) -> int:
    from . import workflow
    from .report import listings

    if {"-h", "--help"} & set(words):
        sys.stdout.write(_HELP)
        return 0
    if name == "store":
        return _store(words)
    places = [word for word in words if not word.startswith("-")]
    flags = [word for word in words if word.startswith("-")]
    place = Path(places[0]) if places else None
    if name == "report":
        forms = [flag[2:] for flag in flags if flag in ("--html", "--markdown", "--json")]
        if len(forms) != len(flags) or len(forms) > 1:
            raise UserError("report takes one of --html, --markdown, --json.")
        return workflow.report(place, forms[0] if forms else "terminal")
    if flags:
        raise UserError(f"{name} takes no option {flags[0]}. See: halftime --help")
    if name == "resume":
        return workflow.resume(place)
    if name == "verify":
        return workflow.verify(place)
    if name == "techniques":
        sys.stdout.write(listings.techniques(places[0] if places else None))
    elif name == "workloads":
        sys.stdout.write(listings.workloads())
    else:
        sys.stdout.write(listings.doctor())
    return 0


def _store(words: list[str]) -> int:
    from .report import listings

    if len(words) != 2 or words[0] not in ("list", "clear"):
        raise UserError("store expects list or clear, and a folder: halftime store list DIR")
    folder = Path(words[1])
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. It is made by: halftime run --store DIR …")
    act = listings.kept_stores if words[0] == "list" else listings.clear_stores
    sys.stdout.write(act(folder))
    return 0


def _welcome() -> int:
    from .measure.environment import describe, this_machine

    sys.stdout.write(
        "halftime diagnose train.py   where does the time go (1 to 3 minutes)\n"
        "halftime tune train.py       find and prove the fastest plan (30 minutes)\n"
        "halftime run train.py        train under that plan\n"
        f"this machine: {describe(this_machine())}\n"
    )
    return 0
