"""`guie browse`: embedded images as pages of a local web server, by Flask and waitress."""
