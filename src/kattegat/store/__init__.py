"""Our PostgreSQL: the embedded server or a given one, connections and roles, tables and migrations."""
