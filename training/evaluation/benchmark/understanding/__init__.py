"""Questions about pictures, captions, and questions of general knowledge."""

BENCHMARKS = ()
