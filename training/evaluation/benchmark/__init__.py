"""Public benchmarks by one command: `python -m training.evaluation.benchmark NAME --model ... --data DIR`."""
