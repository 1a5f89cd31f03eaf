"""Fine-tuning from cached rows against the whole network on every step."""

from __future__ import annotations

import statistics

from benchmarks.race import race
from benchmarks.tuning import FROZEN_EPOCHS

TITLE = "Fine-tuning: from cached rows, and end to end"
IMAGES = 600
FROZEN_IMAGES = 240
ROUNDS = 3

LABELS = {
    "keras-no-xla": "Keras end to end: `fit`, ImageDataGenerator, float32, `jit_compile=False`",
    "keras": 'the same as Keras does it by default (`jit_compile="auto"`)',
    "images-float32": "`pipeline finetune --from images --precision float32`",
    "images-bfloat16": "`pipeline finetune --from images --precision bfloat16`",
    "cache-float32": "`pipeline finetune --from cache --precision float32`",
    "cache-bfloat16": "`pipeline finetune --from cache --precision bfloat16`",
}


def measure() -> str:
    """Run epochs of all contenders in turn; then training on a frozen base, 30 epochs of it."""
    wall, cpu = race({name: ["benchmarks.tuning", name, str(IMAGES)] for name in LABELS}, ROUNDS)
    base = min(("keras", "keras-no-xla"), key=lambda name: statistics.median(cpu[name]))
    lines = [
        f"Epochs of {IMAGES} training and {IMAGES // 4} validation photographs of the demo at 150 x 150",
        f"pixels, batch 20, block5 and the dense head trained; {ROUNDS} rounds in turn, medians. Ratios",
        "are to the faster of the two Keras rows by CPU time: above 1 is faster.",
        "",
        "| | s an epoch | ratio | CPU-s an epoch | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, label in LABELS.items():
        one, other = statistics.median(wall[name]), statistics.median(cpu[name])
        lines.append(
            f"| {label} | {one:.1f} | {statistics.median(wall[base]) / one:.2f} "
            f"| {other:.1f} | {statistics.median(cpu[base]) / other:.2f} |"
        )
    return "\n".join([*lines, "", *frozen()])


def frozen() -> list[str]:
    """Compare training on a frozen base with augmentation."""
    names = ("keras-frozen", "keras-frozen-no-xla")
    wall, cpu = race({name: ["benchmarks.tuning", name, str(FROZEN_IMAGES)] for name in names}, 2)
    base = min(names, key=lambda name: statistics.median(cpu[name]))
    lines = [
        f"A head on the frozen base with augmentation, {FROZEN_EPOCHS} epochs of {FROZEN_IMAGES} photographs. Keras",
        f"(`fit`, ImageDataGenerator, float32, the faster of the two settings): {FROZEN_EPOCHS} times the",
        "median epoch. Ours: eight views of each training image made once, then all epochs on them.",
        "",
        "| | s | CPU-s | ratio | another experiment, CPU-s | ratio |",
        "|---|---|---|---|---|---|",
    ]
    whole = [FROZEN_EPOCHS * statistics.median(times[base]) for times in (wall, cpu)]
    lines.append(
        f"| Keras end to end | {whole[0]:.0f} | {whole[1]:.0f} | 1.0 | {whole[1]:.0f} | 1 |"
    )
    for precision in ("float32", "bfloat16"):
        command = ["benchmarks.tuning", f"frozen-{precision}", str(FROZEN_IMAGES)]
        # The first answer is for making the views, the second for the epochs.
        wall, cpu = race({precision: command}, 2, warming=0)
        ours, again = sum(cpu[precision]), cpu[precision][1]
        lines.append(
            f"| `pipeline finetune --phase frozen --views 8 --precision {precision}` "
            f"| {sum(wall[precision]):.0f} | {ours:.0f} | {whole[1] / ours:.1f} "
            f"| {again:.1f} | {whole[1] / again:.0f} |"
        )
    return lines
