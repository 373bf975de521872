"""The steps of both proofs in SymPy."""
