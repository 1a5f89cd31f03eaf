"""What users read: the README and its pages, in the order in which commands are run."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = ("judging", "networks", "fine-tuning", "handing-on", "page", "python", "cache")
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in NAMES)]
GUIDE = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
