"""The exercises of the notebooks, one module each: `n03.check("03.2", answer)`."""
