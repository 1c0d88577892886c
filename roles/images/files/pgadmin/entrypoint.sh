#!/bin/sh
# Starts pgAdmin the way the official image does. As root it first gives the
# data to PUID:PGID and goes on as that user; start.py does all the rest.
set -eu

if [ "$(id -u)" = 0 ]; then
    uid=${PUID:-5050}
    gid=${PGID:-0}
    case $uid$gid in
        *[!0-9]*)
            echo "PUID and PGID must be numbers; they are '$uid' and '$gid'" >&2
            exit 1
            ;;
    esac
    if [ "$uid" -eq 0 ]; then
        echo "PUID must not be 0: pgAdmin does not run as root" >&2
        exit 1
    fi
    chown -R "$uid:$gid" /run/pgadmin /var/lib/pgadmin
    chown "$uid:$gid" /pgadmin4/config_distro.py
    exec setpriv --reuid="$uid" --regid="$gid" --clear-groups -- "$0" "$@"
fi

cd /pgadmin4
exec /venv/bin/python3 start.py
