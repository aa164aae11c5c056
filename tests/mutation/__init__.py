"""Do the tests notice a changed decision? Cosmic Ray's mutants of the decision core, each run in a fork."""
