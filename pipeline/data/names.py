"""Names of classes and groups: which are one name, and which only look alike."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator

UNCLEAR = frozenset({"NA", "None"})
"""What may be a missing value, or a name: North America, no defect."""

MISSING = UNCLEAR.union(
    {"nan", "-nan", "NaN", "NAN", "NaT", "NULL", "null", "N/A", "<NA>", "#N/A", "\\N"}
)
"""What programs write where a value is missing (pandas, R, SQL, spreadsheets)."""

_EXAMPLES = 3


def nfc(name: str) -> str:
    """Compose a name's characters: a letter with an accent is written in two ways in Unicode."""
    return unicodedata.normalize("NFC", name)


def remarks_on(kind: str, names: Iterable[str]) -> Iterator[str]:
    """Say which names are taken for one, which look alike and are not, and which look missing."""
    spelt = set(names)
    distinct = {nfc(name) for name in spelt}
    if len(distinct) < len(spelt):
        twice = [found[0] for found in _alike(spelt, nfc)]
        yield (
            f"{_listed(kind, map(nfc, twice))} written in two ways that look the same (Unicode NFC "
            "and NFD), which are taken for one."
        )
    for found in _alike(distinct, _look)[:_EXAMPLES]:
        yield (
            f"{_listed(kind, map(repr, found))} kept apart, and differ only in case, spaces or "
            "characters that cannot be seen: if they mean the same, give them one name."
        )
    if missing := sorted(distinct & MISSING):
        yield f"{_listed(kind, missing)} named like a missing value."


def _alike(names: Collection[str], look: Callable[[str], str]) -> list[list[str]]:
    """Group the names that look the same; those that are alone are left out."""
    groups = defaultdict(list)
    for name in sorted(names):
        groups[look(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _look(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if unicodedata.category(c) not in ("Cc", "Cf", "Zs"))


def _listed(kind: str, names: Iterable[str]) -> str:
    names = list(names)
    plural = {"class": "classes"}.get(kind, f"{kind}s") if len(names) > 1 else kind
    more = f" and {len(names) - _EXAMPLES:,} more" if len(names) > _EXAMPLES else ""
    return f"The {plural} {', '.join(names[:_EXAMPLES])}{more} {'are' if len(names) > 1 else 'is'}"
