"""The drills of tests/soak: each module is one, besides `harness`, `clients`, `load` and `origins`."""
