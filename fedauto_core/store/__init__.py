"""What is kept on disk: published files, computed arrays and tables, and the keys under which they are found."""
