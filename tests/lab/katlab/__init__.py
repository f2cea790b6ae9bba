"""Parts of the laboratory: a small internet in network namespaces, with real servers right and wrong on purpose."""
