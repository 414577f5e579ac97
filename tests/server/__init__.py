"""A test for each row of the table in README.md."""
