#!/bin/sh
# The service's role and database. Not the superuser's: row-level security does not hold for one.
set -eu
psql --username postgres --set ON_ERROR_STOP=1 --set password="$POSTGRES_PASSWORD" <<'SQL'
CREATE ROLE chatapi LOGIN PASSWORD :'password';
CREATE DATABASE chatapi OWNER chatapi;
SQL
