"""What augmentation and fine-tuning bring in accuracy, and what they cost: hours, seed by seed.

Every row of the table is a command of the README. What was measured is kept in accuracy.jsonl, a
line for each command and seed, and only what is not there is run: delete it to measure all again.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scipy import stats

from benchmarks.commands import run_command

TITLE = "Augmentation and fine-tuning: accuracy and cost"
RECORDS = Path(__file__).parent / "accuracy.jsonl"
CACHE = os.environ.get("PIPELINE_ACCURACY_CACHE", "cache")
FEW = 3
"""Seeds of a row that has no more."""


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    label: str
    command: str
    seeds: int = FEW


CACHED = "classify demo --head logistic --head dense"
TUNED = (
    "finetune demo --phase finetune --pool average --dropout 0.5 --optimizer adam "
    "--learning-rate 4e-5 --augmentation mild"
)
FALLING = TUNED.replace("--learning-rate 4e-5", "--learning-rate 8e-5 --schedule cosine")
EQUAL = "--epochs 8 --patience 8"
LITE0 = FALLING.replace("8e-5", "3e-4") + " --backbone efficientnet-lite0 --views 4 --tta --final"
ONE_VIEW = TUNED.replace(" --augmentation mild", "")
SETTINGS = (
    Setting(
        "fine-tuned from the cache, 8 views, 20 epochs on 75 % (`--final`), averaged over views",
        f"{TUNED} --views 8 --tta --epochs 20 --final",
    ),
    Setting(
        "the same, the learning rate falling from 8e-5 along a cosine",
        f"{FALLING} --views 8 --tta --epochs 20 --final",
        seeds=8,
    ),
    Setting(
        "the same at 300 pixels, 4 views, 12 epochs",
        f"{FALLING} --size 300 --views 4 --tta --epochs 12 --final",
        seeds=8,
    ),
    Setting(
        "the same with EfficientNet-Lite0 at 224 pixels, 4 views, 10 epochs, from 3e-4",
        f"{LITE0} --epochs 10",
    ),
    Setting(
        "with the constant rate, at 300 pixels, 4 views, 8 epochs",
        f"{TUNED} --size 300 --views 4 --tta --epochs 8 --final",
    ),
    Setting("fine-tuned end to end, 8 epochs", f"{TUNED} --from images {EQUAL}", seeds=1),
    Setting("fine-tuned from the cache, 8 views, 8 epochs", f"{TUNED} --views 8 {EQUAL}"),
    Setting("fine-tuned from the cache, 1 view, 8 epochs", f"{ONE_VIEW} {EQUAL}"),
    Setting("fine-tuned from the cache, 4 views, 8 epochs", f"{TUNED} --views 4 {EQUAL}"),
    Setting(
        "frozen base end to end, 8 epochs",
        "finetune demo --phase frozen --from images --augmentation mild "
        "--frozen-epochs 8 --patience 8",
        seeds=1,
    ),
    Setting("cached, 1 view", "classify demo --head logistic --head dense --head rbf-svm", seeds=8),
    Setting(
        "cached, 1 view at 300 pixels, averaged over places",
        "classify demo --head logistic --head rbf-svm --size 300 --pool average",
    ),
    *(
        Setting(f"cached, {views} views", f"{CACHED} --views {views} --augmentation mild")
        for views in (2, 4, 8)
    ),
    Setting(
        "cached, 8 views, averaged over views", f"{CACHED} --views 8 --augmentation mild --tta"
    ),
    Setting("cached, 4 views of preset textbook", f"{CACHED} --views 4 --augmentation textbook"),
    Setting("cached, 16 views", f"{CACHED} --views 16 --augmentation mild"),
)


def measure() -> str:
    """Run what has not been run, and put all into one table."""
    records = read()
    for setting in SETTINGS:
        for seed in range(setting.seeds):
            if not any((one["command"], one["seed"]) == (setting.command, seed) for one in records):
                print(f"  {setting.label}, seed {seed} ...", file=sys.stderr)
                records += run(setting, seed)
    lines = [
        "The demo at 150 x 150 pixels, unless another size is named, in bfloat16. Test accuracy: mean",
        "over the seeds, each with splits of its own, and 95 % interval of that mean (Student's t); in",
        f"brackets the mean of the first {FEW} seeds, to compare with settings that have no more.",
        "Views are of the preset mild, unless another is named. CPU-minutes are of one seed, without rows that",
        "were stored before; computing a row takes 1/30 CPU-second at 150 pixels. The commands are",
        "in benchmarks/accuracy.py; settings without a line here have not been measured yet.",
        "",
        "| | head | accuracy on test | seeds | CPU-minutes |",
        "|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        found = [one for one in records if one["command"] == setting.command]
        lines += [
            row(setting, head, [one for one in found if one["head"] == head])
            for head in dict.fromkeys(one["head"] for one in found)
        ]
    return "\n".join(lines)


def read() -> list[dict]:
    """Return what was measured so far."""
    if not RECORDS.exists():
        return []
    return [json.loads(line) for line in RECORDS.read_text().splitlines()]


def run(setting: Setting, seed: int) -> list[dict]:
    """Run a command for one seed, and keep what came of it."""
    with tempfile.TemporaryDirectory() as runs:
        where = ["--seed", str(seed), "--cache", CACHE, "--runs", runs, "--json"]
        cpu, _, printed = run_command(*setting.command.split(), *where)
    records = [
        {
            "command": setting.command,
            "seed": seed,
            "head": head["head"],
            "accuracy": head["test"]["accuracy"],
            "log_loss": head["test"]["log_loss"],
            "cpu_minutes": round(cpu / 60, 2),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
        for head in json.loads(printed)["heads"]
    ]
    with RECORDS.open("a") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)
    return records


def with_interval(values: Sequence[float], digits: int = 3) -> str:
    """Write a mean, with its 95 % interval (Student's t) where there are more than two values."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) <= 2:
        return mean
    reach = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {reach:.{digits}f}"


def row(setting: Setting, head: str, records: list[dict]) -> str:
    """Summarise a setting's seeds."""
    values = [one["accuracy"] for one in sorted(records, key=lambda one: one["seed"])]
    accuracy = with_interval(values)
    if len(values) > FEW:
        accuracy += f" ({statistics.mean(values[:FEW]):.3f})"
    minutes = statistics.median(one["cpu_minutes"] for one in records)
    return f"| {setting.label} | {head} | {accuracy} | {len(values)} | {minutes:.1f} |"
