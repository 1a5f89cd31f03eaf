"""Stage one against the textbook's way, two other engines, and its own network alone."""

from __future__ import annotations

import statistics

from benchmarks.race import race_files
from pipeline.data.demo import demo_images

TITLE = "Stage one: from image files to stored features"
IMAGES = 256
ROUNDS = 5

LABELS = {
    "recipe": "the textbook: Keras loading, `predict` per batch of 20, NumPy",
    "float32": "`pipeline features --precision float32`",
    "bfloat16": "`pipeline features --precision bfloat16`",
    "int8": "`pipeline features --precision int8`, calibrated before",
    "forward-float32": "our network alone, float32, pixels in memory",
    "forward-bfloat16": "our network alone, bfloat16, pixels in memory",
    "openvino-float32": "OpenVINO float32, throughput hint",
    "openvino-bfloat16": "OpenVINO bfloat16, throughput hint",
    "onnxruntime": "ONNX Runtime float32",
}


def measure() -> str:
    """Run all contenders in turn, several rounds, and compare medians."""
    files = [path for path, _ in demo_images()[:: 2624 // IMAGES]][:IMAGES]
    wall, cpu = race_files(list(LABELS), files, ROUNDS)
    base_wall, base_cpu = (statistics.median(times["recipe"]) for times in (wall, cpu))
    lines = [
        f"{IMAGES} photographs of the demo, {ROUNDS} rounds of all contenders in turn, medians.",
        "Ratios are to the textbook in the same run: above 1 is faster. A shared machine at times gives",
        "a process one of its two cores; CPU time is less disturbed by that than wall time.",
        "",
        "| | images/s | ratio | images per CPU-second | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, label in LABELS.items():
        one, other = statistics.median(wall[name]), statistics.median(cpu[name])
        lines.append(
            f"| {label} | {IMAGES / one:.1f} | {base_wall / one:.2f} "
            f"| {IMAGES / other:.1f} | {base_cpu / other:.2f} |"
        )
    lines.append("")
    for precision in ("float32", "bfloat16"):
        shares = [
            statistics.median(
                alone / whole
                for alone, whole in zip(times[f"forward-{precision}"], times[precision])
            )
            for times in (wall, cpu)
        ]
        lines.append(
            f"Share of the network's own rate that the whole stage keeps in {precision}: "
            f"{shares[0]:.0%} of wall time, {shares[1]:.0%} of CPU time (median of the rounds).\n"
        )
    return "\n".join(lines)
