"""Side-by-side benchmarks: the same work, done by this library and by a peer, in alternating runs."""
