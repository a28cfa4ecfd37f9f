"""Programs and plans, the team of threads, the cache of object code, measured schedules."""
