"""UDON's online teachers: a head and a classifier a source, trained beside the student, and what follows from them."""
