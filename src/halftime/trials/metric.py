"""The held-out metric: its source, its direction and its resolution (measurement.md §5)."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from ..errors import UserError
from ..records import Run

_HIGHER = ("acc", "f1", "auc", "auroc", "bleu", "iou", "dice")
_LOWER, _LOWER_AT_THE_END = ("ppl", "err", "wer", "cer", "nll"), ("mse", "mae", "mape", "msle")
# Long enough to be told within a longer word.
_HIGHER_WITHIN = ("accuracy", "precision", "recall", "score")
_LOWER_WITHIN = ("loss", "perplexity", "error", "entropy")
_HELD_OUT = re.compile(r"\b(test|val|valid|validation|eval|dev|held[- ]?out)", re.IGNORECASE)
_HELD_OUT_WORD = re.compile(r"^(test|val|valid|eval|dev)")
_WHOLE_LOSS = "val_loss"
_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_PRINTED = re.compile(
    rf"(?P<name>[A-Za-z_][\w@-]*)(?:[ \t]+(?:is|of|on[\w ]*))?[ \t]*[:=]?[ \t]*"
    rf"(?P<value>{_NUMBER})(?:[ \t]*/[ \t]*(?P<out_of>\d+))?(?P<percent>[ \t]*%)?"
)
_SCORES_LOWER = ("log_loss", "mean_squared_error", "mean_absolute_error")

_FEW_HELD_OUT = 1000
"""Of more samples than these, one is under a quarter of the default margin."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A held-out metric that every run of a study reports the same way."""

    name: str
    source: str
    higher_is_better: bool
    is_share: bool
    """A share from 0 to 1, whose margin is in percentage points; else the margin is relative."""
    resolution: float
    pattern: str | None = None

    def describe(self) -> str:
        direction = "higher is better" if self.higher_is_better else "lower is better"
        return f"{self.name} from {self.source}, {direction}, resolution {self.resolution:.2g}"


@dataclass(frozen=True, kw_only=True)
class Margin:
    """δ, set before the first run. value: a share (0.005 is 0.5 pp) or relative (0.01 is 1 %)."""

    value: float
    unit: str

    def absolute(self, metric: Metric, baseline: Sequence[float]) -> float:
        """δ in the metric's own unit."""
        if self.unit == "pp":
            return self.value
        if self.unit == "%":
            return self.value * abs(statistics.fmean(baseline))
        return 0.005 if metric.is_share else 0.01 * abs(statistics.fmean(baseline))


def parse_margin(text: str | None) -> Margin:
    """`0.5pp`, `1%`, or None for the default. Raises UserError for anything else."""
    if text is None:
        return Margin(value=0.0, unit="default")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(pp|%)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"--margin {text}: expected points of a share like 0.5pp, or 1% relative.")
    return Margin(value=float(match[1]) / 100, unit=match[2])


def find_metric(runs: Sequence[Run], asked: str | None) -> Metric | None:
    """The metric that all of these baseline runs report, by the order of preference; or None.

    Asked for, then metric functions, then an accuracy printed as a fraction, then the mean loss
    under evaluation, then any other number printed of a held-out set.
    """
    metric = parse_metric(asked)
    if metric is not None:
        return _as_reported(metric, runs)
    if all(run.reported_metrics for run in runs):
        names = [name for name, _ in runs[0].reported_metrics]
        shares = [name for name in names if direction_of(name) == "higher"]
        losses = [name for name in names if direction_of(name) == "lower"]
        graded = shares or losses or names
        held_out = [name for name in graded if _HELD_OUT.search(name)]
        # Of a model with several outputs the loss of all of them, not that of the last.
        name = _WHOLE_LOSS if _WHOLE_LOSS in held_out else (held_out or graded)[-1]
        reported = [pair for run in runs for pair in run.reported_metrics]
        values = [value for known, value in reported if known == name and value is not None]
        lower = name in _SCORES_LOWER or direction_of(name) == "lower"
        return Metric(
            name=name,
            source="the script's own metric function",
            higher_is_better=not lower,
            is_share=not lower,
            resolution=0.0 if lower else _grain(values),
        )
    printed = [_printed_metrics(_output(run)) for run in runs]
    common = [name for name in printed[0] if all(name in other for other in printed)]
    fractions = [name for name in common if printed[0][name][0].source.endswith("fraction")]
    if fractions:
        return printed[0][fractions[-1]][0]
    if all(run.evaluation_losses for run in runs):
        return Metric(
            name="held-out loss",
            source="the mean loss under evaluation",
            higher_is_better=False,
            is_share=False,
            resolution=0.0,
        )
    return printed[0][common[-1]][0] if common else None


def direction_of(name: str) -> str:
    """Whether `higher` or `lower` is better of a metric of that name; '' where it does not say.

    Of an output's own loss, as `map_loss`, the loss decides.
    """
    whole = name.lower()
    words = set(re.findall(r"[a-z0-9]+", whole))
    words |= set(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()))
    words |= {_HELD_OUT_WORD.sub("", word) for word in words}
    words |= {word.rstrip("0123456789") for word in words}  # acc1, mAP50, bleu4
    ends = any(word.endswith(_LOWER_AT_THE_END) for word in words)
    if words & {*_LOWER} or ends or any(word in whole for word in _LOWER_WITHIN):
        return "lower"
    # Of a longer word the end counts: top1acc, miou, rocauc. A map is one by itself alone.
    ends = any(word.endswith(_HIGHER) or word.startswith("f1") for word in words)
    if words & {"map", "r2"} or ends or any(word in whole for word in _HIGHER_WITHIN):
        return "higher"
    return ""


def value_of(metric: Metric, run: Run) -> float | None:
    """What a run reports last of the metric; None where it does not."""
    if metric.source.startswith("the mean loss"):
        return run.evaluation_losses[-1] if run.evaluation_losses else None
    if metric.source.startswith("the script's own"):
        values = [value for name, value in run.reported_metrics if name == metric.name]
        return values[-1] if values else None
    if metric.pattern is not None:
        found = re.findall(metric.pattern, _output(run))
        if not found:
            return None
        last = found[-1] if isinstance(found[-1], str) else found[-1][0]
        return _number_in(last)
    known = _printed_metrics(_output(run)).get(metric.name)
    return known[1] if known else None


def _number_in(text: str) -> float | None:
    """The number that a pattern caught; a percentage is the share that it stands for."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _as_reported(metric: Metric, runs: Sequence[Run]) -> Metric:
    """A metric that was asked for, as these runs print it. Raises UserError where none does."""
    values = [value_of(metric, run) for run in runs]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise UserError(
            f"--metric {metric.name}: the pattern {metric.pattern!r} finds no number in what the "
            "script prints. Try it on the script's own output first."
        )
    caught = re.findall(metric.pattern or "", _output(runs[0]))[-1]
    text = caught if isinstance(caught, str) else caught[0]
    finest = _resolution(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    share = metric.higher_is_better and all(0 <= value <= 1 for value in known)
    return replace(metric, is_share=share, resolution=finest)


def parse_metric(text: str | None) -> Metric | None:
    """`NAME=REGEX[:min|max]`; the first group of the pattern is the number. Raises UserError."""
    if text is None:
        return None
    name, separator, pattern = text.partition("=")
    direction = "max"
    for ending in (":min", ":max"):
        if pattern.endswith(ending):
            pattern, direction = pattern[: -len(ending)], ending[1:]
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(
            f"--metric {text}: the pattern is not a regular expression ({error})."
        ) from error
    if not separator or not name or groups < 1:
        raise UserError(
            f"--metric {text}: expected NAME=REGEX[:min|max] with one group around the number, "
            r"for example accuracy='accuracy ([\d.]+)':max"
        )
    return Metric(
        name=name,
        source="the pattern given by --metric",
        higher_is_better=direction == "max",
        is_share=False,
        resolution=0.0,
        pattern=pattern,
    )


def _printed_metrics(text: str) -> dict[str, tuple[Metric, float]]:
    """Held-out numbers in the output, the last of each name."""
    found: dict[str, tuple[Metric, float]] = {}
    for line in text.splitlines():
        if not _HELD_OUT.search(line):
            continue
        start = _HELD_OUT.search(line)
        for match in _PRINTED.finditer(line, start.start() if start else 0):
            direction = direction_of(match["name"])
            if not direction:
                continue
            higher = direction == "higher"
            value, resolution = float(match["value"]), _resolution(match["value"])
            source = "the script's output"
            if match["out_of"] and int(match["out_of"]) > 0:
                value, resolution = value / int(match["out_of"]), 1 / int(match["out_of"])
                source = "the script's output, a fraction"
            elif match["percent"]:
                value, resolution = value / 100, resolution / 100
            share = higher and -1 <= value <= 1
            metric = Metric(
                name=match["name"],
                source=source,
                higher_is_better=higher,
                is_share=share,
                resolution=resolution,
            )
            found[match["name"]] = (metric, value)
    return found


def _resolution(number: str) -> float:
    decimals = number.partition(".")[2]
    return 10.0 ** -len(decimals.split("e")[0]) if decimals else 1.0


def _grain(values: Sequence[float]) -> float:
    """The step of a share of few held-out samples, 1/n, from its values; 0 where n is not small.

    values: such as trainers log, in single precision.
    """
    fractions = [Fraction(value).limit_denominator(_FEW_HELD_OUT) for value in values]
    if any(abs(float(f) - value) > 1e-7 for f, value in zip(fractions, values, strict=True)):
        return 0.0
    samples = math.lcm(*(fraction.denominator for fraction in fractions))
    return 1 / samples if 1 < samples <= _FEW_HELD_OUT else 0.0


def _output(run: Run) -> str:
    try:
        return (
            (Path(run.folder) / "stdout.txt").read_text("utf-8", "replace")
            + "\n"
            + (Path(run.folder) / "stderr.txt").read_text("utf-8", "replace")
        )
    except OSError:
        return ""
