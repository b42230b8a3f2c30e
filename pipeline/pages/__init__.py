"""What people look at: HTML pages, charts, pictures."""
