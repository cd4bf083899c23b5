"""The held-out metric: found in what real scripts print and report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halftime.errors import UserError
from halftime.records import Run
from halftime.trials.metric import (
    Margin,
    Metric,
    direction_of,
    find_metric,
    parse_margin,
    value_of,
)
from tests.conftest import make_run


def printing(folder: Path, text: str, **more: object) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "stdout.txt").write_text(text)
    (folder / "stderr.txt").write_text("")
    return make_run(folder=str(folder), **more)


@pytest.mark.parametrize(
    ("name", "better"),
    [("val_accuracy", "higher"), ("valacc", "higher"), ("BinaryAUROC", "higher"),
     ("mAP", "higher"), ("f1_score", "higher"), ("val_mape", "lower"), ("heatmap_loss", "lower"),
     ("map_50", "higher"), ("score_loss", "lower"), ("Test MAPE", "lower"), ("recall", "higher"),
     ("val_miou", "higher"), ("top1acc", "higher"), ("mAP50", "higher"), ("bleu4", "higher"),
     ("nrmse", "lower"), ("answer", ""), ("f1macro", "higher"), ("rocauc", "higher"),
     ("binary_crossentropy", "lower"), ("steps", ""), ("r2", "higher"), ("val_mae", "lower")],
)  # fmt: skip
def test_name_of_a_metric_says_what_is_better(name: str, better: str) -> None:
    assert direction_of(name) == better


def test_loss_of_all_outputs_stands_for_a_model_of_several() -> None:
    logged = tuple((name, 0.5) for name in ("loss", "a_loss", "val_loss", "val_a_loss"))
    metric = find_metric([make_run(reported_metrics=logged)], None)
    assert metric is not None
    assert (metric.name, metric.higher_is_better) == ("val_loss", False)


@pytest.mark.parametrize(
    ("line", "value", "higher"),
    [
        ("epoch 5: loss 0.03, test accuracy 4901/5000", 0.9802, True),
        ("Test set: Average loss: 0.0265, Accuracy: 9911/10000 (99%)", 0.9911, True),
        ("step 250: train loss 1.91, val loss 2.0134", 2.0134, False),
        ("Validation accuracy = 93.25%", 0.9325, True),
        ("eval_loss: 1.25e-1", 0.125, False),
    ],
)
def test_printed_metric_is_read(tmp_path: Path, line: str, value: float, higher: bool) -> None:
    run = printing(tmp_path / "a", f"starting\n{line}\n")
    metric = find_metric([run], None)
    assert metric is not None
    assert metric.higher_is_better is higher
    assert value_of(metric, run) == pytest.approx(value)


def test_training_loss_is_no_held_out_metric(tmp_path: Path) -> None:
    assert (
        find_metric([printing(tmp_path / "a", "epoch 1: loss 0.5, accuracy 0.9\n")], None) is None
    )


def test_fraction_is_preferred_to_its_rounded_percentage(tmp_path: Path) -> None:
    run = printing(tmp_path / "a", "Test Accuracy: 9911/10000 (99%)\n")
    metric = find_metric([run], None)
    assert metric is not None
    assert metric.resolution == pytest.approx(1e-4)


def test_last_value_of_a_run_counts(tmp_path: Path) -> None:
    run = printing(tmp_path / "a", "test accuracy 10/100\ntest accuracy 90/100\n")
    metric = find_metric([run], None)
    assert metric is not None
    assert value_of(metric, run) == pytest.approx(0.9)


def test_metric_function_comes_before_the_output(tmp_path: Path) -> None:
    run = printing(
        tmp_path / "a", "test accuracy 9/10\n", reported_metrics=(("accuracy_score", 0.7),)
    )
    metric = find_metric([run], None)
    assert metric is not None
    assert value_of(metric, run) == 0.7


def test_mean_evaluation_loss_serves_where_nothing_is_printed_as_a_fraction(tmp_path: Path) -> None:
    run = printing(tmp_path / "a", "", evaluation_losses=(0.9, 0.4))
    metric = find_metric([run], None)
    assert metric is not None
    assert not metric.higher_is_better
    assert value_of(metric, run) == 0.4


def test_asked_pattern_wins_and_its_last_match_counts(tmp_path: Path) -> None:
    run = printing(tmp_path / "a", "BLEU@4 12.5\nBLEU@4 13.5\nx 0.5\ntest accuracy 9/10\n")
    metric = find_metric([run], r"bleu=BLEU@4 ([\d.]+):max")
    assert metric is not None
    assert value_of(metric, run) == 13.5
    assert find_metric([run], r"loss=x ([\d.]+):min").higher_is_better is False  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["accuracy", "a=(", "a=no group", "=x (1)"])
def test_pattern_that_cannot_work_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="--metric"):
        find_metric([make_run()], text)


def test_margin_is_points_of_a_share_or_relative(tmp_path: Path) -> None:
    run = printing(tmp_path / "a", "test accuracy 9/10\n")
    metric = find_metric([run], None)
    assert metric is not None
    assert parse_margin("0.5pp") == Margin(value=0.005, unit="pp")
    assert parse_margin("2%").absolute(metric, [0.5]) == pytest.approx(0.01)
    assert parse_margin(None).absolute(metric, [0.9]) == 0.005
    with pytest.raises(UserError, match="expected points"):
        parse_margin("half a point")


def test_metric_that_was_asked_for_is_read_as_it_is_printed(tmp_path: Path) -> None:
    run = printing(tmp_path / "a", "top1 97.66%\n")
    metric = find_metric([run], r"top1=top1 ([\d.%]+)")
    assert metric is not None
    assert metric.is_share
    assert value_of(metric, run) == pytest.approx(0.9766)
    assert metric.resolution == pytest.approx(0.0001)
    with pytest.raises(UserError, match="finds no number"):
        find_metric([run], r"top1=(top1)")


def test_grain_of_a_share_of_few_samples_is_seen(tmp_path: Path) -> None:
    def metric_of(*values: float) -> Metric:
        reported = tuple(("accuracy_score", value) for value in values)
        found = find_metric([printing(tmp_path / "a", "", reported_metrics=reported)], None)
        assert found is not None
        return found

    single = float(np.float32(187 / 200))
    assert metric_of(181 / 200, single, 193 / 200).resolution == 1 / 200
    assert metric_of(0.91437, 0.92001, 0.93333).resolution == 0.0  # of ten thousands
