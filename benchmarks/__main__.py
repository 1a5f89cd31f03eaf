"""Run benchmarks by name, or all of them, and put their results into RESULTS.md and the README."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import inspect
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
BENCHMARKS = (
    "demo",
    "extraction",
    "photos",
    "finetuning",
    "heads",
    "networks",
    "sizes",
    "export",
    "first_answer",
    "problems",
    "labelling",
    "page",
    "accuracy",
    "scale",
    "million",
    "streaming",
    "cluster",
)
LONG = {"accuracy"}  # hours: measured when it is named
PACKAGES = (
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "numpy",
    "scikit-learn",
    "h5py",
    "distributed",
    "pillow",
    "openvino",
    "onnxruntime",
)


def main() -> None:
    """Measure, and write each section anew; sections that were not asked for stay."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--cliparts", help="networks, sizes, export: the pictures of Debian's openclipart-png"
    )
    parser.add_argument(
        "--cache", help="networks, labelling: a cache to reuse; else one is made anew"
    )
    given = vars(parser.parse_args())
    for name in given["names"] or [name for name in BENCHMARKS if name not in LONG]:
        print(f"benchmark {name} ...", file=sys.stderr)
        module = importlib.import_module(f"benchmarks.{name}")
        options = {name: given[name] for name in inspect.signature(module.measure).parameters}
        found = module.measure(**options).strip()
        section = f"## {module.TITLE}\n\n{found}\n\n{machine()}\n"
        write({**read_sections(), name: section})  # another benchmark may have ended meanwhile


def read_sections() -> dict[str, str]:
    """Return the sections of RESULTS.md by the benchmark's name."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    found = re.findall(r"<!-- (\w+) -->\n(.*?)<!-- end of \1 -->\n", text, re.DOTALL)
    return dict(found)


def write(sections: dict[str, str]) -> None:
    """Write RESULTS.md, and the README's figures, which are the section `demo`."""
    ordered = [(name, sections[name]) for name in BENCHMARKS if name in sections]
    body = "\n".join(f"<!-- {name} -->\n{text}<!-- end of {name} -->\n" for name, text in ordered)
    RESULTS.write_text(f"# Results\n\n`make bench` measures all of this again.\n\n{body}")
    readme = ROOT / "README.md"
    figures = sections["demo"].split("\n", 2)[2].strip()
    readme.write_text(
        re.sub(
            r"(<!-- figures -->\n).*(<!-- end of figures -->)",
            lambda match: f"{match[1]}{figures}\n{match[2]}",
            readme.read_text(),
            flags=re.DOTALL,
        )
    )


def machine() -> str:
    """Say when and on what this was measured."""
    model = platform.processor() or platform.machine()
    flags: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        model = re.search(r"model name\s*: (.*)", text)[1]
        flags = set(re.search(r"flags\s*: (.*)", text)[1].split())
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni") if unit in flags]
    installed = {
        dist.metadata["Name"].lower().replace("_", "-")
        for dist in importlib.metadata.distributions()
    }
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if name in installed
    )
    return (
        f"*{datetime.now(UTC):%Y-%m-%d}, {model} ({', '.join(units)}), {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}.*"
    )


if __name__ == "__main__":
    main()
