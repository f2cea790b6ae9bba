#!/bin/sh
# Runs once, when the database is made (docker-entrypoint-initdb.d). Kattegat gets a login that owns its database and is
# a member of its three roles, and is no superuser; CREATEDB is for proving backups in a scratch database. The
# superuser has no password afterwards: it comes in through the socket inside the database's container only.
set -eu
password=$(cat "$POSTGRES_PASSWORD_FILE")
psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --dbname postgres \
    --set superuser="$POSTGRES_USER" --set password="$password" <<'SQL'
CREATE ROLE kat_owner NOLOGIN;
CREATE ROLE kat_app NOLOGIN;
CREATE ROLE kat_system NOLOGIN BYPASSRLS;
CREATE ROLE kattegat LOGIN CREATEDB PASSWORD :'password' IN ROLE kat_owner, kat_app, kat_system;
CREATE DATABASE kattegat OWNER kattegat ENCODING 'UTF8' TEMPLATE template0;
ALTER ROLE :"superuser" PASSWORD NULL;
SQL
