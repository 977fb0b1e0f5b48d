"""Other people's training loops and data pipelines, as benchmarks run them beside ours."""
