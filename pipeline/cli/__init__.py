"""The `pipeline` command: arguments, progress, messages, exit codes."""
