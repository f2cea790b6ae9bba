"""The built-in plugins: one module or package per subject, found by the registry."""
