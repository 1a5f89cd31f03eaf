"""Stage two: rows and labels to heads, chosen and judged, to a run."""
