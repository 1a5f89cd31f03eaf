"""Files and folders that are passed over without a word: hidden ones, and those of systems."""

# What operating systems and storage put beside the user's files, by the lists in GitHub's
# gitignore templates for macOS, Windows, Linux, Synology and QNAP. Hidden names need no entry.
_SYSTEM_NAMES = frozenset(
    {
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin"),
        *("system volume information", "found.000", "msocache"),
        *("lost+found", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *("@tmp", "__pycache__"),
    }
)


def is_ignored(name: str) -> bool:
    """Tell whether a name is hidden, or one that systems give."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES
