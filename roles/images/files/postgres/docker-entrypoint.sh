#!/bin/bash
# Starts PostgreSQL the way the official postgres images do. With an empty
# PGDATA it makes a cluster first, from the POSTGRES_* variables and the files
# in /docker-entrypoint-initdb.d; with a cluster there, those do nothing.
# No -u: init scripts that are sourced may rely on unset variables being empty.
set -Eeo pipefail

socket_directory=/var/run/postgresql

note() {
    printf '%s: %s\n' "$0" "$*"
}

fail() {
    printf 'Error: %s\n' "$@" >&2
    exit 1
}

# from_file NAME [DEFAULT]: set NAME from NAME or from the file NAME_FILE names.
from_file() {
    local name=$1 default=${2-} file_name=${1}_FILE value
    if [ -n "${!name-}" ] && [ -n "${!file_name-}" ]; then
        fail "$name and $file_name are both set; only one of them may be"
    fi
    value=$default
    if [ -n "${!name-}" ]; then
        value=${!name}
    elif [ -n "${!file_name-}" ]; then
        [ -r "${!file_name}" ] || fail "$file_name names '${!file_name}', which cannot be read"
        value=$(< "${!file_name}")
    fi
    export "$name=$value"
    unset "$file_name"
}

# psql on the temporary server, as the cluster's owner.
ask() {
    PGHOST=$socket_directory PGHOSTADDR='' \
        psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username "$POSTGRES_USER" "$@"
}

# The same in the new database. Init scripts may call it: it is the name that
# the official image gives it.
docker_process_sql() {
    ask --dbname "$POSTGRES_DB" "$@"
}

# Directories that must be there and belong to the server's user.
prepare_directories() {
    local directory
    for directory in "$PGDATA" ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"}; do
        mkdir -p "$directory"
        # Not our files on some mounts; the server itself will say what is wrong.
        chmod 0700 "$directory" 2> /dev/null || :
        if [ "$(id -u)" = 0 ]; then
            find "$directory" ! -user postgres -exec chown postgres '{}' +
        fi
    done
    mkdir -p "$socket_directory" 2> /dev/null || :
    chmod 3775 "$socket_directory" 2> /dev/null || :
    if [ "$(id -u)" = 0 ]; then
        find "$socket_directory" ! -user postgres -exec chown postgres '{}' +
    fi
}

read_settings() {
    from_file POSTGRES_PASSWORD
    from_file POSTGRES_USER postgres
    from_file POSTGRES_DB "$POSTGRES_USER"
    from_file POSTGRES_INITDB_ARGS
}

check_settings() {
    case ${POSTGRES_HOST_AUTH_METHOD-} in
        trust)
            cat >&2 << 'END'
Warning: POSTGRES_HOST_AUTH_METHOD is "trust": whoever can reach the port may
         log in as any user, without a password.
END
            ;;
        *)
            if [ -z "$POSTGRES_PASSWORD" ]; then
                fail "there is no database yet, and no password for its superuser." \
                    "Set POSTGRES_PASSWORD, or POSTGRES_PASSWORD_FILE, to a password that is not empty." \
                    "POSTGRES_HOST_AUTH_METHOD=trust does without one, and lets everybody in."
            fi
            ;;
    esac
}

# From 18 on, PGDATA is a folder of its major in the volume. A cluster elsewhere
# in it, or a volume where older majors kept theirs, would be passed over, and
# an empty database would stand in its place.
check_other_places() {
    local parent=/var/lib/postgresql directory
    [ "$PGDATA" = "$parent/$PG_MAJOR/docker" ] || return 0
    for directory in "$parent" "$parent/data" "$parent"/*/docker; do
        if [ -s "$directory/PG_VERSION" ]; then
            fail "$PGDATA is empty, but there is a cluster of PostgreSQL $(< "$directory/PG_VERSION") in $directory." \
                "PostgreSQL $PG_MAJOR cannot read it: use the image of that major, and load a dump into a new volume."
        fi
    done
    if mountpoint -q "$parent/data"; then
        fail "a volume is mounted at $parent/data, where PostgreSQL $PG_MAJOR keeps nothing: its data are in $PGDATA." \
            "Mount it at $parent."
    fi
}

make_cluster() {
    local uid args=()
    uid=$(id -u)
    # initdb wants a name for its user, which `--user 1234` does not give.
    if ! getent passwd "$uid" > /dev/null; then
        local library
        for library in /usr/lib/*/libnss_wrapper.so; do
            [ -e "$library" ] || continue
            NSS_WRAPPER_PASSWD=$(mktemp)
            NSS_WRAPPER_GROUP=$(mktemp)
            printf 'postgres:x:%s:%s:PostgreSQL:%s:/bin/false\n' "$uid" "$(id -g)" "$PGDATA" > "$NSS_WRAPPER_PASSWD"
            printf 'postgres:x:%s:\n' "$(id -g)" > "$NSS_WRAPPER_GROUP"
            export LD_PRELOAD=$library NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
        done
    fi
    if [ -n "${POSTGRES_INITDB_WALDIR-}" ]; then
        args+=(--waldir "$POSTGRES_INITDB_WALDIR")
    fi
    # Quotes in POSTGRES_INITDB_ARGS have their meaning in the shell.
    local more=()
    eval "more=($POSTGRES_INITDB_ARGS)"
    # initdb takes an empty password file for a mistake.
    if [ -n "$POSTGRES_PASSWORD" ]; then
        initdb --username "$POSTGRES_USER" --pwfile <(printf '%s\n' "$POSTGRES_PASSWORD") \
            "${args[@]}" "${more[@]}" -D "$PGDATA"
    else
        initdb --username "$POSTGRES_USER" "${args[@]}" "${more[@]}" -D "$PGDATA"
    fi
    if [ -n "${NSS_WRAPPER_PASSWD-}" ]; then
        rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
        unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
    fi
}

# initdb lets the socket and loopback in; this is for every other host.
allow_hosts() {
    local method=${POSTGRES_HOST_AUTH_METHOD-}
    if [ -z "$method" ]; then
        method=$(postgres -C password_encryption -D "$PGDATA" "$@")
    fi
    printf '\n# Every other host.\nhost all all all %s\n' "$method" >> "$PGDATA/pg_hba.conf"
}

start_temporary_server() {
    local options
    printf -v options '%q ' "$@" -c "listen_addresses=" -c "unix_socket_directories=$socket_directory" -p "${PGPORT:-5432}"
    # NOTIFY_SOCKET would tell a supervisor that this server is the real one.
    NOTIFY_SOCKET='' pg_ctl -D "$PGDATA" -o "$options" -w start
}

stop_temporary_server() {
    pg_ctl -D "$PGDATA" -m fast -w stop
}

make_database() {
    local found
    found=$(ask --dbname postgres --tuples-only --no-align --set name="$POSTGRES_DB" \
        <<< "SELECT 1 FROM pg_database WHERE datname = :'name';")
    if [ -z "$found" ]; then
        ask --dbname postgres --set name="$POSTGRES_DB" <<< 'CREATE DATABASE :"name";'
    fi
}

run_init_files() {
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        [ -e "$file" ] || continue
        case $file in
            *.sh)
                if [ -x "$file" ]; then
                    note "running $file"
                    "$file"
                else
                    note "sourcing $file"
                    # shellcheck source=/dev/null
                    . "$file"
                fi
                ;;
            *.sql) note "running $file"; docker_process_sql -f "$file" ;;
            *.sql.gz) note "running $file"; gzip -dc "$file" | docker_process_sql ;;
            *.sql.xz) note "running $file"; xz -dc "$file" | docker_process_sql ;;
            *.sql.zst) note "running $file"; zstd -dc "$file" | docker_process_sql ;;
            *) note "ignoring $file" ;;
        esac
        echo
    done
}

# True if the arguments ask postgres for information only.
wants_information() {
    local argument
    for argument; do
        case $argument in
            -'?' | --help | --describe-config | -V | --version) return 0 ;;
        esac
    done
    return 1
}

main() {
    if [ "${1:0:1}" = - ]; then
        set -- postgres "$@"
    fi
    if [ "$1" != postgres ] || wants_information "${@:2}"; then
        exec "$@"
    fi

    # Secrets may be readable by root alone, so this comes before it steps down.
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        read_settings
        check_settings
        check_other_places
    fi
    prepare_directories
    if [ "$(id -u)" = 0 ]; then
        export HOME=/var/lib/postgresql
        exec setpriv --reuid=postgres --regid=postgres --init-groups -- "${BASH_SOURCE[0]}" "$@"
    fi
    shift

    if [ -s "$PGDATA/PG_VERSION" ]; then
        note "$PGDATA holds a cluster; POSTGRES_* and /docker-entrypoint-initdb.d are not looked at"
    else
        # Fails now, with a reason, if the files could not be listed later.
        ls /docker-entrypoint-initdb.d/ > /dev/null
        make_cluster
        allow_hosts "$@"
        export PGPASSWORD=${PGPASSWORD-$POSTGRES_PASSWORD}
        start_temporary_server "$@"
        make_database
        run_init_files
        stop_temporary_server
        unset PGPASSWORD
        note "the cluster is made; starting PostgreSQL"
    fi

    # A cluster made elsewhere may leave the socket where this server was
    # compiled to put it, which is not where the official server would.
    if [ "$(postgres -C unix_socket_directories -D "$PGDATA" "$@" 2> /dev/null)" = /tmp ]; then
        set -- -c "unix_socket_directories=$socket_directory" "$@"
    fi
    # No longer needed, and every server process could be asked for it.
    unset POSTGRES_PASSWORD
    exec postgres "$@"
}

# Sourced, it gives its functions only.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    main "$@"
fi
