"""Generated loop nests: their structure, formulas and text."""
