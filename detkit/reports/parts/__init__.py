"""What a page consists of: HTML, charts, pictures, facts of the data."""
