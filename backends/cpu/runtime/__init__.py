"""Programs and plans, the team of threads, measured tilings."""
