"""What is measured, against what; `make bench` runs it all and writes RESULTS.md."""
