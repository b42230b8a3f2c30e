"""Networks: images or texts → features, with their weights from any source."""
