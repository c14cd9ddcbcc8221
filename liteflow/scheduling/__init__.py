"""The scheduling core: pure decisions about one run. No clock, no database, no process."""
